"""Every example in a docstring of the package runs, those of the compiled module too.

``pytest --doctest-modules`` would pass over them: it looks at Python functions, and at what says that it is of the
module it was found in.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import penstock
import pytest


def documented(owner: object, path: str) -> Iterator[tuple[str, str]]:
    """The name and the docstring of everything that the package defines in ``owner``."""
    for name, value in vars(owner).items():
        # What stands for a method or a property in a class has no docstring of its own; what it leads to has.
        found = getattr(owner, name, value)
        module = getattr(found, "__module__", None)
        if inspect.ismodule(found) or (module is not None and not module.startswith("penstock")):
            continue
        text = getattr(found, "__doc__", None)
        if (
            isinstance(text, str) and text != type(found).__doc__
        ):  # a type variable, say, shows that of its class
            yield f"{path}.{name}", text
        if inspect.isclass(found) and inspect.ismodule(owner):
            yield from documented(found, f"{path}.{name}")


def examples() -> dict[str, doctest.DocTest]:
    """The docstrings with examples, each once, under the shortest name it has."""
    modules = [penstock, *map(importlib.import_module, (found.name for found in MODULES))]
    texts = [(module.__name__, module.__doc__ or "") for module in modules]
    texts += [pair for module in modules for pair in documented(module, module.__name__)]
    names: dict[str, str] = {}
    for name, text in sorted(texts, key=lambda pair: (len(pair[0]), pair)):
        names.setdefault(text, name)
    parser = doctest.DocTestParser()
    parsed = {name: parser.get_doctest(text, {}, name, None, None) for text, name in names.items()}
    return {name: test for name, test in parsed.items() if test.examples}


MODULES = [
    found for found in pkgutil.iter_modules(penstock.__path__, "penstock.") if "__main__" not in found.name
]
EXAMPLES = examples()


def test_the_examples_of_compiled_functions_and_methods_are_found() -> None:
    assert {"penstock.go", "penstock.Channel.recv", "penstock.Topology.detect", "penstock.Group"} <= set(
        EXAMPLES
    )


@pytest.mark.thread_unsafe(reason="doctest puts its own file in the place of sys.stdout")
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_example_says_what_happens(name: str) -> None:
    printed: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    test = EXAMPLES[name]
    test.globs = {}
    failed, tried = runner.run(test, out=printed.append)
    assert tried == len(test.examples)
    assert not failed, "".join(printed)
