"""Imports go one way; which rooms may import which says `test_rooms`."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "llmauth"
TESTS = Path(__file__).parents[1]


def own_name(path: Path) -> str:
    """Return a module's name below the package, of a folder its own."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {own_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """Return what a module imports: own modules with a dot before them, others by their package."""
    path = FILES[module]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].relative_to(PACKAGE).parts
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {"." + ".".join([*folder, name]) for name in names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


MODULES = list(FILES)


def test_no_module_imports_one_that_imports_it():
    graph = {m: {n[1:] for n in imported(m) if n.startswith(".")} for m in MODULES}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", sorted(TESTS.glob("*/test_*.py")), ids=lambda path: path.stem)
def test_what_tests_share_is_in_modules_of_its_own(path):
    """Whatever a test needs of another can be moved without it."""
    assert not re.search(r"^\s*(from|import) test_", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_tests_have_names_of_their_own():
    """Two modules of one name cannot be collected together."""
    names = [path.stem for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
