"""openai for Python, with asyncio."""

import asyncio

from driver import FILE, QUESTION, drive
from openai import AsyncOpenAI
from openai_sync import IMAGE, MESSAGES, MODEL, TOOLS


def _client(order):
    url = order["base"] + "/v1"
    return AsyncOpenAI(base_url=url, api_key=order["key"], default_headers=order["headers"])


async def chat(order, messages=MESSAGES):
    async with _client(order) as client:
        reply = await client.chat.completions.create(model=MODEL, messages=messages)
    return reply.choices[0].message.content


async def stream(order):
    async with _client(order) as client:
        create = client.chat.completions.create
        chunks = await create(model=MODEL, messages=MESSAGES, stream=True)
        said = [c.choices[0].delta.content async for c in chunks]
    return "|".join(filter(None, said))


async def tool(order):
    async with _client(order) as client:
        create = client.chat.completions.create
        reply = await create(model=MODEL, messages=MESSAGES, tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    return f"{call.function.name} {call.function.arguments}"


async def image(order):
    content = [{"type": "text", "text": QUESTION}, IMAGE]
    return await chat(order, [{"role": "user", "content": content}])


async def models(order):
    async with _client(order) as client:
        return " ".join([model.id async for model in client.models.list()])


async def file(order):
    async with _client(order) as client:
        uploaded = await client.files.create(file=("a.txt", FILE), purpose="user_data")
    return uploaded.filename


def _now(call):
    return lambda order: asyncio.run(call(order))


if __name__ == "__main__":
    drive({f.__name__: _now(f) for f in (chat, stream, tool, image, models, file)})
