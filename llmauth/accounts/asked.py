"""What a request asks for: which model, how much of it, as its provider will read it.

A key for some models must not get another one by saying its name in a way that is read here and
there in two ways. So nothing is guessed: an operation, an encoding, a name or a spelling that is
not known to be read in one way only is unclear, and so is a request that names two models.

Of JSON, what people write (messages, schemas, metadata) is passed over; every other name counts.
A large body is read once, piece by piece, and the rest of its long strings is left out.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple, NoReturn
from urllib.parse import unquote, unquote_plus

from ..exceptions import INCOMPLETE, InvalidRequest
from ..http.multipart import BadFormError, Field, fields
from ..remembering import remembered

Body = bytes | IO[bytes] | None

IN_MEMORY = 64 * 1024
"""Bytes of a body that is parsed as a whole, and of what is read of a larger one at a time."""

MAX_UNPACKED = 64 * 1024**2
"""Bytes of a compressed body, unpacked."""

MAX_SHORTENED = 4 * 1024**2
"""Characters of a large JSON body, without the rest of its long strings."""

MAX_PARTS = 200_000
"""Strings, lists and objects of a large JSON body: half a second of work, 20 MB for a moment."""

_DEPTH = 4
"""How deep a model's name may stand: tools, a tool, its parameters, a name."""

_SHORT = 256  # characters that are kept of a string of a large body
_LONGEST_NAME = 64  # characters of a name outside of what people write
_MAX_COUNT = 10**12  # tokens
_REMEMBERED = 128  # characters of a method and a path
_CUT = "\ufffd"  # ends a string that was cut, so that it cannot pass for a model


class Asked(NamedTuple):
    """What a request asks for.

    :param model: the only one that it names, without Gemini's ``models/``
    :param lists_models: it asks for the list of models
    :param unclear: where neither can be told, why: a clause for a message, which holds nothing that
        the client sent but plain names of fields
    :param max_tokens: the most that it lets all answers together have, None when it sets no limit
    :param prompt_bytes: of the body, unpacked, without files and long base64
    """

    model: str | None = None
    lists_models: bool = False
    unclear: str | None = None
    max_tokens: int | None = None
    prompt_bytes: int = 0


def read_request(
    method: str, path: str, query: str, headers: Mapping[str, str], body: Body, length: int
) -> tuple[Asked, Body]:
    """Return what a request asks for, and its body to be sent, which may be another file.

    :param path: raw, below the backend's base URL
    :param query: raw
    :param headers: as they are sent, by their usual names
    :param body: a file is read from where it stands, and set back; one that cannot be set back is
        copied
    :param length: bytes of the body
    :raises InvalidRequest: for a body that ends before
    """
    reading = _Reading()
    reading.headers(headers)
    reading.query(query)
    target = _target(f"{method} {path}")
    reading.target(target)
    known = target.is_known
    has_body = bool(body) and length > 0
    if known and has_body and method != "POST":
        reading.doubt("a body stands where none is read")
    elif has_body and (known or isinstance(body, bytes) and length <= IN_MEMORY):
        if not isinstance(body, bytes):
            body = _seekable(body, length)
        reading.body(body, length, headers)
    elif has_body:
        reading.unread(length, headers)
    return reading.asked(), body


def filter_models(body: bytes, allows: Callable[[str], bool]) -> bytes | None:
    """Return a list of models with those that are allowed, None for what is no such list.

    :param body: the answer's, decoded: OpenAI's, Anthropic's, Gemini's, Ollama's, or a bare list
    :param allows: is asked with names as :class:`Asked` has them
    """
    try:
        answer = json.loads(body.decode(), parse_constant=_refuse)
        if isinstance(answer, list):
            return json.dumps(_allowed(answer, allows)).encode()
        lists = answer.keys() & {"data", "models"}
        if not lists or any(
            isinstance(answer[name], (list, dict)) for name in answer.keys() - lists
        ):
            return None
        for name in lists:
            answer[name] = _allowed(answer[name], allows)
        entries = answer.get("data") or []
        # Anthropic's; the last one is where the next page begins, should there be one.
        for name, at in (("first_id", 0), ("last_id", -1)):
            if answer.get(name) and not (at and answer.get("has_more")):
                answer[name] = entries[at]["id"] if entries else None
        return json.dumps(answer).encode()
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None


def _allowed(entries: list[Any], allows: Callable[[str], bool]) -> list[Any]:
    if not isinstance(entries, list):
        raise TypeError
    # OpenRouter's `name` is for people, Ollama's is the same as its `model`.
    names = [one.get("id") or one.get("model") or one["name"] for one in entries]
    return [one for one, name in zip(entries, names, strict=True) if allows(_plain_name(name))]


_MODEL = re.compile(
    r"(?!.*(?://|(?:^|/)\.{1,2}(?:/|$)| $|@preset/))[\w@~/][\w .:/@+~()=-]{0,199}", re.ASCII
)
"""What a model may be called. Not what some read as a list, a path to elsewhere, or an escape."""

_GOOGLES = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/([^/]+)/)?models/(.+)")


def _plain_name(name: str) -> str:
    """Return a model's name without what Google puts before it."""
    if not (parts := _GOOGLES.fullmatch(name)):
        return name
    return parts[2] if parts[1] in (None, "google") else f"{parts[1]}/{parts[2]}"


_ROOT = (
    r"(?:/(?:api|openai|anthropic|beta|compatible-mode|inference|v\d+(?:(?:alpha|beta)\d*)?))*"
    r"(?:/projects/[^/]+/locations/[^/]+(?:/endpoints/openapi)?)?"
)
_OPERATION = re.compile(
    rf"{_ROOT}(?:/models)?(?:/(?:deployments|engines)/([^/]+)(?:/extensions)?)?/"
    r"(?:(?:chat/|fim/)?completions|complete|chat|responses(?:/(?:compact|input_tokens))?"
    r"|messages(?:/count_tokens)?|interactions|generate|edits|embed|embeddings|rerank|score|ocr"
    r"|(?:chat/)?(?:classifications|moderations)|classify|pooling|tokenize|tokenize-text|detokenize"
    r"|images/(?:generations|edits|variations)|audio/(?:speech|transcriptions|translations)|show)",
    re.IGNORECASE,
)
"""What is asked for with a model's name in the body, or of a deployment."""

_GEMINI = re.compile(
    rf"{_ROOT}/((?:publishers/[^/]+/)?models/[^/:]+|tunedModels/[^/:]+):(?:generateContent"
    r"|streamGenerateContent|countTokens|computeTokens|embedContent|batchEmbedContents|predict"
    r"|rawPredict|streamRawPredict|generateAnswer)"
)
_LIST = re.compile(
    rf"(?:{_ROOT}/(?:(?:language|embedding|image-generation)-)?models|/api/(?:tags|ps))",
    re.IGNORECASE,
)
_RECORD = re.compile(
    rf"{_ROOT}/(?:(?:language-|embedding-|image-generation-)?models/(.+)|(tunedModels/[^/:]+))",
    re.IGNORECASE,
)
_PLAIN_PATH = re.compile(r"(?!.*(?://|/\.{1,2}(?:/|$)))[\w .:/@+~()=-]{1,1000}", re.ASCII)

_STEERS = re.compile("model|fallback|deployment")
"""In names that may say which model is asked, all in small letters and digits."""

_STEERS_AT_TOP = re.compile("^(?:engine|preset|rout.*|agent.*|adapter.*|lora.*)$")
_STEERS_OUTSIDE = re.compile(
    f"{_STEERS.pattern}|{_STEERS_AT_TOP.pattern}|method|^httpheaders$|^req$|^ct$|^httpbody$"
)
"""In queries and forms: Google's APIs take a method, headers and a body from the query."""

_STEERING_HEADER = re.compile(
    r"model|fallback|deployment|portkey-config|method-override|x-http-method|original-ur[il]"
    r"|rewrite-ur[il]"
)
_ANOTHER_MODELS_TOOL = re.compile(
    "image_generation|^openrouter:(?!web_search$|web_fetch$|datetime$)"
)
"""Tools that providers run with a model of their own choice, named or not."""

_HARMLESS_PLUGINS = ("web", "file-parser", "response-healing", "context-compression")

_LIMITS = frozenset({
    "maxtokens", "maxcompletiontokens", "maxoutputtokens", "maxnewtokens", "maxtokenstosample",
    "numpredict",
})  # fmt: skip
_LIMITS_OF = (
    (re.compile("/completions$"), frozenset({"maxtokens", "maxcompletiontokens"})),
    (re.compile("/responses$"), frozenset({"maxoutputtokens"})),
    (re.compile("/messages$"), frozenset({"maxtokens"})),
    (re.compile("^/api/(?:chat|generate)$"), frozenset({"options.numpredict"})),
    (re.compile(r":\w+$"), frozenset({"generationconfig.maxoutputtokens"})),
)
"""The limits that an operation has, by its path: one that is not read there limits nothing, and
would have less held than the answer may use. Of all other operations any of them counts."""

_COUNTS = frozenset({"n", "bestof", "candidatecount", "numgenerations"})

_WRITTEN = frozenset({
    "$defs", "arguments", "chat_template_kwargs", "const", "content", "contents", "default",
    "definitions", "documents", "enum", "example", "examples", "headers", "input", "inputs",
    "instances", "labels", "logit_bias", "messages", "metadata", "patternProperties", "prediction",
    "prompt", "properties", "query", "system", "systemInstruction", "system_instruction", "texts",
    "variables",
})  # fmt: skip
"""What holds texts and schemas, in which names mean what their writers mean."""

_JSON_TYPE = re.compile(
    r"(?:(?:application/(?:[\w.-]+\+)?json|text/(?:plain|json)|application/octet-stream"
    r"|(application/x-www-form-urlencoded))?(?:\s*;\s*charset=\"?(?:utf-?8|us-ascii)\"?)?\s*;?)",
    re.IGNORECASE | re.ASCII,
)
_FORM_TYPE = re.compile(
    r"multipart/form-data\s*;\s*boundary=(\"?)([\w'+.-]{1,70})\1\s*;?", re.IGNORECASE | re.ASCII
)


_FILES = ("audio/", "image/", "multipart/", "video/")

_QUERY = re.compile(r"[\w%&=+.~*/:@,;!$'()-]*", re.ASCII)


class _UnclearError(Exception):
    """Why it cannot be told what is asked for."""


class _Target(NamedTuple):
    """What method and path say.

    :param is_known: it is an operation whose model can be told
    :param limits: of its answer, that are read there, None: all
    :param model: that it names
    :param shows: it is Ollama's, where the model may stand under ``name``
    """

    is_known: bool
    limits: frozenset[str] | None
    doubt: str | None = None
    model: str | None = None
    lists: bool = False
    shows: bool = False


@remembered(256, _REMEMBERED)
def _target(line: str) -> _Target:
    method, _, path = line.partition(" ")
    plain = unquote(path)
    plain = plain[:-1] if plain.endswith("/") else plain
    lower = plain.lower()
    limits = next((names for of, names in _LIMITS_OF if of.search(lower)), None)
    if not _PLAIN_PATH.fullmatch(plain) or (method == "POST" and "%2f" in path.lower()):
        return _Target(False, limits, doubt="its path can be read in two ways")
    if method in ("GET", "HEAD"):
        if _LIST.fullmatch(plain):
            return _Target(True, limits, lists=True)
        if found := _RECORD.fullmatch(plain):
            return _Target(True, limits, model=found[1] or found[2])
    elif method == "POST":
        if found := _GEMINI.fullmatch(plain):
            return _Target(True, limits, model=found[1])
        if found := _OPERATION.fullmatch(plain):
            return _Target(True, limits, model=found[1], shows=lower == "/api/show")
    return _Target(False, limits, doubt="the model of such a request is not named in it")


class _Member(NamedTuple):
    """What the name of a member of a JSON object says.

    :param letters: it, as the most lenient reader has it
    :param is_odd: it can be read in two ways
    :param steers: it may say which model is asked
    :param steers_at_top: it may, in the outermost object
    """

    letters: str
    is_odd: bool
    steers: bool
    steers_at_top: bool


@remembered(1024, _LONGEST_NAME)
def _member(name: str) -> _Member:
    letters = _letters(name)
    steers = _STEERS.search(letters) is not None
    return _Member(
        letters,
        len(name) > _LONGEST_NAME or _CUT in name or not name.isprintable(),
        steers,
        steers or _STEERS_AT_TOP.search(letters) is not None,
    )


class _Object(list[tuple[str, Any]]):
    """A JSON object with all of its names, also those that stand twice."""

    __slots__ = ()


class _Reading:
    """What has been found in a request so far."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._unclear: str | None = None
        self._named = False  # where the provider will look for it
        self._lists = False
        self._limit: int | None = None
        self._limits: frozenset[str] | None = None  # that are read, None: all
        self._times = self._prompts = 1
        self._bytes = 0
        self._shows = False  # Ollama's, where the name may stand under `name`

    def asked(self) -> Asked:
        if self._lists and self._models:
            self.doubt("a model is named where all are asked for")
        elif len(self._models) > 1:
            self.doubt("it names more than one model")
        elif not self._named and not self._lists:
            self.doubt("it names no model where the provider is sure to read it")
        limit = self._limit and min(self._limit * self._times * self._prompts, _MAX_COUNT)
        return Asked(
            model=None if self._unclear else next(iter(self._models), None),
            lists_models=self._lists and not self._unclear,
            unclear=self._unclear,
            max_tokens=limit,
            prompt_bytes=self._bytes,
        )

    def doubt(self, why: str) -> None:
        self._unclear = self._unclear or why

    def headers(self, headers: Mapping[str, str]) -> None:
        names = "\n".join(headers).lower().replace("_", "-")
        if found := _STEERING_HEADER.search(names):
            self.doubt(f"a header with '{found[0]}' in its name may change what is asked")

    def query(self, query: str, *, names_model: bool = False) -> None:
        """Read a query, or a form that is written as one."""
        pairs = query.split("&") if query else []
        for pair in pairs + (re.split("[&;]", query) if ";" in query else []):
            raw, _, value = pair.partition("=")
            name = unquote_plus(raw)
            if name == "model":
                self._name(unquote_plus(value), names_model)
            elif "%" in name or _STEERS_OUTSIDE.search(_letters(name)):
                self._doubt_field(name)

    def target(self, target: _Target) -> None:
        """Take note of what method and path say."""
        self._limits, self._lists, self._shows = target.limits, target.lists, target.shows
        if target.doubt:
            self.doubt(target.doubt)
        if target.model is not None:
            self._name(target.model, True)

    def body(self, body: Body, length: int, headers: Mapping[str, str]) -> None:
        """Read the body, as far as it has to be.

        :param headers: by their usual names
        """
        kind = headers.get("Content-Type", "").strip()
        coding = headers.get("Content-Encoding", "").strip().lower()
        is_small = length <= IN_MEMORY and coding in ("", "identity")
        if is_small and isinstance(body, bytes):
            is_read = self._content([body], kind, is_small)
        else:
            source = io.BytesIO(body) if isinstance(body, bytes) else body
            assert source is not None
            start = source.tell()
            try:
                chunks = _unpacked(_chunks(source, length), coding)
                is_read = self._content(chunks, kind, is_small)
            finally:
                source.seek(start)
        if not is_read:
            self.unread(length, headers)

    def unread(self, length: int, headers: Mapping[str, str]) -> None:
        """Take a body for a prompt that cannot be read, unless it holds files."""
        if not headers.get("Content-Type", "").strip().lower().startswith(_FILES):
            self._bytes = max(self._bytes, length)

    def _content(self, chunks: Iterable[bytes], kind: str, is_small: bool) -> bool:
        """Read it; where it cannot be read, take note of why, and return False."""
        try:
            if form := _FORM_TYPE.fullmatch(kind):
                self._form(fields(chunks, form[2].encode()))
            elif found := _JSON_TYPE.fullmatch(kind):
                self._text(chunks, is_small, bool(found[1]))
            else:
                raise _UnclearError("its Content-Type is none whose model can be told")
            return True
        except _UnclearError as exc:
            self.doubt(str(exc))
        except BadFormError:
            self.doubt("its form can be read in two ways")
        except zlib.error:
            self.doubt("its body cannot be unpacked")
        except (ValueError, RecursionError):
            self.doubt("its body is not plain JSON in UTF-8")
        return False

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._bytes += len(chunk)
            yield chunk

    def _text(self, chunks: Iterable[bytes], is_small: bool, is_form: bool) -> None:
        """Read JSON, or a form that is written as a query.

        :param is_form: its type says so; that is what curl writes of JSON as well
        """
        if is_form and not is_small:
            raise _UnclearError("its Content-Type says that it is a form; send application/json")
        if is_small:
            data = b"".join(chunks)
            self._bytes = len(data)
            text = data.decode()
        else:
            text, base64 = _shortened(codecs.iterdecode(self._counted(chunks), "utf-8"))
            self._bytes -= base64
        if is_form and _QUERY.fullmatch(text):
            self.query(text, names_model=True)
            return
        value = _JSON.decode(text)
        if not isinstance(value, _Object):
            raise _UnclearError("its body is no JSON object")
        self._object(value, 1)
        if is_form and re.search("[&;]", text):
            pairs = re.split("[&;]", text)[1:]
            if any(_letters(unquote(pair.partition("=")[0])) == "model" for pair in pairs):
                raise _UnclearError("its body can be read in two ways; send application/json")

    def _is_read(self, limit: str, of: str) -> bool:
        if self._limits is None:
            return True
        return (f"{of}.{limit}" if of else limit) in self._limits

    def _object(self, pairs: _Object, depth: int, of: str = "") -> None:
        seen = set()
        for name, value in pairs:
            member = _member(name)
            letters = member.letters
            if letters in seen:
                self._doubt_field(name, "stands twice")
            seen.add(letters)
            if member.is_odd:
                self.doubt("a name in its body can be read in two ways")
            if value and isinstance(value, (str, list)):
                self._value(name, member, value, depth)
            if letters in _LIMITS and self._is_read(letters, of):
                self._limit = max(self._limit or 0, _count(value)) or self._limit
            elif letters in _COUNTS:
                self._times = max(self._times, _count(value))

    def _value(self, name: str, member: _Member, value: str | list[Any], depth: int) -> None:
        """Look at a text or a list that is not empty."""
        if name == "model" or (depth == 1 and name == "name" and self._shows):
            self._name(value, depth == 1)
        elif name == "models" and not isinstance(value, _Object):
            for one in value if isinstance(value, list) else [value]:
                self._name(one, False)
        elif member.steers_at_top if depth == 1 else member.steers:
            self._doubt_field(name)
        elif name == "type" and isinstance(value, str) and _ANOTHER_MODELS_TOOL.search(value):
            self.doubt("it has a tool that asks another model")
        elif name == "plugins" and not all(map(_is_harmless, value)):
            self.doubt("it has a plugin that may ask another model")
        elif name == "prompt" and isinstance(value, _Object):
            self.doubt("it has a stored prompt")
        elif name == "prompt" and isinstance(value, list):
            self._prompts = max(1, sum(isinstance(one, (str, list)) for one in value))
        elif name not in _WRITTEN and isinstance(value, list):
            self._inner(value, depth + 1, member.letters)

    def _inner(self, value: list[Any], depth: int, of: str) -> None:
        if depth > _DEPTH:
            return
        if isinstance(value, _Object):
            self._object(value, depth, of)
        else:
            for one in value:
                if isinstance(one, list):
                    self._inner(one, depth + 1, of)

    def _form(self, fields: Iterable[Field]) -> None:
        names: list[str] = []
        for field in fields:
            names.append(field.name)
            self._bytes += 0 if field.is_file else field.size
            if field.name == "model" and not field.is_file and field.value is not None:
                self._name(field.value.decode(), True)
            elif _STEERS_OUTSIDE.search(_letters(unquote(field.name))):
                self._doubt_field(field.name)
        if names.count("model") > 1:
            self._doubt_field("model", "stands twice")

    def _name(self, model: Any, is_read: bool) -> None:
        """Add a model's name.

        :param is_read: the provider is sure to read it there
        """
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            self.doubt("the model's name can be read in two ways")
            return
        self._models.add(_plain_name(model))
        self._named = self._named or is_read

    def _doubt_field(self, name: str, what: str = "may name another model") -> None:
        plain = name.isascii() and name.isidentifier() and len(name) <= _LONGEST_NAME
        self.doubt(f"{repr(name) if plain else 'a field'} {what}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")  # RFC 8259 §6


_JSON = json.JSONDecoder(object_pairs_hook=_Object, parse_constant=_refuse)


def _letters(name: str) -> str:
    """Return a name as the most lenient reader has it: letters and digits, all of them small.

    Go and .NET take no heed of case, Google's APIs none of underscores, PHP stops at brackets.
    """
    if name.isascii() and name.isalpha():
        return name.lower()
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\W_]+", "", name.lower())


def _is_harmless(plugin: Any) -> bool:
    return isinstance(plugin, _Object) and dict(plugin).get("id") in _HARMLESS_PLUGINS


def _count(value: Any) -> int:
    """Return a number, also one that is written as text; 0 for all else."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,12}", value):
        value = int(value)
    if not isinstance(value, (int, float)):
        return 0
    return int(max(0, min(value, _MAX_COUNT)))


def _seekable(body: Any, length: int) -> IO[bytes]:
    """Return a body that can be set back, read to its end where it is a copy."""
    if getattr(body, "seekable", lambda: False)():
        return body  # type: ignore[no-any-return]
    copy: Any = tempfile.SpooledTemporaryFile(max_size=1024**2)  # noqa: SIM115  it is sent
    for chunk in _chunks(body, length):
        copy.write(chunk)
    copy.seek(0)
    return copy  # type: ignore[no-any-return]


def _chunks(source: IO[bytes], length: int) -> Iterator[bytes]:
    while length > 0:
        try:
            data = source.read(min(IN_MEMORY, length))
        except Exception as exc:  # each server has errors of its own for a body that breaks off
            raise InvalidRequest(INCOMPLETE) from exc
        if not data:
            raise InvalidRequest(INCOMPLETE)
        length -= len(data)
        yield data


def _unpacked(chunks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Yield a body without its content coding (RFC 9110 §8.4.1).

    Deflate is that of the RFC; there are bytes that are also, otherwise, the one without a wrapper.
    """
    if coding in ("", "identity"):
        yield from chunks
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise _UnclearError("its Content-Encoding is none that is read here")
    decompress = zlib.decompressobj(zlib.MAX_WBITS | (0 if coding == "deflate" else 16))
    total = 0
    for chunk in chunks:
        while chunk:
            data = decompress.decompress(chunk, IN_MEMORY)
            total += len(data)
            if decompress.unused_data or total > MAX_UNPACKED:
                raise zlib.error
            yield data
            chunk = decompress.unconsumed_tail
    while data := decompress.decompress(b"", IN_MEMORY):
        total += len(data)
        yield data
    if not decompress.eof:
        raise zlib.error


_IN_STRING = re.compile(r'(?:[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_ESCAPE = 6  # characters of the longest one
_BASE64 = re.compile(r"(?:data:[^,]{0,100},)?[A-Za-z0-9+/=_-]{100,}")


def _shortened(texts: Iterable[str]) -> tuple[str, int]:
    """Return a JSON text without the rest of its long strings, and how much of that was base64.

    :param texts: pieces of it, cut anywhere
    """
    kept: list[str] = []
    size = parts = base64 = length = 0
    string: str | None = None
    rest = ""
    for text in texts:
        text, at, rest = rest + text, 0, ""
        while at < len(text):
            if string is None:
                end = text.find('"', at)
                string, length = ("", 0) if end >= 0 else (None, 0)
                between = text[at:end] if end >= 0 else text[at:]
                kept.append(between)
                size += len(between)
                parts += between.count("[") + between.count("{")
                at += len(between) + 1
                continue
            end = _end_in(text, at)
            string += text[at : min(end, at + _SHORT + 1 - len(string))]
            length += end - at
            if end < len(text) and text[end] == '"':
                kept.append(f'"{_cut(string)}"')
                size += len(kept[-1])
                base64 += length if length > _SHORT and _BASE64.fullmatch(string) else 0
                parts, string, at = parts + 1, None, end + 1
            elif end > at:
                at = end
            elif text[at] == "\\" and len(text) - at < _ESCAPE:
                rest, at = text[at:], len(text)
            else:
                raise ValueError
        if size > MAX_SHORTENED or parts > MAX_PARTS:
            raise _UnclearError("its body has too many parts")
    if string is not None:
        raise ValueError
    return "".join(kept), base64


def _cut(string: str) -> str:
    return string if len(string) <= _SHORT else string[: _end_in(string[:_SHORT], 0)] + _CUT


def _end_in(text: str, at: int) -> int:
    """Return how far a string goes on; not all at once, as each escape takes memory."""
    found = _IN_STRING.match(text, at, at + 4096)
    return found.end() if found else at
