"""Which room may import which: the table of the house.

A room is a folder of the package. Beside what the table says, every room may import `exceptions`,
`remembering` and `version`. Two modules are leaves that rooms below their own may use:

- `providers.table` is data that imports nothing: settings, credentials and keys are read by it.
- `redact.controls` imports nothing either: `exceptions` shows what a client sent with it.

`config` stands below `providers`, whose backends are made of settings. `proxy` imports
`config.settings` and `redact` besides, both of which stand below all that it imports. `http` is
imported by whoever speaks it: `web` for the names that a header may have, `providers` for URLs.
`server` knows what it serves by `web.extension`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "llmauth"

MAY_IMPORT = {
    "http": set(),
    "redact": {"providers.table"},
    "echo": set(),
    "exceptions": {"redact.controls"},
    "config": {"redact", "providers.table"},
    "auth": {"config", "redact", "providers.table"},
    "accounts": {"auth", "config", "http", "providers.table", "redact"},
    "providers": {"config", "redact", "http"},
    "capture": {"redact", "http"},
    "proxy": {"accounts", "auth", "capture", "config", "echo", "http", "providers", "redact"},
    "web": {"accounts", "auth", "capture", "config", "http", "providers", "proxy", "redact"},
    "server": {"auth", "http", "proxy", "web"},
    "cli": {"accounts", "auth", "capture", "config", "echo", "http", "providers", "proxy"}
    | {"redact", "server", "web"},
    "__init__": {"config", "web"},
    "__main__": {"cli"},
    "remembering": set(),
    "version": set(),
}
ALL_MAY_IMPORT = {"exceptions", "remembering", "version"}

ONLY_IN = {"flask": {"web", "cli"}, "waitress": {"server"}}


def own_name(path: Path) -> str:
    """Return a module's name below the package, of a folder its own."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


FILES = {own_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> tuple[set[str], set[str]]:
    """Return what a module imports: own modules, by their name in the package, and others."""
    path = FILES[module]
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].relative_to(PACKAGE).parts
            names = [node.module] if node.module else [alias.name for alias in node.names]
            own |= {".".join([*folder, name]) for name in names}
        elif isinstance(node, ast.ImportFrom):
            others.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
    return own, others


def room_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", FILES)
def test_imports_between_rooms_go_as_the_table_says(module):
    room = room_of(module)
    allowed = MAY_IMPORT[room] | ALL_MAY_IMPORT | {room}
    own, others = imports(module)
    wrong = {name for name in own if room_of(name) not in allowed and name not in allowed}
    wrong |= {name for name in others if room not in ONLY_IN.get(name, {room})}
    assert not wrong


def test_every_room_says_what_happens_in_it():
    rooms = [path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    assert {path.name for path in rooms} <= set(MAY_IMPORT)
    for path in rooms:
        assert ast.get_docstring(ast.parse((path / "__init__.py").read_text(encoding="utf-8")))
