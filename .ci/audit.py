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
        package = re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line)[0]).lower()
        if "extra ==" not in line and package not in found:
            try:
                found[package] = version(package)
            except ModuleNotFoundError:  # for another platform or an older Python
                continue
            needed(package, found)
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
            entries = []
            print(*result.stderr.strip().splitlines()[-1:])
    audited = [entry for entry in entries if "vulns" in entry]
    bad = [entry for entry in audited if entry["vulns"]]
    unknown = sorted(set(packages) - {entry["name"] for entry in audited})
    if unknown:
        print("pip-audit: NO CLEAN BILL. The index tells nothing of the defects of:", *unknown)
    counts = f"{len(bad)} with defects of {len(audited)} audited, {len(unknown)} not audited"
    print(f"pip-audit: {counts}")
    for entry in bad:
        print(entry["name"], entry["version"], *(defect["id"] for defect in entry["vulns"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
