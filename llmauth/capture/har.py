"""A wire capture as a HAR, which the developer tools of browsers open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .reading import Transcript, exchanges, metadata, timings


def har(lines: Iterable[str]) -> dict[str, Any]:
    """Return a capture as a HAR 1.2 document, which browser developer tools open."""
    entries = [_entry(exchange) for exchange in exchanges(lines) if exchange.request]
    entries.sort(key=lambda entry: str(entry["startedDateTime"]))
    creator = {"name": "llmauth", "version": "1"}
    return {"log": {"version": "1.2", "creator": creator, "pages": [], "entries": entries}}


def _entry(exchange: Transcript) -> dict[str, Any]:
    send, wait, receive = timings(exchange)
    request = exchange.first("outbound_request", "inbound_request")
    meta = metadata(request)
    parts = urlsplit(str(meta.get("url") or ""))
    if not parts.netloc:  # what the client asked, or the echo backend, which has no host
        parts = parts._replace(scheme="http", netloc=request.get("destination") or "llmauth")
    entry = {
        "startedDateTime": _iso(exchange.at(exchange.request) or 0.0),
        "time": send + wait + receive,
        "request": _har_request(request, str(meta.get("method") or "GET"), parts.geturl()),
        "response": _har_response(exchange),
        "cache": {},
        "timings": {
            "blocked": -1, "dns": -1, "connect": -1, "ssl": -1,
            "send": send, "wait": wait, "receive": receive,
        },
    }  # fmt: skip
    about = {name: request.get(name) for name in ("request_id", "key_name", "backend", "model")}
    entry["comment"] = ", ".join(f"{name} {value}" for name, value in about.items() if value)
    return entry


def _har_request(request: dict[str, Any], method: str, url: str) -> dict[str, Any]:
    payload = request.get("payload")
    document: dict[str, Any] = {
        "method": method,
        "url": url,
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(metadata(request).get("headers")),
        "queryString": _pairs(dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))),
        "headersSize": -1,
        "bodySize": request.get("content_length") or 0,
    }
    if payload is not None:
        mime = request.get("content_type") or "application/octet-stream"
        document["postData"] = {"mimeType": mime, "text": _as_text(payload), "params": []}
    return document


def _har_response(exchange: Transcript) -> dict[str, Any]:
    meta = metadata(exchange.response)
    status = meta.get("status") or 0
    text = "".join(exchange.streamed) or _as_text(exchange.response.get("payload"))
    size = len(text.encode("utf-8", "replace"))
    mime = exchange.response.get("content_type") or "application/octet-stream"
    headers = meta.get("headers") or {}
    document = {
        "status": status,
        "statusText": HTTPStatus(status).phrase if status in list(HTTPStatus) else "",
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(headers),
        "content": {"size": size, "mimeType": mime, "text": text},
        "redirectURL": str(headers.get("location") or ""),
        "headersSize": -1,
        "bodySize": exchange.end.get("content_length") or -1,
    }
    error = metadata(exchange.end).get("error")
    return document | ({"_error": str(error)} if error else {})


def _pairs(values: Any) -> list[dict[str, str]]:
    items = values.items() if isinstance(values, dict) else ()
    return [{"name": str(name), "value": str(value)} for name, value in items]


def _as_text(payload: Any) -> str:
    if payload is None or isinstance(payload, str):
        return payload or ""
    return json.dumps(payload, ensure_ascii=False)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
