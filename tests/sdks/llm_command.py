"""The llm command line tool."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from driver import PIXEL, QUESTION, drive

LLM = str(Path(sys.executable).with_name("llm"))
HOME = tempfile.TemporaryDirectory()


class Failed(Exception):
    """What a shell sees of it."""

    def __init__(self, name, message):
        super().__init__(message)
        self.name = name


def _llm(order, *arguments):
    """Run llm with a model of one's own, as its documentation describes."""
    model = {
        "model_id": "mine",
        "model_name": "echo-1",
        "api_base": order["base"] + "/v1",
        "headers": order["headers"],
        "vision": True,
        "supports_tools": True,
    }
    if order["key"] is not None:
        model["api_key_name"] = "proxy"
    # YAML is a superset of JSON.
    Path(HOME.name, "extra-openai-models.yaml").write_text(json.dumps([model]))
    key = [] if order["key"] is None else ["--key", order["key"]]
    command = [LLM, "-m", "mine", "--no-log", *key, *arguments, QUESTION]
    environ = os.environ | {"LLM_USER_PATH": HOME.name}
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"exit {done.returncode}", done.stderr)
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).strip()


def chat(order):
    return _llm(order, "--no-stream")


def stream(order):
    return _llm(order)


def tool(order):
    """The tool is run by llm, and the echo answers with what it returned."""
    return _llm(order, "-T", "llm_version")


def image(order):
    picture = Path(HOME.name, "pixel.png")
    picture.write_bytes(base64.b64decode(PIXEL))
    return _llm(order, "--no-stream", "-a", str(picture))


if __name__ == "__main__":
    drive({f.__name__: f for f in (chat, stream, tool, image)})
