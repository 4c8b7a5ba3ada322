"""Runs the Python programs of the Markdown pages; `tests/test_docstrings.py` runs those of the package."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
