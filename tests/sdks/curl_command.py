"""curl."""

import json
import subprocess

from driver import FILE, QUESTION, drive
from openai_sync import IMAGE, MESSAGES, MODEL, TOOLS


class Failed(Exception):
    """What a shell sees of it: the status of HTTP, or curl's own."""

    def __init__(self, name, message):
        super().__init__(message)
        self.name = name


def _curl(order, path, *arguments):
    """Run curl as in the README; it prints the body, errors included, and the status last."""
    headers = dict(order["headers"])
    if order["key"] is not None:
        headers["Authorization"] = f"Bearer {order['key']}"
    command = ["curl", "-sS", "-N", order["base"] + "/v1" + path, "-w", "\n%{http_code}"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    body, _, status = done.stdout.rpartition("\n")
    if done.returncode:
        raise Failed(f"exit {done.returncode}", f"{done.stderr} {body}")
    if status != "200":
        raise Failed(f"HTTP {status}", body)
    return body


def _ask(order, **more):
    body = json.dumps({"model": MODEL, "messages": MESSAGES} | more)
    return _curl(
        order, "/chat/completions", "-H", "Content-Type: application/json", "-d", body
    )


def _message(text):
    return json.loads(text)["choices"][0]["message"]


def chat(order):
    return _message(_ask(order))["content"]


def stream(order):
    lines = [line.removeprefix("data: ") for line in _ask(order, stream=True).split("\n\n")]
    chunks = [json.loads(line) for line in lines if line.startswith("{")]
    said = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    return "|".join(filter(None, said))


def tool(order):
    (call,) = _message(_ask(order, tools=TOOLS))["tool_calls"]
    return f"{call['function']['name']} {call['function']['arguments']}"


def image(order):
    content = [{"type": "text", "text": QUESTION}, IMAGE]
    return _message(_ask(order, messages=[{"role": "user", "content": content}]))["content"]


def models(order):
    return " ".join(model["id"] for model in json.loads(_curl(order, "/models"))["data"])


def file(order):
    form = ["-F", "purpose=user_data", "-F", f"file={FILE.decode()};filename=a.txt"]
    return json.loads(_curl(order, "/files", *form))["filename"]


if __name__ == "__main__":
    drive({f.__name__: f for f in (chat, stream, tool, image, models, file)})
