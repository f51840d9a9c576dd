"""google-genai for Python."""

import base64
import io

from driver import FILE, PIXEL, QUESTION, SCHEMA, drive
from google import genai
from google.genai import types

MODEL = "echo-1"


def _client(order):
    options = types.HttpOptions(base_url=order["base"], headers=order["headers"])
    return genai.Client(api_key=order["key"], http_options=options)


def chat(order, contents=QUESTION):
    with _client(order) as client:
        return client.models.generate_content(model=MODEL, contents=contents).text


def stream(order):
    with _client(order) as client:
        chunks = client.models.generate_content_stream(model=MODEL, contents=QUESTION)
        return "|".join(chunk.text for chunk in chunks if chunk.text)


def tool(order):
    declared = types.FunctionDeclaration(name="weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    with _client(order) as client:
        reply = client.models.generate_content(model=MODEL, contents=QUESTION, config=config)
    (call,) = reply.function_calls
    return f"{call.name} {call.args}".replace("'", '"')


def image(order):
    part = types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")
    return chat(order, [QUESTION, part])


def models(order):
    with _client(order) as client:
        return " ".join(model.name.removeprefix("models/") for model in client.models.list())


def file(order):
    with _client(order) as client:
        config = types.UploadFileConfig(mime_type="text/plain", display_name="a.txt")
        return client.files.upload(file=io.BytesIO(FILE), config=config).display_name


if __name__ == "__main__":
    drive({f.__name__: f for f in (chat, stream, tool, image, models, file)})
