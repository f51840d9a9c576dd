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


def imported(module: str) -> set[str]:
    """Return what a module imports: own modules by their name, others by their package."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {f".{name}" for name in names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def test_no_module_imports_one_that_imports_it():
    graph = {m: {n[1:] for n in imported(m) if n.startswith(".")} for m in MODULES}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [m for m in MODULES if m not in WITH_FLASK])
def test_decisions_are_free_of_flask(module):
    assert "flask" not in imported(module)
    assert not {f".{name}" for name in WITH_FLASK} & imported(module)


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_short(module):
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
