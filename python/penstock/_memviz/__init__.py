"""What `penstock.memviz` is made of.

`snapshot` is the pool at one moment, as data; `document` its JSON. `page` lays the snapshot out, `tables` and
`spans` draw its parts, and `drawing` knows SVG and how wide a text is. `demo` is the program that the command
``penstock memviz`` maps. Nothing in here is imported before a map is asked for.
"""
