"""Looks up the installed packages that llmauth needs at run time in PyPI's list of known defects.

Fails on a known defect, and not when the list cannot be reached: then it says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import requires, version
from pathlib import Path


def needed(name: str, found: dict[str, str]) -> dict[str, str]:
    """Return the versions of a package's requirements, and of theirs."""
    for line in requires(name) or []:
        requirement = re.match(r"[A-Za-z0-9._-]+", line)
        if requirement and "extra ==" not in line and requirement[0] not in found:
            try:
                found[requirement[0]] = version(requirement[0])
            except ModuleNotFoundError:  # for another platform or an older Python
                continue
            needed(requirement[0], found)
    return found


def main() -> int:
    packages = needed("llmauth", {})
    with tempfile.TemporaryDirectory() as name:
        pinned, report = Path(name) / "pinned.txt", Path(name) / "report.json"
        pinned.write_text("".join(f"{key}=={value}\n" for key, value in packages.items()))
        command = [sys.executable, "-m", "pip_audit", "-s", "pypi", "--no-deps", "--disable-pip"]
        command += ["-r", str(pinned), "-f", "json", "-o", str(report), "--timeout", "15"]
        result = subprocess.run(command, capture_output=True, text=True)
        try:
            entries = json.loads(report.read_text())["dependencies"]
        except (OSError, ValueError):
            print(f"pip-audit: nothing was audited: {result.stderr.strip().splitlines()[-1:]}")
            return 0
    audited = [entry for entry in entries if "vulns" in entry]
    bad = [entry for entry in audited if entry["vulns"]]
    print(f"pip-audit: {len(audited)} of {len(packages)} packages audited, {len(bad)} with defects")
    for entry in bad:
        print(entry["name"], entry["version"], *(defect["id"] for defect in entry["vulns"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
