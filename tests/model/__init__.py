"""Stateful tests: each compares an object with a plain model of it."""
