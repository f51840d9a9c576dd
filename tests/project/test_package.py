"""What is in the wheel and in the sdist: everything that belongs there, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from llmauth.version import __version__

ROOT = Path(__file__).resolve().parents[2]
CACHES = ("__pycache__", "node_modules", "*.pyc", "*.egg-info", ".hypothesis", ".pytest_cache")
FOLDERS = (".ci", "benchmarks", "docs", "examples", "llmauth", "tests")
FILES = (
    ".dockerignore", ".ruff.toml", "CHANGELOG.md", "Dockerfile", "LICENSE", "MANIFEST.in",
    "README.md", "SECURITY.md", "app.py", "compose.yaml", "setup.cfg", "setup.py", "wsgi.py",
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what belongs to the project: building leaves files beside it."""
    folder = tmp_path_factory.mktemp("source") / "llmauth"
    folder.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*CACHES))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> dict[str, Path]:
    """The two files, by their suffix."""
    given = {path.relative_to(source) for path in source.rglob("*")}
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output)]
    done = subprocess.run(
        command, cwd=source, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.relative_to(source) for path in source.rglob("*")} - given
    assert {path.parts[0] for path in made} <= {"build", "llmauth.egg-info"}
    for name in ("build", "llmauth.egg-info"):
        shutil.rmtree(source / name, ignore_errors=True)
    return {path.suffix: path for path in output.iterdir()}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()}


def test_the_wheel_holds_the_package_and_nothing_else(source, built):
    wheel = built[".whl"]
    assert wheel.name == f"llmauth-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in archive.namelist()}
    assert names == {f"llmauth/{name}" for name in files(source / "llmauth")}
    assert "llmauth/web/documents/dashboard.js" in names
    assert "entry_points.txt" in metadata
    assert any(name.endswith("LICENSE") for name in metadata)


def test_the_sdist_holds_all_that_its_tests_need(source, built):
    with tarfile.open(built[".gz"]) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    names = {name for name in names if not name.startswith("llmauth.egg-info/")}
    assert names - {"PKG-INFO"} == files(source)


def test_the_index_takes_them(built):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
