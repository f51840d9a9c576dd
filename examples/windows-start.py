"""Starts llmauth with the files beside this one; install-windows.ps1 has Windows run it at boot.

A scheduled task has no environment of its own and nobody who reads what a program prints.
"""

import os
import sys
from pathlib import Path

from llmauth.cli.commands import main

folder = Path(__file__).parent
os.environ["LLMAUTH_CONFIG"] = str(folder / "llmauth.yaml")
os.environ["LLM_INTERACTIVE_PROXY_API_KEY_FILE"] = str(folder / "keys.txt")
if (folder / "openai.txt").exists():
    os.environ["OPENAI_API_KEY_FILE"] = str(folder / "openai.txt")

said = (folder / "log" / "start.log").open("w", encoding="utf-8", buffering=1)
sys.stdout = sys.stderr = said
main(["serve"])
