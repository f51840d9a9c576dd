"""openai for Python."""

from driver import FILE, PIXEL, QUESTION, SCHEMA, drive
from openai import OpenAI

MODEL = "echo-1"
MESSAGES = [{"role": "user", "content": QUESTION}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


def _client(order):
    url = order["base"] + "/v1"
    return OpenAI(base_url=url, api_key=order["key"], default_headers=order["headers"])


def chat(order, messages=MESSAGES):
    reply = _client(order).chat.completions.create(model=MODEL, messages=messages)
    return reply.choices[0].message.content


def stream(order):
    chunks = _client(order).chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    return "|".join(c.choices[0].delta.content for c in chunks if c.choices[0].delta.content)


def tool(order):
    reply = _client(order).chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    return f"{call.function.name} {call.function.arguments}"


def image(order):
    content = [{"type": "text", "text": QUESTION}, IMAGE]
    return chat(order, [{"role": "user", "content": content}])


def models(order):
    return " ".join(model.id for model in _client(order).models.list())


def file(order):
    uploaded = _client(order).files.create(file=("a.txt", FILE), purpose="user_data")
    return uploaded.filename


if __name__ == "__main__":
    drive({f.__name__: f for f in (chat, stream, tool, image, models, file)})
