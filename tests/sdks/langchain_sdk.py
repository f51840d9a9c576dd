"""langchain-openai."""

from driver import QUESTION, SCHEMA, drive
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai_sync import IMAGE, MODEL


def _client(order):
    return ChatOpenAI(
        model=MODEL,
        base_url=order["base"] + "/v1",
        api_key=order["key"],
        default_headers=order["headers"],
    )


def chat(order):
    return _client(order).invoke(QUESTION).content


def stream(order):
    return "|".join(chunk.content for chunk in _client(order).stream(QUESTION) if chunk.content)


def tool(order):
    declared = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    (call,) = _client(order).bind_tools([declared]).invoke(QUESTION).tool_calls
    return f"{call['name']} {call['args']}".replace("'", '"')


def image(order):
    content = [{"type": "text", "text": QUESTION}, IMAGE]
    return _client(order).invoke([HumanMessage(content=content)]).content


if __name__ == "__main__":
    drive({f.__name__: f for f in (chat, stream, tool, image)})
