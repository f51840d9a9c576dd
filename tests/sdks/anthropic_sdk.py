"""anthropic for Python."""

from anthropic import Anthropic
from driver import FILE, PIXEL, QUESTION, SCHEMA, drive

ASK = {
    "model": "echo-1",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": QUESTION}],
}
TOOLS = [{"name": "weather", "input_schema": SCHEMA}]
SOURCE = {"type": "base64", "media_type": "image/png", "data": PIXEL}
IMAGE = {"type": "image", "source": SOURCE}


def _client(order):
    return Anthropic(
        base_url=order["base"], api_key=order["key"], default_headers=order["headers"]
    )


def chat(order):
    return _client(order).messages.create(**ASK).content[0].text


def stream(order):
    with _client(order).messages.stream(**ASK) as events:
        return "|".join(events.text_stream)


def tool(order):
    (block,) = _client(order).messages.create(**ASK, tools=TOOLS).content
    return f"{block.name} {block.input}".replace("'", '"')


def image(order):
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}, IMAGE]}]
    return _client(order).messages.create(**ASK | {"messages": messages}).content[0].text


def models(order):
    return " ".join(model.id for model in _client(order).models.list())


def file(order):
    return _client(order).beta.files.upload(file=("a.txt", FILE, "text/plain")).filename


if __name__ == "__main__":
    drive({f.__name__: f for f in (chat, stream, tool, image, models, file)})
