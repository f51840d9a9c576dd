"""Imports go one way, and the decisions know nothing of Flask."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llmauth"
WITH_FLASK = {
    "access_log", "check", "cli", "console", "extension", "factory", "hosting", "pages", "proxy",
    "relay", "server", "__init__", "__main__",
}  # fmt: skip


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


@pytest.mark.parametrize("module", [m for m in MODULES if m not in WITH_FLASK])
def test_decisions_are_free_of_flask(module):
    assert "flask" not in imported(module)
    assert not {f".{name}" for name in WITH_FLASK} & imported(module)


