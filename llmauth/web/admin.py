"""What the server tells of its keys and their usage, and how they are managed: ``/-/…``."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from flask import Blueprint, Response, jsonify, request
from werkzeug.wrappers import Response as Answer

from ..accounts import overview, report
from ..accounts.keys import KeyBook, Secret, StoredKey
from ..accounts.terms import iso, seconds
from ..auth.request import RequestInfo, identified
from ..exceptions import (
    Conflict,
    InvalidRequest,
    KeyNotFound,
    NameTaken,
    NotAllowed,
    Unavailable,
    UnknownRoute,
)
from .extension import ADMIN_PATHS, State, current_state

logger = logging.getLogger("llmauth.admin")

MAX_BODY = 64 * 1024
"""Bytes of what is asked of ``/-/keys``."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

admin_blueprint = Blueprint("llmauth_admin", __name__, url_prefix=ADMIN_PATHS[:-1])

_View = TypeVar("_View", bound=Callable[..., Any])
_ADVICE = "Name a file in LLMAUTH_DATABASE, and make a key: llmauth keys add NAME --admin."


def known(state: State) -> RequestInfo:
    """Return what is known of the request, when its key came as only programs can send it."""
    if state.accounts is None:
        raise UnknownRoute(f"This server has no database of keys. {_ADVICE}")
    info = state.guard.info(request.environ)
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if info.key_name is None or scheme.lower() != "bearer" or token.strip() != info.key:
        raise NotAllowed("key", "This path wants a key as 'Authorization: Bearer <key>'.")
    return info


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Turn what cannot be done into the answer for the client."""
    try:
        yield
    except KeyNotFound as exc:
        raise UnknownRoute(str(exc)) from None
    except NameTaken as exc:
        raise Conflict(str(exc)) from None
    except ValueError as exc:
        raise InvalidRequest(f"{exc}.") from None


def _is_admin(info: RequestInfo) -> bool:
    secret: Secret | None = info.account
    return secret is not None and secret.key.terms.admin


def require_admin(info: RequestInfo) -> None:
    """Refuse whoever is no admin.

    :raises NotAllowed: saying so
    """
    if not _is_admin(info):
        raise NotAllowed(
            "admin",
            f"The key '{info.key_name}' is no admin's. Make one: llmauth keys add NAME --admin.",
        )


def _admins_only(view: _View) -> _View:
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        require_admin(known(current_state()))
        with _refused():
            return view(*args, **kwargs)

    return guarded  # type: ignore[return-value]


@admin_blueprint.get("/usage")
@_refused()
def usage() -> Response:
    """Tell what was used: by one's own key, or for an admin by all."""
    state = current_state()
    info = known(state)
    assert state.accounts
    database = state.accounts.database
    admin = _is_admin(info)
    given = _query("by", "since", "until", "format")
    by = report.groups(given.get("by", "key" if admin else ""))
    since, until = _days(given)
    form = given.get("format", "json")
    if form not in ("json", "csv"):
        raise ValueError(f"format: '{form}' is neither json nor csv")
    key = None if admin else info.key_name
    rows = report.rows(database, by=by, since=since, until=until, key=key)
    if form == "csv":
        return Response(report.as_csv(rows, by), mimetype="text/csv")
    totals = report.rows(database, by=(), since=since, until=until, key=key)[0]
    answer = {
        "since": since,
        "until": until,
        "rows": rows,
        "totals": totals,
        "unpriced_models": report.unpriced(database, since, until, key),
    }
    if info.account:
        answer["key"] = state.accounts.record(info.account.key)
    return jsonify(answer)


@admin_blueprint.get("/overview")
def look() -> Response:
    """Tell what is going on, for the page: of one's own key, or for an admin of all."""
    state = current_state()
    info = known(state)
    accounts = state.accounts
    assert accounts
    admin, database = _is_admin(info), accounts.database
    try:
        given = _query("by", "since", "until")
        by = given.get("by", "key" if admin else "model")
        if by not in ("key", "model"):
            raise ValueError(f"by: '{by}' is neither key nor model")
        since, until = _days(given)
    except ValueError as exc:
        raise InvalidRequest(f"{exc}.") from None
    key = None if admin else info.key_name
    own = info.account.key if info.account else None
    found = overview.figures(database, by=by, since=since, until=until, key=key)
    keys = accounts.directory.keys.values() if admin else filter(None, [own])
    answer = {
        "name": info.key_name,
        "admin": admin,
        "since": since,
        "until": until,
        "totals": found["totals"],
        "running": accounts.running(key),
        "days": found["days"],
        "series": found["series"],
        "models": found["models"],
        "attention": _attention(state, list(keys), found, admin=admin),
        "requests": overview.latest(database, key),
    }
    if own:
        answer["key"] = accounts.record(own)
    return jsonify(answer)


def _attention(
    state: State, keys: list[StoredKey], found: dict[str, Any], *, admin: bool
) -> dict[str, Any]:
    """Return what needs attention: of each kind the first ones, and how many there are."""
    database = _accounts().database
    kinds: dict[str, list[dict[str, Any]]] = {
        "limit": overview.near_limits(database, keys),
        "expiry": overview.ending(keys),
        "price": [{"model": one, "requests": n} for one, n in found["unpriced"].items()],
        "unknown": [{"backend": one, "requests": n} for one, n in found["unknown"].items()],
    }
    if admin:
        kinds["failure"] = [
            {"of": of, "state": told} for of, told in state.checks().items() if told != "ok"
        ]
        locked = database.lockouts(time.time())
        kinds["lockout"] = [{"address": one, "until": iso(until)} for one, until in locked]
    return {
        kind: {"number": len(items), "first": items[: overview.ATTENTION]}
        for kind, items in kinds.items()
        if items
    }


@admin_blueprint.get("/keys")
@_admins_only
def keys() -> Response:
    """List the keys: those that are good for something first, by their names."""
    accounts = _accounts()
    given = _query("find", "limit")
    wanted = given.get("find", "").strip().lower()
    limit = given.get("limit", "")
    if limit and not (limit.isascii() and limit.isdecimal()):
        raise ValueError(f"limit: '{limit}' is no whole number")
    found = [
        key
        for key in accounts.directory.keys.values()
        if wanted in key.name.lower() or wanted in key.terms.note.lower()
    ]
    if given:
        found.sort(key=lambda key: (key.revoked is not None, key.name.lower()))
    used = accounts.database.last_used()
    shown = (
        replace(key, last_used=used.get(key.name))
        for key in (found[: int(limit)] if limit else found)
    )
    return jsonify(keys=[accounts.record(key) for key in shown], number=len(found))


@admin_blueprint.post("/keys")
@_admins_only
def add() -> tuple[Response, int]:
    """Make a key; it is in the answer, this once."""
    values = _body()
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ValueError("name: is missing, or no text")
    key = _book().add(name, values)
    _tell("added", name)
    return jsonify(_record(name) | {"key": key}), 201


@admin_blueprint.patch("/keys/<name>")
@_admins_only
def change(name: str) -> Response:
    """Change what is named of a key."""
    values = _body()
    _book().change(name, values)
    _tell("changed", name)
    return jsonify(_record(name))


@admin_blueprint.delete("/keys/<name>")
@_admins_only
def revoke(name: str) -> Response:
    """Withdraw a key for good."""
    _book().revoke(name)
    _tell("revoked", name)
    return jsonify(_record(name))


@admin_blueprint.post("/keys/<name>/rotate")
@_admins_only
def rotate(name: str) -> Response:
    """Make a new secret for a key; it is in the answer, this once."""
    values = _body()
    overlap = values.pop("overlap", "0s")
    if values:
        raise ValueError(f"{min(values)}: unknown. There is overlap")
    try:
        left = seconds(overlap)
    except ValueError as exc:
        raise ValueError(f"overlap: {exc}") from None
    key = _book().rotate(name, left)
    _tell("rotated", name)
    return jsonify(_record(name) | {"key": key})


@admin_blueprint.get("/lockouts")
@_admins_only
def lockouts() -> Response:
    """List the addresses that are locked out."""
    found = _accounts().database.lockouts(time.time())
    return jsonify(lockouts=[{"address": one, "until": iso(until)} for one, until in found])


@admin_blueprint.delete("/lockouts/<path:address>")
@_admins_only
def let_in(address: str) -> Response:
    """Let an address in again."""
    state = current_state()
    counted = state.guard.clients.counted_as(address.partition("/")[0]) or address
    database = _accounts().database
    with database.transaction():
        known = database.clear_lockout(counted, time.time())
    if not known:
        raise KeyNotFound(f"'{counted}' is not locked out.")
    _tell("let in", counted)
    return jsonify(address=counted)


@admin_blueprint.route("/", defaults={"path": ""}, methods=METHODS)
@admin_blueprint.route("/<path:path>", methods=METHODS)
def unknown(path: str) -> Response:
    """Refuse what there is not: nothing below this path is forwarded."""
    raise UnknownRoute(
        "There is nothing at this path. There are /-/overview, /-/usage, /-/keys and /-/lockouts."
    )


@admin_blueprint.after_request
def _secure(response: Response) -> Response:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


@admin_blueprint.errorhandler(sqlite3.Error)
def _failing(error: sqlite3.Error) -> Answer:
    logger.error("the database fails: %s", error)
    info = current_state().guard.info(request.environ)
    message = f"The database fails ({error}), and nothing was changed. Try again."
    refusal = Unavailable(message, retry_after=5)
    return identified(refusal, info).get_response()


def _query(*names: str) -> dict[str, str]:
    """Return what is asked for in the query.

    :param names: that there are
    :raises ValueError: naming what there is not
    """
    if unknown := request.args.keys() - set(names):
        raise ValueError(f"{min(unknown)}: unknown. There are {', '.join(names)}")
    return dict(request.args.items())


def _days(given: dict[str, str]) -> tuple[str, str]:
    """Return the first and the last day that is asked for.

    :raises ValueError: naming what is none
    """
    return report.days(given.get("since", report.DEFAULT_SINCE), given.get("until", "today"))


def _accounts() -> Any:
    return current_state().accounts


def _book() -> KeyBook:
    state = current_state()
    return KeyBook(_accounts().database, state.guard.keys.names)


def _record(name: str) -> dict[str, Any]:
    accounts = _accounts()
    accounts.reload()
    key: StoredKey = next(
        key for key in accounts.directory.keys.values() if key.name.lower() == name.lower()
    )
    record: dict[str, Any] = accounts.record(key)
    return record


def _body() -> dict[str, Any]:
    if (request.content_length or 0) > MAX_BODY:
        raise ValueError(f"the body is over {MAX_BODY} bytes")
    if not request.get_data():
        return {}
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    return body


def _tell(what: str, name: str) -> None:
    info = current_state().guard.info(request.environ)
    logger.info("'%s' %s '%s'", info.key_name, what, name)
