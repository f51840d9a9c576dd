"""The llm command line tool, each time in a copy of one process that has loaded it."""

import base64
import json
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path

import llm.cli
import openai
from driver import PIXEL, QUESTION, drive

assert llm.cli  # what takes long is in the process already,
openai.OpenAI(api_key="none").close()  # and what is loaded when it is used

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
    status, out, err = _run([LLM, "-m", "mine", "--no-log", *key, *arguments, QUESTION])
    if status:
        raise Failed(f"exit {status}", err)
    return re.sub(r"\x1b\[[0-9;]*m", "", out).strip()


def _run(command):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if not (pid := os.fork()):
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, descriptor in enumerate((nothing, out.fileno(), err.fileno())):
                os.dup2(descriptor, number)
            os.environ["LLM_USER_PATH"] = HOME.name
            HOME._finalizer.detach()  # it is not the copy's
            sys.argv = command
            runpy.run_path(LLM, run_name="__main__")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


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
