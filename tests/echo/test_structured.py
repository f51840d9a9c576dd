"""Answers that fit a schema, as every SDK's ``parse()`` wants them, whole and streamed."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Literal

import anthropic
import openai
import pytest
from annotated_types import Ge, Len, Lt, MultipleOf
from echoes import CHAT, GENERATE, MESSAGES, RESPONSES, STREAM, ask, events, text_of_chat, whole
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field
from servers import KEY, running_proxy

TEXT = "Hello there"
JSON = "application/json"
ASKED = [{"role": "user", "content": TEXT}]
CONTENTS = [{"role": "user", "parts": [{"text": TEXT}]}]


def object_of(*required: str, **properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required or properties),
        "additionalProperties": False,
    }


NODE = {
    "$defs": {
        "Node": object_of(
            value={"type": "integer"},
            next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            children={"type": "array", "items": {"$ref": "#/$defs/Node"}},
        )
    },
    "$ref": "#/$defs/Node",
}
A_TO_B = {
    "definitions": {
        "a": {"type": "object", "properties": {"b": {"$ref": "#/definitions/b"}}},
        "b": {
            "type": "object",
            "properties": {
                "a": {"$ref": "#/definitions/a"},
                "all": {"type": "array", "items": {"$ref": "#/definitions/b"}, "minItems": 1},
            },
        },
    },
    "allOf": [{"$ref": "#/definitions/a"}],
}
MANY = {
    "$defs": {
        f"d{n}": object_of("x", x={"type": "string"}, **{
            f"to{m}": {"$ref": f"#/$defs/d{m}"} for m in range(12)
        })
        for n in range(12)
    },
    "$ref": "#/$defs/d0",
}  # fmt: skip
SCHEMAS = {
    "text": object_of(answer={"type": "string"}),
    "all types": object_of(
        a={"type": "string"},
        b={"type": "integer"},
        c={"type": "number"},
        d={"type": "boolean"},
        e={"type": "null"},
        f={"type": "array", "items": {"type": "string"}},
        g=object_of(h={"type": "object"}),
    ),
    "enum": object_of(a={"type": "string", "enum": ["x", "y"]}, b={"enum": [None, 1]}),
    "const": object_of(kind={"const": "cat"}, other={"type": "string", "const": ""}),
    "required without properties": {"type": "object", "required": ["a", "b"]},
    "list of objects": {"type": "array", "items": object_of(a={"type": "integer"}), "minItems": 3},
    "different items": {"type": "array", "items": {"type": "string"}, "minItems": 4,
                        "uniqueItems": True},
    "different numbers": {"type": "array", "items": {"type": "integer", "minimum": 5,
                          "maximum": 9}, "minItems": 5, "uniqueItems": True},
    "different enums": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2,
                        "uniqueItems": True},
    "at most": {"type": "array", "items": {"type": "string"}, "maxItems": 0},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}],
              "items": False, "minItems": 2},
    "contains": {"type": "array", "contains": {"const": 7}},
    "anyOf": object_of(a={"anyOf": [{"type": "integer", "minimum": 9}, {"type": "string"}]}),
    "anyOf null first": object_of(a={"anyOf": [{"type": "null"}, {"type": "string"}]}),
    "anyOf impossible first": {"anyOf": [False, {"type": "integer", "minimum": 2, "maximum": 1},
                                         {"type": "boolean"}]},
    "oneOf by kind": {"oneOf": [object_of(kind={"const": "a"}, x={"type": "integer"}),
                                object_of(kind={"const": "b"})]},
    "anyOf beside properties": {"type": "object", "properties": {"a": {"type": "integer"}},
                                "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "allOf": {"allOf": [{"properties": {"a": {"type": "string", "minLength": 9}}},
                        {"properties": {"a": {"maxLength": 12}}, "required": ["a"]}],
              "type": "object"},
    "type list": object_of(a={"type": ["null", "integer"]}, b={"type": ["string", "null"]}),
    "ref": {"$defs": {"s": {"type": "string", "minLength": 20}},
            "type": "object", "properties": {"a": {"$ref": "#/$defs/s"}}, "required": ["a"]},
    "escaped ref": {"$defs": {"a/b~c d": {"type": "integer"}}, "$ref": "#/$defs/a~1b~0c%20d"},
    "ref to the root": object_of("a", a={"type": "string"}, more={"$ref": "#"}),
    "ref with siblings": {"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 8},
    "recursive": NODE,
    "mutually recursive": A_TO_B,
    "many that refer to each other": MANY,
    "deep": json.loads('{"type":"array","minItems":1,"items":' * 30 + "true" + "}" * 30),
    "length": object_of(a={"type": "string", "minLength": 30}, b={"type": "string",
                        "maxLength": 3}, long_name={"type": "string", "maxLength": 0}),
    "integers": object_of(
        a={"type": "integer", "minimum": 7}, b={"type": "integer", "maximum": -7},
        c={"type": "integer", "exclusiveMinimum": 7}, d={"type": "integer", "exclusiveMaximum": 0},
        e={"type": "integer", "multipleOf": 5, "minimum": 7}, f={"type": "integer", "minimum": 0.5},
        g={"type": "integer", "multipleOf": 4, "maximum": -1}, h={"type": "integer", "minimum": 0},
    ),
    "numbers": object_of(
        a={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        b={"type": "number", "minimum": 0.25, "maximum": 0.25},
        c={"type": "number", "multipleOf": 0.5, "minimum": 3.2},
        d={"type": "number", "maximum": -0.5}, e={"type": "number", "minimum": 1e300},
    ),
    "properties": {"type": "object", "minProperties": 3,
                   "additionalProperties": {"type": "integer"}},
    "at most one property": {"type": "object", "maxProperties": 1, "required": ["b"],
                             "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    "without a type": {"properties": {"a": {"minimum": 3}, "b": {"items": True}},
                       "required": ["a", "b"]},
    "formats": object_of(**{
        name: {"type": "string", "format": name}
        for name in ("date-time", "date", "time", "email", "ipv4", "ipv6", "uuid", "unknown")
    }),
    "anything": {},
    "true": True,
}  # fmt: skip

FORMS = {
    "chat": (CHAT, lambda schema: {
        "messages": ASKED,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }),
    "responses": (RESPONSES, lambda schema: {
        "input": TEXT, "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
    }),
    "messages": (MESSAGES, lambda schema: {
        "messages": ASKED, "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }),
    "messages, beta": (MESSAGES, lambda schema: {
        "messages": ASKED, "output_format": {"type": "json_schema", "schema": schema},
    }),
    "gemini": (GENERATE, lambda schema: {
        "contents": CONTENTS,
        "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": schema},
    }),
    "gemini, older": (GENERATE, lambda schema: {
        "contents": CONTENTS, "generation_config": {"response_schema": schema},
    }),
}  # fmt: skip


def answered(form: str, schema: object) -> str:
    path, body = FORMS[form]
    answer = whole(path, body(schema))
    if form == "chat":
        return answer["choices"][0]["message"]["content"]
    if form == "responses":
        return answer["output"][0]["content"][0]["text"]
    if form.startswith("messages"):
        return answer["content"][0]["text"]
    return answer["candidates"][0]["content"]["parts"][0]["text"]


def streamed(form: str, schema: object) -> str:
    path, body = FORMS[form]
    asked = body(schema) | {"stream": True}
    if form == "chat":
        return text_of_chat(events(path, asked, done=True))
    if form == "responses":
        found = events(path, asked)
        return "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    if form.startswith("messages"):
        found = events(path, asked)
        return "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta")
    chunks = events(STREAM, body(schema), query="alt=sse")
    return "".join(c["candidates"][0]["content"]["parts"][0]["text"] for c in chunks)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_an_answer_fits_its_schema_whole_and_streamed(form, schema):
    text = answered(form, schema)
    checker = Draft202012Validator.FORMAT_CHECKER
    Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))
    assert streamed(form, schema) == text


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_the_arguments_of_a_tool_fit_its_schema(schema):
    inner = json.loads(json.dumps(schema).replace('"#', '"#/properties/within'))
    schema = object_of(within=inner)  # a schema may be of any type, and arguments are an object
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    message = whole(CHAT, {"messages": ASKED, "tools": [tool]})["choices"][0]["message"]
    arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
    Draft202012Validator(schema).validate(arguments)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": ASKED, "response_format": {"type": "json_object"}}),
        (CHAT, {"messages": ASKED, "response_format": {"type": "json_schema"}}),
        (RESPONSES, {"input": TEXT, "text": {"format": {"type": "json_object"}}}),
        (GENERATE, {"contents": TEXT, "generationConfig": {"responseMimeType": JSON}}),
    ],
)  # fmt: skip
def test_where_any_object_will_do_the_echo_is_in_it(path, body):
    assert f'{{\\"echo\\": \\"{TEXT}\\"}}' in json.dumps(whole(path, body))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": ASKED, "response_format": {"type": "text"}}),
        (CHAT, {"messages": ASKED, "response_format": None}),
        (RESPONSES, {"input": TEXT, "text": {"format": {"type": "text"}, "verbosity": "low"}}),
        (MESSAGES, {"messages": ASKED, "output_config": {"effort": "low"}}),
        (GENERATE, {"contents": TEXT, "generationConfig": {"responseMimeType": "text/plain"}}),
    ],
)
def test_who_wants_text_gets_text(path, body):
    assert f'"echo: {TEXT}"' in json.dumps(whole(path, body))


ENDLESS = {"$defs": {"N": object_of(next={"$ref": "#/$defs/N"})}, "$ref": "#/$defs/N"}
CHAIN = {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(5000)},
         "$ref": "#/$defs/d0"}  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        False,
        ENDLESS,
        CHAIN,
        {"$ref": "#"},
        {"$ref": "#/$defs/missing"},
        {"enum": []},
        {"type": "integer", "minimum": 2, "maximum": 1},
        object_of("b", a={"type": "string"}),
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "object", "minProperties": 10**9},
        json.loads('{"type":"array","minItems":9,"items":' * 20 + "true" + "}" * 20),
        {"anyOf": [{"anyOf": [{"anyOf": [False] * 99}] * 99}] * 99},
    ],
    ids=["false", "endless", "chain", "itself", "missing", "no value", "no number", "forbidden",
         "long", "many", "wide", "exponential", "alternatives"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["chat", "messages", "gemini"])
def test_a_schema_that_nothing_small_fits_is_the_clients_error(form, schema):
    path, body = FORMS[form]
    status, _, content = ask(path, body(schema))
    assert status == 400
    assert "fits the schema" in json.loads(content)["error"]["message"]


GOOGLES = {
    "type": "OBJECT",
    "properties": {
        "name": {"type": "STRING", "nullable": True, "minLength": "12"},
        "kind": {"type": "STRING", "format": "enum", "enum": ["A", "B"]},
        "list": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "2", "maxItems": "3"},
        "either": {"anyOf": [{"type": "NUMBER"}, {"type": "STRING"}]},
    },
    "required": ["name", "kind", "list"],
    "propertyOrdering": ["kind", "name", "list", "either"],
}


def test_a_schema_of_googles_own_kind_is_understood():
    found = json.loads(answered("gemini, older", GOOGLES))
    assert found == {"name": "name........", "kind": "A", "list": [1, 2], "either": 1.5}


KEYWORDS = st.sampled_from([
    "type", "enum", "const", "properties", "required", "items", "prefixItems", "minItems", "anyOf",
    "oneOf", "allOf", "$ref", "ref", "minimum", "maximum", "exclusiveMinimum", "multipleOf",
    "minLength", "maxLength", "format", "additionalProperties", "minProperties", "contains",
    "nullable", "a",
])  # fmt: skip
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False)
    | st.sampled_from(["object", "array", "string", "integer", "number", "null", "#", "#/a", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(list(FORMS)), ODD)
def test_any_schema_is_answered(form, schema):
    path, body = FORMS[form]
    assert ask(path, body(schema))[0] in (200, 400)


TYPED = st.recursive(
    st.sampled_from([
        {"type": "string"}, {"type": "integer", "minimum": 3}, {"type": "number"}, {"const": 5},
        {"type": "string", "minLength": 12}, {"enum": ["x", None]}, {"type": "boolean"},
    ]),
    lambda inner: st.builds(lambda a, b: object_of(a=a, b=b), inner, inner)
    | st.builds(lambda a, n: {"type": "array", "items": a, "minItems": n}, inner, st.integers(0, 3))
    | st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
    max_leaves=8,
)  # fmt: skip


@given(TYPED)
def test_any_schema_of_the_common_kinds_is_fitted(schema):
    Draft202012Validator(schema).validate(json.loads(answered("chat", schema)))


# Tools that are chosen

TOOL_CHOICES = {
    "chat": (CHAT, {
        "messages": ASKED,
        "tools": [{"type": "function", "function": {"name": name}} for name in "abc"],
        "tool_choice": {"type": "function", "function": {"name": "b"}},
    }),
    "responses": (RESPONSES, {
        "input": TEXT, "tools": [{"type": "function", "name": name} for name in "abc"],
        "tool_choice": {"type": "function", "name": "b"},
    }),
    "messages": (MESSAGES, {
        "messages": ASKED, "tools": [{"name": name, "input_schema": {}} for name in "abc"],
        "tool_choice": {"type": "tool", "name": "b"},
    }),
    "gemini": (GENERATE, {
        "contents": CONTENTS,
        "tools": [{"functionDeclarations": [{"name": name} for name in "abc"]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["b"]}},
    }),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body"), TOOL_CHOICES.values(), ids=TOOL_CHOICES)
def test_the_tool_that_is_chosen_is_called(path, body):
    assert '"name": "b"' in json.dumps(whole(path, body))


@pytest.mark.parametrize(
    ("form", "choice"),
    [
        ("chat", {"tool_choice": "none"}),
        ("messages", {"tool_choice": {"type": "none"}}),
        ("gemini", {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}),
    ],
)
def test_no_tool_is_called_where_none_is_wanted(form, choice):
    path, body = TOOL_CHOICES[form]
    assert f"echo: {TEXT}" in json.dumps(whole(path, body | choice))


# The SDKs


class Kind(enum.Enum):
    CAT = "cat"
    DOG = "dog"


class Toy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    weight: float


class Animal(BaseModel):
    """What every provider's SDK can say of a type."""

    name: str
    kind: Kind
    sort: Literal["big", "small"]
    legs: int
    tame: bool
    toys: list[Toy]
    parent: Animal | None


class Strict(BaseModel):
    """What pydantic checks, and the SDKs of others than OpenAI leave out of the schema."""

    age: Annotated[int, Ge(3), Lt(5)]
    score: Annotated[float, Field(gt=0, lt=1)]
    price: Decimal
    step: Annotated[int, MultipleOf(7)]
    tags: Annotated[list[str], Len(2, 3)]
    short: Annotated[str, Len(0, 3)]
    host: IPv4Address
    when: datetime.datetime
    day: datetime.date
    id: uuid.UUID
    by_name: dict[str, int]


@pytest.fixture(scope="module")
def url():
    bases = {f"{name}_API_BASE_URL": "echo:" for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
    with running_proxy(None, bases) as proxy:
        yield proxy.url


@pytest.fixture
def openai_client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        yield client


@pytest.mark.parametrize("model", [Animal, Strict])
def test_openai_parses_chat_completions(openai_client, model):
    asked = {"model": "m", "messages": ASKED, "response_format": model}
    parsed = openai_client.chat.completions.parse(**asked).choices[0].message.parsed
    assert isinstance(parsed, model)
    with openai_client.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


@pytest.mark.parametrize("model", [Animal, Strict])
def test_openai_parses_responses(openai_client, model):
    asked = {"model": "m", "input": TEXT, "text_format": model}
    parsed = openai_client.responses.parse(**asked).output_parsed
    assert isinstance(parsed, model)
    with openai_client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_parsed == parsed


def test_openai_parses_the_arguments_of_a_tool(openai_client):
    reply = openai_client.chat.completions.parse(
        model="m", messages=ASKED, tools=[openai.pydantic_function_tool(Strict)]
    )
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Strict)


def test_anthropic_parses_messages(url):
    with anthropic.Anthropic(base_url=url, api_key=KEY) as client:
        asked = {"model": "m", "max_tokens": 9, "messages": ASKED, "output_format": Animal}
        parsed = client.messages.parse(**asked).parsed_output
        assert isinstance(parsed, Animal)
        with client.messages.stream(**asked) as stream:
            assert stream.get_final_message().parsed_output == parsed


@pytest.mark.parametrize(
    "config",
    [
        {"response_schema": Toy},
        {"response_schema": list[Toy]},
        {"response_schema": Kind},
        {"response_json_schema": Animal.model_json_schema()},
    ],
    ids=["model", "list", "enum", "json schema"],
)
def test_google_parses_what_it_generates(url, config):
    kind = "text/x.enum" if config.get("response_schema") is Kind else "application/json"
    options = types.HttpOptions(base_url=url)
    with genai.Client(api_key=KEY, http_options=options) as client:
        asked = {"model": "m", "contents": TEXT, "config": {"response_mime_type": kind} | config}
        reply = client.models.generate_content(**asked)
        pieces = [chunk.text for chunk in client.models.generate_content_stream(**asked)]
    assert "".join(pieces) == reply.text
    if config.get("response_schema") is Toy:
        assert isinstance(reply.parsed, Toy)
    elif config.get("response_schema") is Kind:
        assert reply.parsed is Kind.CAT
    elif "response_json_schema" in config:
        Animal.model_validate(reply.parsed)
    else:
        assert reply.parsed == []


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("model", [Animal, Strict])
def test_langchain_makes_models_of_answers(url, method, model):
    llm = ChatOpenAI(model="m", base_url=f"{url}/v1", api_key=KEY)
    if method == "json_mode":  # without a schema: the echo's own object
        class model(BaseModel):  # noqa: N801
            echo: str
    found = llm.with_structured_output(model, method=method).invoke(TEXT)
    assert isinstance(found, model)
