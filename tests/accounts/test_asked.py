"""What a request asks for: one model, the list of models, or why that cannot be told."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmauth.accounts import asked
from llmauth.accounts.asked import Asked, filter_models, read_request
from llmauth.exceptions import InvalidRequest

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
GEMINI = "/v1beta/models/good:generateContent"
BOUNDARY = "----form0123"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
CURL = {"Content-Type": "application/x-www-form-urlencoded"}
LARGE = "word " * 30_000


class Socket(io.RawIOBase):
    """What can be read once, in pieces of any size."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    def readable(self):
        return True

    def seekable(self):
        return False

    def read(self, size=-1):
        return self.file.read(min(size, 1000) if size >= 0 else size)


def ask(body=b"", path=CHAT, *, method="POST", query="", headers=JSON) -> Asked:
    body = body.encode() if isinstance(body, str) else body
    return read_request(method, path, query, headers, body, len(body))[0]


def chat(**fields):
    return json.dumps({"model": "good", "messages": [], **fields})


def form(*parts, end=f"--{BOUNDARY}--\r\n"):
    """Return a form of parts: names with values, or whole parts as bytes."""
    body = b""
    for part in parts:
        if not isinstance(part, bytes):
            name, value = part
            head = f'Content-Disposition: form-data; name="{name}"'
            part = f"{head}\r\n\r\n{value}".encode()
        body += f"--{BOUNDARY}\r\n".encode() + part + b"\r\n"
    return body + end.encode()


def audio(size):
    head = b'Content-Disposition: form-data; name="file"; filename="a \xc3\xa4.mp3"\r\n'
    return head + b"Content-Type: audio/mpeg\r\n\r\n" + b"\r\n--\x00\xff" * (size // 6)


NAMED = {
    "openai chat": (chat(), CHAT, "good"),
    "no version": (chat(), "/chat/completions", "good"),
    "slash at the end": (chat(), "/v1/chat/completions/", "good"),
    "responses": ('{"model":"good","input":"hi"}', "/v1/responses", "good"),
    "messages": (chat(max_tokens=5), "/v1/messages", "good"),
    "count tokens": (chat(), "/v1/messages/count_tokens", "good"),
    "openrouter": (chat(model="a/b-1:free"), "/api/v1/chat/completions", "a/b-1:free"),
    "groq": (chat(), "/openai/v1/chat/completions", "good"),
    "escaped name": (r'{"\u006dodel":"good"}', CHAT, "good"),
    "escaped value": (r'{"model":"\u0067ood"}', CHAT, "good"),
    "white space": (' \r\n\t{ "model" : "good" }\n', CHAT, "good"),
    "said by somebody": (chat(messages=[{"model": "other"}]), CHAT, "good"),
    "a tool's parameter": (
        chat(tools=[{"function": {"parameters": {"properties": {"model": {"type": "string"}}}}}]),
        CHAT,
        "good",
    ),
    "metadata": (chat(metadata={"model": "other"}), CHAT, "good"),
    "openrouter's providers": (chat(provider={"allow_fallbacks": True}), CHAT, "good"),
    "web plugin": (chat(plugins=[{"id": "web", "engine": "exa"}]), CHAT, "good"),
    "same fallback": (chat(models=["good"]), CHAT, "good"),
    "empty ones": (chat(models=[], fallbacks=None, preset=""), CHAT, "good"),
    "azure": ("{}", "/openai/deployments/good/chat/completions", "good"),
    "azure in other case": ("{}", "/openai/Deployments/good/Chat/Completions", "good"),
    "azure names it twice": (chat(), "/openai/deployments/good/chat/completions", "good"),
    "azure's catalogue": (chat(), "/models/chat/completions", "good"),
    "gemini": ("{}", "/v1beta/models/good:generateContent", "good"),
    "gemini streams": ("{}", "/v1beta/models/good:streamGenerateContent", "good"),
    "gemini escaped": ("{}", "/v1beta/models/good%3AgenerateContent", "good"),
    "gemini's own form": ('{"model":"models/good"}', "/v1beta/models/good:countTokens", "good"),
    "gemini batch": (
        '{"requests":[{"model":"models/good"},{"model":"models/good"}]}',
        "/v1beta/models/good:batchEmbedContents",
        "good",
    ),
    "gemini for openai's clients": (
        '{"model":"models/good"}',
        "/v1beta/openai/chat/completions",
        "good",
    ),
    "tuned": ("{}", "/v1beta/tunedModels/good:generateContent", "tunedModels/good"),
    "vertex": ("{}", "/v1/publishers/google/models/good:generateContent", "good"),
    "vertex project": (
        "{}",
        "/v1/projects/p/locations/l/publishers/anthropic/models/good:rawPredict",
        "anthropic/good",
    ),
    "ollama chat": (chat(), "/api/chat", "good"),
    "ollama show": ('{"name":"good"}', "/api/show", "good"),
    "ollama embed": ('{"model":"good:7b"}', "/api/embed", "good:7b"),
}


@pytest.mark.parametrize(("body", "path", "model"), NAMED.values(), ids=NAMED)
def test_one_model_is_named(body, path, model):
    found = ask(body, path)
    assert (found.model, found.unclear, found.lists_models) == (model, None, False)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF-8"',
        "text/plain",
        "application/vnd.api+json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_json_is_json_under_types_that_providers_do_not_look_at(content_type):
    body = chat(messages=[{"content": "a=1&b;c & d = e"}])
    assert ask(body, headers={"Content-Type": content_type}).model == "good"
    assert ask(body, headers={}).model == "good"


UNCLEAR = {
    "no body": "",
    "no model": "{}",
    "null": '{"model":null}',
    "empty": '{"model":""}',
    "a number": '{"model":1}',
    "a list": '{"model":["good"]}',
    "an object": '{"model":{"id":"good"}}',
    "twice": '{"model":"good","model":"evil"}',
    "twice the same": '{"model":"good","model":"good"}',
    "twice, escaped": r'{"model":"good","mod\u0065l":"evil"}',
    "twice, other case": '{"model":"good","Model":"evil"}',
    "only in other case": '{"MODEL":"good"}',
    "twice, full width": '{"model":"good","ｍodel":"evil"}',
    "twice, NUL": r'{"model":"good","model\u0000":"evil"}',
    "twice, half a pair": r'{"model":"good","mod\ud800el":"evil"}',
    "twice, underscore": '{"model":"good","mo_del":"evil"}',
    "another name twice": '{"model":"good","messages":[],"messages":[]}',
    "config twice": '{"model":"good","generationConfig":{},"generation_config":{}}',
    "fallback list": chat(models=["good", "evil"]),
    "fallback text": chat(models="evil"),
    "fallbacks": chat(fallbacks=[{"model": "evil"}]),
    "fallback config": chat(fallback_config={"depth": 1}),
    "route": chat(route="fallback"),
    "preset": chat(preset="evil"),
    "engine": chat(engine="evil"),
    "model id": chat(model_id="evil"),
    "agent": chat(agent="evil"),
    "NUL within": r'{"model":"good","mod\u0000el":"evil"}',
    "no width": chat(**{"mod\u200bel": "evil"}),
    "stored prompt": chat(prompt={"id": "pmpt_1"}),
    "preset in the name": chat(model="good@preset/evil"),
    "router": chat(router_settings={"x": "y"}),
    "adapter": chat(adapter_id="evil"),
    "lora": chat(lora_path="evil"),
    "gemini's counting": chat(generateContentRequest={"model": "models/evil"}),
    "gemini's batch": chat(requests=[{"model": "good"}, {"model": "models/evil"}]),
    "gemini's batch, twice": '{"model":"good","requests":[{"model":"good","model":"evil"}]}',
    "gemini's batch, other case": chat(requests=[{"Model": "evil"}]),
    "routing": chat(generationConfig={"routingConfig": {"manualMode": {"modelName": "evil"}}}),
    "azure's search": chat(data_sources=[{"parameters": {"deployment_name": "evil"}}]),
    "a tool's model": chat(tools=[{"type": "advisor", "model": "evil"}]),
    "a tool's parameters": chat(tools=[{"type": "x", "parameters": {"model": "evil"}}]),
    "a tool's fallbacks": chat(tools=[{"type": "x", "parameters": {"fallbacks": ["evil"]}}]),
    "a tool with a model of its own": chat(tools=[{"type": "image_generation"}]),
    "openrouter's tool": chat(tools=[{"type": "openrouter:fusion"}]),
    "a plugin": chat(plugins=[{"id": "fusion"}]),
    "a plugin's models": chat(plugins=[{"id": "web", "allowed_models": ["evil"]}]),
    "names of two": chat(model="good,evil"),
    "name with NUL": chat(model="good\0evil"),
    "name with line end": chat(model="good\n"),
    "name with a space": chat(model="good "),
    "name with steps": chat(model="good/../evil"),
    "name with an escape": chat(model="good%2f"),
    "name with a query": chat(model="good?model=evil"),
    "name with a Cyrillic o": chat(model="gооd"),
    "long name": chat(model="g" * 201),
    "list": '[{"model":"good"}]',
    "text": '"model"',
    "trailing garbage": '{"model":"good"}{"model":"evil"}',
    "trailing line": '{"model":"good"}\n{"model":"evil"}',
    "before it": 'x{"model":"good"}',
    "prefix": ')]}\'\n{"model":"good"}',
    "cut": '{"model":"good"',
    "comma": '{"model":"good",}',
    "comment": '{"model":"good"/*,"model":"evil"*/}',
    "single quotes": "{'model':'good'}",
    "no quotes": '{model:"good"}',
    "NaN": '{"model":"good","temperature":NaN}',
    "infinity": '{"model":"good","temperature":-Infinity}',
    "raw control": '{"model":"good","a":"\n"}',
    "bad escape": r'{"model":"good","a":"\x22"}',
    "digits": '{"model":"good","seed":' + "1" * 5000 + "}",
    "depth": '{"model":"good","a":' + "[" * 30_000 + "]" * 30_000 + "}",
    "BOM": b'\xef\xbb\xbf{"model":"good"}',
    "UTF-16": '{"model":"good"}'.encode("utf-16"),
    "UTF-16 without BOM": '{"model":"good"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"good"}'.encode("utf-32"),
    "latin-1": '{"model":"good","a":"ä"}'.encode("latin-1"),
    "overlong quote": b'{"model":"good","a":"\xc0\xa2"}',
    "long name of a field": chat(**{"x" * 65: 1}),
    "msgpack": b"\x81\xa5model\xa4good",
}


def enlarged(body):
    """Return a body with a long text in front, where it has a place for one."""
    body = body.encode() if isinstance(body, str) else body
    before, brace, rest = body.partition(b"{")
    first = f'"input":"{LARGE}"' + ("" if rest.startswith(b"}") else ",")
    return before + brace + first.encode() + rest if brace else body + b" " * len(LARGE)


@pytest.mark.parametrize(
    "body",
    [*UNCLEAR.values(), *map(enlarged, UNCLEAR.values())],
    ids=[*UNCLEAR, *(f"{name}, large" for name in UNCLEAR)],
)
def test_what_might_be_read_otherwise_is_unclear(body):
    """However large the rest of it is, and whether it is in memory or in a file."""
    found = ask(body)
    assert found.unclear
    assert (found.model, found.lists_models) == (None, False)
    assert "evil" not in found.unclear


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json; charset=utf-8; charset=utf-7"},
        {"Content-Type": "application/json, multipart/form-data; boundary=x"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/mixed; boundary=x"},
        {"Content-Type": "multipart/form-data; boundary=x; boundary=y"},
        {"Content-Type": "application/x-protobuf"},
        {"Content-Type": "audio/wav"},
        JSON | {"Content-Encoding": "br"},
        JSON | {"Content-Encoding": "zstd"},
        JSON | {"Content-Encoding": "gzip"},
        JSON | {"Content-Encoding": "gzip, gzip"},
        JSON | {"X-HTTP-Method-Override": "GET"},
        JSON | {"x_original_url": "/v1/files"},
        JSON | {"Helicone-Model-Override": "evil"},
        JSON | {"azureml-model-deployment": "evil"},
    ],
    ids=str,
)
def test_headers_that_change_how_a_request_is_read_make_it_unclear(headers):
    found = ask(chat(), headers=headers)
    assert found.unclear
    assert found.model is None


ELSEWHERE = [
    ("POST", "/v1/batches"),
    ("POST", "/v1/messages/batches"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("POST", "/v1/assistants"),
    ("POST", "/v1/threads/runs"),
    ("POST", "/v1/threads/t/messages"),
    ("POST", "/v1/threads/t/runs"),
    ("GET", "/v1/responses/r"),
    ("POST", "/v1/responses/r/cancel"),
    ("POST", "/v1/conversations"),
    ("POST", "/v1/agents/completions"),
    ("POST", "/v1/evals"),
    ("POST", "/v1/files"),
    ("POST", "/v1/vector_stores"),
    ("POST", "/v1/containers"),
    ("POST", "/v1/videos"),
    ("POST", "/v1/realtime/sessions"),
    ("POST", "/v1beta/models/good:batchGenerateContent"),
    ("POST", "/v1beta/models/good:asyncBatchEmbedContent"),
    ("POST", "/v1beta/dynamic/good:generateContent"),
    ("POST", "/v1beta/cachedContents"),
    ("POST", "/upload/v1beta/files"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("POST", "/api/pull"),
    ("DELETE", "/api/delete"),
    ("DELETE", "/v1/models/good"),
    ("PATCH", "/v1beta/tunedModels/good"),
    ("POST", "/v1/models"),
    ("get", "/v1/models"),
    ("PUT", CHAT),
    ("GET", CHAT),
    ("POST", "/"),
    ("POST", ""),
    ("POST", "/v1/chat/completions/x"),
    ("POST", "/v1//chat/completions"),
    ("POST", "/v1/../v1/chat/completions"),
    ("POST", "/v1/batches/../chat/completions"),
    ("POST", "/v1/batches/%2e%2E/chat/completions"),
    ("POST", "/v1/batches/%252e%252e/chat/completions"),
    ("POST", "/v1/chat%2Fcompletions"),
    ("POST", "/v1\\chat/completions"),
    ("POST", "/v1%5Cchat/completions"),
    ("POST", "/v1/chat/completions;x=y"),
    ("POST", "/v1/chat/completions%3Fx"),
    ("POST", "/v1/chat/completions%23"),
    ("POST", "/v1/chat/completions%00"),
    ("POST", "/v1/chat/completions%0a"),
    ("POST", "/openai/deployments/good/../evil/chat/completions"),
    ("POST", "/openai/deployments/good%2F..%2Fevil/chat/completions"),
    ("POST", "/openai/deployments/evil/chat/completions"),
    ("POST", "/openai/deployments//chat/completions"),
    ("POST", "/engines/evil/completions"),
    ("POST", "/v1beta/models/evil:generateContent"),
    ("POST", "/v1beta/models/good:generateContent/x"),
    ("POST", "/v1beta/models/good:x:generateContent"),
    ("POST", "/v1beta/models/good/../evil:generateContent"),
    ("POST", "/v1" * 5000 + "/chat/completions"),
    ("POST", "/v" + "1" * 60_000),
]


@pytest.mark.parametrize(("method", "path"), ELSEWHERE, ids=lambda text: text[:50])
def test_operations_whose_model_is_elsewhere_and_paths_with_two_meanings_are_unclear(method, path):
    found = ask(chat(), path, method=method)
    assert found.unclear
    assert (found.model, found.lists_models) == (None, False)


@pytest.mark.parametrize(
    "query",
    [
        "model=evil",
        "%6dodel=evil",
        "m%256fdel=evil",
        "Model=good",
        "model=good&model=evil",
        "x=1;model=evil",
        "model=good;x",
        "model[]=evil",
        "models=evil",
        "engine=evil",
        "deployment-id=evil",
        "fallback=evil",
        "_method=GET",
        "$httpMethod=GET",
        "%24req=x",
        "%u006dodel=evil",
        "$ct=x",
    ],
)
def test_a_query_can_only_contradict(query):
    assert ask(chat(), query=query).unclear
    assert ask(method="GET", path="/v1/models", query=query).unclear


@pytest.mark.parametrize(
    "query", ["api-version=2024-10-21", "key=x&alt=sse", "model=good", "a&&=b"]
)
def test_other_queries_change_nothing(query):
    assert ask(chat(), query=query).model == "good"


def test_a_model_in_the_query_alone_might_be_overlooked():
    assert ask("{}", "/v1/images/generations", query="model=good").unclear


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/models/", "/v1beta/models", "/openai/v1/models", "/api/v1/models", "/api/tags"]
    + ["/api/ps", "/v1/language-models"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_lists_of_models(method, path):
    assert ask(path=path, method=method, query="limit=20") == Asked(lists_models=True)
    assert read_request(method, path, "", {}, None, 0)[0].lists_models
    assert ask(chat(), path, method=method).unclear


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/good", "good"),
        ("/v1beta/models/good", "good"),
        ("/v1/models/a/b:free", "a/b:free"),
        ("/v1/models/a%2Fb", "a/b"),
        ("/v1beta/tunedModels/good", "tunedModels/good"),
    ],
)
def test_the_record_of_a_model_names_it(path, model):
    assert ask(path=path, method="GET") == Asked(model=model)


FORMS = {
    "plain": form(("model", "good"), audio(100)),
    "after a large file": form(audio(400_000), ("model", "good")),
    "unquoted": form(b"Content-Disposition: form-data; name=model\r\n\r\ngood"),
    "in other case": form(b'content-disposition:FORM-DATA;NAME="model"\r\n\r\ngood'),
    "with a type": form(
        b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="model"'
        b"\r\n\r\ngood"
    ),
    "named in two ways": form(
        b'Content-Disposition: form-data; name="file"; filename="a"; filename*=UTF-8\'\'a%20b'
        b"\r\n\r\n...",
        ("model", "good"),
    ),
    "no line end": form(("model", "good"))[:-2],
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_the_field_of_a_form_names_the_model(body):
    assert ask(body, "/v1/audio/transcriptions", headers=FORM).model == "good"
    quoted = {"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'}
    assert ask(body, "/v1/audio/transcriptions", headers=quoted).model == "good"


DISPOSITION = b"Content-Disposition: form-data; "
GOOD = ("model", "good")
UNCLEAR_FORMS = {
    "empty": form(),
    "no model": form(("prompt", "x")),
    "twice": form(GOOD, ("model", "evil")),
    "twice the same": form(GOOD, GOOD),
    "twice, after a large file": form(GOOD, audio(200_000), ("model", "evil")),
    "other case": form(GOOD, ("Model", "evil")),
    "list": form(GOOD, ("model[]", "evil")),
    "escaped name": form(GOOD, ("%6dodel", "evil")),
    "space": form(GOOD, ("model ", "evil")),
    "a file": form(DISPOSITION + b'name="model"; filename="m"\r\n\r\ngood'),
    "backslash": form(GOOD, DISPOSITION + b'name="mod\\el"\r\n\r\nevil'),
    "quote in a file's name": form(
        GOOD, DISPOSITION + b'name="file"; filename="a\\"; name=\\"model"\r\n\r\nevil'
    ),
    "semicolon in a file's name": form(
        GOOD, DISPOSITION + b'name="file"; filename="a; name=model; b"\r\n\r\nevil'
    ),
    "two names": form(DISPOSITION + b'name="model"; name="x"\r\n\r\ngood'),
    "extended name": form(GOOD, DISPOSITION + b"name*=UTF-8''model\r\n\r\nevil"),
    "two dispositions": form(
        DISPOSITION + b'name="model"\r\n' + DISPOSITION + b'name="x"\r\n\r\ngood'
    ),
    "no disposition": form(GOOD, b"Content-Type: text/plain\r\n\r\nevil"),
    "line end in a name": form(
        GOOD, DISPOSITION + b'name="x\nContent-Disposition: form-data; name=model"\r\n\r\nevil'
    ),
    "folded": form(GOOD, b'Content-Disposition: form-data;\r\n name="model"\r\n\r\nevil'),
    "transfer encoding": form(
        DISPOSITION + b'name="model"\r\nContent-Transfer-Encoding: base64\r\n\r\nZ29vZA=='
    ),
    "charset": form(
        DISPOSITION + b'name="model"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\ngood'
    ),
    "bare line ends": form(GOOD).replace(b"\r\n", b"\n"),
    "bare line ends inside": form(
        GOOD, b'Content-Disposition: form-data; name="x"\n\nevil\r\n\r\n'
    ),
    "mark after a bare line end": form(
        GOOD, DISPOSITION + b'name="x"\r\n\r\n\n--' + BOUNDARY.encode() + b"\r\n"
    ),
    "one line end for headers and content": form(GOOD, DISPOSITION + b'name="x"\r\n'),
    "another kind of model": form(GOOD, ("engine", "evil")),
    "another method": form(GOOD, ("_method", "GET")),
    "mark with a longer name": form(
        GOOD, DISPOSITION + b'name="x"\r\n\r\n\r\n--' + BOUNDARY.encode() + b"1\r\n"
    ),
    "preamble": b'{"model":"evil"}\r\n' + form(GOOD),
    "epilogue": form(GOOD) + form(("model", "evil")),
    "text after it": form(GOOD) + b"x",
    "does not end": form(GOOD, end=""),
    "other boundary": form(GOOD).replace(BOUNDARY.encode(), b"other"),
    "value that is long": form(("model", "g" * 70_000)),
    "value with two lines": form(("model", "good\r\nevil")),
    "too many": form(GOOD, *[("x", "y")] * 1001),
    "JSON": chat().encode(),
}


@pytest.mark.parametrize("body", UNCLEAR_FORMS.values(), ids=UNCLEAR_FORMS)
def test_a_form_that_might_be_read_otherwise_is_unclear(body):
    found = ask(body, "/v1/images/edits", headers=FORM)
    assert found.unclear
    assert found.model is None


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ("model=good&n=1", "good"),
        ("n=1&model=a%2Fb", "a/b"),
        ("model=good&model=evil", None),
        ("model=good&Model=evil", None),
        ("model=good;model=evil", None),
        ("x=1", None),
        ('{"model":"good","x":"&model=evil"}', None),
        ('{"model":"good","x":"&%6dodel=evil&"}', None),
        ('x=&model=good&y={"model":"evil"}', None),
        ('\ufeff{"model":"evil"}&model=good', None),
        ("[1]&model=good", None),
        ("model=good&x=" + "y" * 70_000, None),
    ],
    ids=lambda text: (text or "")[:40],
)
def test_forms_that_are_written_as_a_query(body, model):
    assert ask(body, headers=CURL).model == model


@pytest.mark.parametrize("coding", ["gzip", "X-GZIP", "deflate", "identity"])
@pytest.mark.parametrize("text", ["", LARGE], ids=["small", "large"])
def test_compressed_bodies_are_read(coding, text):
    plain = chat(input=text).encode()
    packed = {"deflate": zlib.compress, "identity": bytes}.get(coding, gzip.compress)(plain)
    found = ask(packed, headers=JSON | {"Content-Encoding": coding})
    assert (found.model, found.prompt_bytes) == ("good", len(plain))


PACKED = gzip.compress(chat().encode())
BAD_PACKED = {
    "cut": PACKED[:-1],
    "two members": gzip.compress(b'{"model":') + gzip.compress(b'"good"}'),
    "something after it": PACKED + b"x",
    "broken": PACKED[:-8] + b"\0" * 8,
    "raw deflate": zlib.compress(chat().encode())[2:-4],
    "not packed": chat().encode(),
    "unpacks to too much": gzip.compress(
        chat().encode() + b" " * (asked.MAX_UNPACKED + 1), compresslevel=9
    ),
}


@pytest.mark.parametrize("body", BAD_PACKED.values(), ids=BAD_PACKED)
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_cannot_be_unpacked_in_one_way_is_unclear(body, coding):
    assert ask(body, headers=JSON | {"Content-Encoding": coding}).unclear


def test_what_follows_a_gzip_member_is_seen_wherever_a_piece_ends():
    pieces = [gzip.compress(b'{"model":'), gzip.compress(b'"good"}')]
    with pytest.raises(zlib.error):
        list(asked._unpacked(pieces, "gzip"))


def test_a_file_is_set_back_to_where_it_stood():
    data = chat(input=LARGE).encode()
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + data + b"after")
        file.seek(6)
        found, body = read_request("POST", CHAT, "", JSON, file, len(data))
        assert (found.model, found.prompt_bytes) == ("good", len(data))
        assert body is file
        assert body.tell() == 6


def test_what_can_be_read_once_is_copied_to_be_sent():
    data = chat(input=LARGE).encode()
    found, body = read_request("POST", CHAT, "", JSON, Socket(data + b"next"), len(data))
    with body:
        assert found.model == "good"
        assert body.read() == data


def test_a_body_that_ends_before_is_no_request():
    with pytest.raises(InvalidRequest):
        read_request("POST", CHAT, "", JSON, Socket(b'{"model"'), 100_000)


def test_uploads_are_not_read():
    file = Socket(b"x")
    found, body = read_request("POST", "/v1/files", "", FORM, file, 500_000_000)
    assert found.unclear
    assert found.prompt_bytes == 0
    assert body is file
    assert file.file.tell() == 0


LIMITS = {
    "none": (CHAT, {}, None),
    "chat": (CHAT, {"max_tokens": 7}, 7),
    "reasoning models": (CHAT, {"max_completion_tokens": 8, "max_tokens": 2}, 8),
    "responses": ("/v1/responses", {"max_output_tokens": 9}, 9),
    "messages": ("/v1/messages", {"max_tokens": 9}, 9),
    "gemini": (GEMINI, {"generationConfig": {"maxOutputTokens": 5, "candidateCount": 3}}, 15),
    "gemini in its other form": (GEMINI, {"generation_config": {"max_output_tokens": "5"}}, 5),
    "ollama": ("/api/chat", {"options": {"num_predict": 6}}, 6),
    "ollama without a limit": ("/api/chat", {"options": {"num_predict": -1}}, None),
    "another server's": ("/generate", {"parameters": {"max_new_tokens": 6}}, 6),
    "several answers": (CHAT, {"max_tokens": 7, "n": 2, "best_of": 3}, 21),
    "several prompts": ("/v1/completions", {"max_tokens": 7, "prompt": ["a", "b"]}, 14),
    "tokens as a prompt": ("/v1/completions", {"max_tokens": 7, "prompt": [1, 2, 3]}, 7),
    "a float": (CHAT, {"max_tokens": 7.0}, 7),
    "nonsense": (CHAT, {"max_tokens": "many", "n": []}, None),
    "more than there can be": (CHAT, {"max_tokens": 10**30, "n": 10**30}, 10**12),
    "a number that no float holds": (CHAT, {"max_tokens": 10**400}, 10**12),
    "infinite": (CHAT, {"max_tokens": "1e999"}, None),
    "in a schema": (CHAT, {"format": {"properties": {"max_tokens": 100}}}, None),
    "another API's": (CHAT, {"max_output_tokens": 1, "options": {"num_predict": 1}}, None),
    "another API's beside its own": (CHAT, {"max_output_tokens": 1, "max_tokens": 9}, 9),
    "another API's, in capitals": (CHAT.upper(), {"max_output_tokens": 1}, None),
    "in an object that nobody reads": (CHAT, {"note": {"max_tokens": 1}}, None),
    "chat's, of responses": ("/v1/responses", {"max_tokens": 1}, None),
    "gemini's outside of its place": (GEMINI, {"maxOutputTokens": 1}, None),
    "ollama's outside of its place": ("/api/generate", {"num_predict": 1}, None),
}


@pytest.mark.parametrize(("path", "fields", "limit"), LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("text", ["", LARGE], ids=["small", "large"])
def test_the_most_tokens_that_may_be_answered(path, fields, limit, text):
    """A limit that is not read where it stands limits nothing."""
    assert ask(chat(input=text, **fields), path).max_tokens == limit


def test_limits_are_seen_in_requests_that_are_unclear():
    found = ask('{"model":"a","model":"b","max_tokens":1,"max_tokens":5}')
    assert (found.unclear, found.max_tokens) == ("'model' stands twice", 5)


def test_files_and_base64_are_no_prompt():
    image = "data:image/png;base64," + "iVBORw0KGgo" * 20_000
    text = chat(messages=[{"content": [{"image_url": {"url": image}}, {"text": LARGE}]}])
    assert len(LARGE) < ask(text).prompt_bytes < len(LARGE) + 2000
    body = form(audio(200_000), ("model", "good"), ("prompt", "x" * 1000))
    assert 1000 < ask(body, "/v1/audio/transcriptions", headers=FORM).prompt_bytes < 2000


# Large bodies

TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    [
        "model",
        "models",
        "messages",
        "prompt",
        "tools",
        "max_tokens",
        "good",
        "n",
        "x" * 300,
        "\\\"'",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=25,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)


@given(
    fields=OBJECTS, ascii=st.booleans(), indent=st.sampled_from([None, 1]), size=st.integers(1, 9)
)
def test_json_is_shortened_in_the_same_way_however_it_is_cut(fields, ascii, indent, size):
    text = json.dumps(fields, ensure_ascii=ascii, indent=indent)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    shortened, _ = asked._shortened(pieces)
    assert shortened == asked._shortened([text])[0]
    assert shortened == text.replace("x" * 300, "x" * 256 + "\ufffd")


@given(fields=OBJECTS)
def test_a_large_body_asks_for_what_the_same_asks_for_when_it_is_small(fields):
    fields = {"model": "good"} | {n: v for n, v in fields.items() if len(n) < 200}
    small, large = ask(json.dumps(fields)), ask(json.dumps({"input": LARGE, **fields}))
    if "input" not in fields:
        assert (small.model, small.max_tokens) == (large.model, large.max_tokens)


@given(
    body=OBJECTS.map(json.dumps).map(str.encode), at=st.integers(0, 200), junk=st.binary(max_size=3)
)
def test_any_bytes_are_read_without_an_error(body, at, junk):
    for headers in (JSON, FORM, CURL):
        found = ask(body[:at] + junk + body[at:], headers=headers)
        assert found.unclear or found.model


@pytest.mark.parametrize(
    "inside",
    [
        '"\n"',
        '"\\x41"',
        '"\\u00g0"',
        "'a'",
        '/* " */',
        "[}",
        "]",
        '{"a":[}]',
        "\x00",
        "`",
        "\\",
    ],
)
def test_what_no_model_stands_in_must_be_json_all_the_same(inside):
    body = '{"model":"good","messages":[{"a":"%s","b":[[[[[%s]]]]]}]}'
    assert ask(body % (LARGE, "1")).model == "good"
    assert ask(body % (LARGE, inside)).unclear


@pytest.mark.parametrize("part", ["[],", '"",', "{},"])
def test_the_parts_of_a_large_body_are_counted(part):
    body = '{"model":"good","messages":[%s1]}'
    assert ask(body % (part * 100_000)).model == "good"
    assert "too many parts" in str(ask(body % (part * 250_000)).unclear)


def test_what_is_kept_of_a_large_body_is_bounded():
    body = json.dumps({"model": "good", "tools": ["x" * 255] * 20_000})
    assert "too many parts" in str(ask(body).unclear)


@pytest.mark.parametrize("kind", ["text", "escapes", "form", "gzip"])
def test_large_bodies_are_not_held_in_memory(kind):
    size = 4 * 1024**2
    text = {"escapes": "\\n"}.get(kind, "ab ") * (size // 3)
    data = f'{{"messages":[{{"content":"{text}"}}],"model":"good"}}'.encode()
    headers = JSON | ({"Content-Encoding": "gzip"} if kind == "gzip" else {})
    if kind == "form":
        data, headers = form(audio(size), GOOD), FORM
    with tempfile.TemporaryFile() as file:
        file.write(gzip.compress(data) if kind == "gzip" else data)
        length = file.tell()
        file.seek(0)
        del data, text
        tracemalloc.start()
        found, _ = read_request("POST", CHAT, "", headers, file, length)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found.model == "good"
    assert peak < size / 4


def test_numbers_are_no_parts():
    assert ask(json.dumps({"model": "good", "input": [list(range(9999))] * 50})).model == "good"


# Lists of models

LISTS = {
    "openai": (
        {"object": "list", "data": [{"id": "good"}, {"id": "evil"}]},
        {"object": "list", "data": [{"id": "good"}]},
    ),
    "anthropic": (
        {"data": [{"id": "evil"}, {"id": "good"}, {"id": "evil"}], "has_more": False}
        | {"first_id": "evil", "last_id": "evil"},
        {"data": [{"id": "good"}], "has_more": False, "first_id": "good", "last_id": "good"},
    ),
    "anthropic, more to come": (
        {"data": [{"id": "evil"}], "has_more": True, "first_id": "evil", "last_id": "evil"},
        {"data": [], "has_more": True, "first_id": None, "last_id": "evil"},
    ),
    "gemini": (
        {"models": [{"name": "models/good"}, {"name": "models/evil"}], "nextPageToken": "t"},
        {"models": [{"name": "models/good"}], "nextPageToken": "t"},
    ),
    "ollama": (
        {"models": [{"name": "good", "model": "good"}, {"name": "evil", "model": "evil"}]},
        {"models": [{"name": "good", "model": "good"}]},
    ),
    "openrouter": (
        {"data": [{"id": "good", "name": "The Good"}, {"id": "evil", "name": "good"}]},
        {"data": [{"id": "good", "name": "The Good"}]},
    ),
    "both": (
        {"models": [{"name": "evil"}], "data": [{"id": "evil"}, {"id": "good"}]},
        {"models": [], "data": [{"id": "good"}]},
    ),
    "bare": ([{"id": "good"}, {"id": "evil"}], [{"id": "good"}]),
    "empty": ({"data": []}, {"data": []}),
}


@pytest.mark.parametrize(("answer", "left"), LISTS.values(), ids=LISTS)
def test_a_list_of_models_shows_what_is_allowed(answer, left):
    body = filter_models(json.dumps(answer).encode(), "good".__eq__)
    assert json.loads(body) == left


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"1",
        b"null",
        b"{}",
        b'{"data":[1]}',
        b'{"data":[["id"]]}',
        b'{"data":["good"]}',
        b'{"data":[{}]}',
        b'{"data":[{"id":1}]}',
        b'{"data":[{"id":"good"}],"other":[{"id":"evil"}]}',
        b'{"data":{"id":"evil"}}',
        b'{"data":[{"id":"good"}],"x":NaN}',
        b"[" * 100_000,
    ],
    ids=lambda body: body[:40],
)
def test_what_is_no_list_of_models_is_not_shown(body):
    assert filter_models(body, lambda name: True) is None


@pytest.mark.parametrize("codec", ["utf-16", "utf-32-be", "latin-1"])
@pytest.mark.parametrize("size", [100, 50_000, 200_000])
def test_a_body_in_another_encoding_is_as_long_as_it_is(codec, size):
    """What a client says in it is read by nobody here, and may be by the provider."""
    body = chat(messages=[{"content": "\u00fc" * size}]).replace("\\u00fc", "\u00fc").encode(codec)
    asked = ask(body)
    assert asked.prompt_bytes == len(body)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/foo"}, {"Content-Type": "text/html"},
        JSON | {"Content-Encoding": "compress"}, JSON | {"Content-Encoding": "gzip"},
        {"Content-Type": "multipart/form-data"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/unknown"])
@pytest.mark.parametrize("size", [1000, 200_000])
def test_what_cannot_be_read_is_as_long_as_it_is(headers, path, size):
    """Or it would cost nothing until the provider says what it did."""
    body = chat(messages=[{"content": "word " * (size // 5)}])
    is_form = "multipart" in headers.get("Content-Type", "")
    expected = 0 if is_form else len(body)
    assert ask(body, path, headers=headers).prompt_bytes == expected


@pytest.mark.parametrize("kind", ["audio/wav", "image/png", "video/mp4; codecs=avc1"])
def test_media_are_no_prompt(kind):
    assert ask("x" * 1000, headers={"Content-Type": kind}).prompt_bytes == 0
