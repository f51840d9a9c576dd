"""The guard on a Flask application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from inspect import ismethod
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from flask import Blueprint, Flask, Response, current_app, has_request_context, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from ..accounts.accounts import Accounts
from ..accounts.prices import Prices
from ..auth.guard import Guard
from ..auth.key_files import KeyFiles
from ..auth.request import RequestInfo, identified, raw_target
from ..auth.stores import shared_store
from ..capture.recording import WireCapture
from ..config.flask import from_flask
from ..config.keys import hiding
from ..config.loading import require_keys, warn
from ..config.settings import Settings
from ..exceptions import RequestRefused
from ..http.grammar import Headers
from ..providers.backend import Backend
from ..providers.router import Router
from ..proxy.forwarding import Forwarder
from ..proxy.slots import Slots, server_stopping
from ..redact.logging import Redactor
from .access_log import AccessLog
from .cors import Cors
from .docs_page import elsewhere

EXTENSION = "llmauth"
ENTRY = "llmauth.entry"
"""In a WSGI environ: the state of the application whose entry it came through."""

ADMIN_PATHS = "/-/"
METRICS_PATH = "/metrics"
_IDS = frozenset({"x-request-id", "request-id"})  # a provider's own stands
_ALWAYS_GUARDED = "_llmauth_always_guarded"
_REACHED_PROXY = "llmauth.reached_proxy"
_View = TypeVar("_View", bound=Callable[..., Any])
_ViewOrBlueprint = TypeVar("_ViewOrBlueprint", bound=Callable[..., Any] | Blueprint)


class State:
    """What one application has of llmauth; kept in ``app.extensions["llmauth"]``."""

    def __init__(self, settings: Settings) -> None:
        self.redactor = Redactor(settings.secrets)
        self.accounts = _accounts(settings, self.redactor.text) if settings.database else None
        require_keys(settings, stored=bool(self.accounts and self.accounts.directory.keys))
        self.settings = settings
        self.guard = Guard(settings, self.accounts)
        if self.accounts and self.guard.lockout:
            self.guard.lockout.on_block = self.accounts.note_block
            self.accounts.on_clear = self.guard.lockout.forgive
        self.cors = Cors(settings.cors_origins)
        self.backends = {name: Backend(own) for name, own in settings.backends.items()}
        self.key_files = KeyFiles(settings, self.guard, self.redactor, self._use_provider_key)
        unused = {name for name, own in settings.backends.items() if not settings.uses(own)}
        self.router = Router(self.backends, settings.default_backend, unused)
        self.slots = Slots(settings.threads)
        self.access_log = AccessLog(self.redactor)
        self.serves_pages = False
        self.capture: WireCapture | None = None
        if settings.capture_file:
            self.capture = WireCapture(
                settings.capture_file,
                self.redactor,
                max_bytes=settings.capture_max_bytes,
                max_files=settings.capture_max_files,
            )
        self.forwarder = Forwarder(
            settings,
            self.guard,
            self.router,
            self.redactor,
            self.slots,
            self.capture,
            self.accounts,
        )

    def _use_provider_key(self, backend: str, key: str) -> None:
        self.backends[backend].key = key

    def admit(
        self,
        info: RequestInfo,
        environ: dict[str, Any],
        *,
        public: bool,
        forwards: bool,
        at_once: bool = False,
    ) -> None:
        """Decide once whether a request is let in; see :meth:`llmauth.auth.guard.Guard.admit`.

        :param public: it needs no key
        :param forwards: it needs none to be forwarded either
        :param at_once: leave it undecided if a store would have to be asked
        """
        guard = self.guard
        info.public = public
        answered_by_us = (self.cors.enabled or not public) and not self._is_admins(info)
        info.preflight = answered_by_us and self.cors.is_preflight(environ)
        open = public or info.preflight
        if self.slots.draining and not public:
            info.refuse(server_stopping())
            return
        if at_once and not open and guard.may_wait(info):
            return
        guard.admit(info, environ, open=open, forwards=forwards, observe=self.redactor.observe)

    def admit_raw(self, environ: dict[str, Any], *, at_once: bool = False) -> RequestInfo:
        """The same before Flask, which is made to see the path that was decided on."""
        info = self.guard.info(environ)
        if not info.decided:
            environ["PATH_INFO"] = info.path
            if info.path.startswith("//"):
                # werkzeug leaves all but one out, and would find a view of another path.
                environ["PATH_INFO"] = f"/%2F{info.path[2:]}"
            page = elsewhere(info.path, environ)
            if page and info.path not in self.guard.bypass:
                info.refuse(page)
                return info
            public = self.guard.is_public(info, environ, pages=True)
            public = public and not self.router.names_another(info.path)
            self.admit(info, environ, public=public, forwards=public, at_once=at_once)
        return info

    def added_headers(
        self, info: RequestInfo, environ: dict[str, Any], names: Iterable[str]
    ) -> Headers:
        """Return what every answer gets on its way out: what lets pages read it, and an id.

        :param names: of the headers that it has
        """
        has_id = any(name.lower() in _IDS for name in names)
        added = [] if has_id else [("x-request-id", info.id)]
        return added if self._is_admins(info) else added + self.cors.headers(environ)

    def _is_admins(self, info: RequestInfo) -> bool:
        """True for a path of this server that no other site's page may use."""
        metrics = self.accounts is not None and info.path == METRICS_PATH
        return self.serves_pages and (metrics or info.path.startswith(ADMIN_PATHS))

    def checks(self) -> dict[str, str]:
        """Say of each thing that may fail without failing requests whether it works."""
        checks = {}
        if self.guard.lockout is not None:
            healthy = self.guard.lockout.healthy
            checks["store"] = "ok" if healthy else "unreachable, counting locally"
        if self.capture is not None:
            checks["capture"] = self.capture.state
        if self.accounts is not None:
            checks["database"] = self.accounts.state
        return checks

    def close(self) -> None:
        """Close idle connections and write out the capture."""
        self.key_files.close()
        self.forwarder.close()
        if self.capture:
            self.capture.close(5.0)
        if self.accounts:
            self.accounts.close()
        self.access_log.close(2.0)


def _accounts(settings: Settings, masked: Callable[[str], str]) -> Accounts:
    windows, errors = shared_store(settings.storage_uri)
    return Accounts(
        Path(settings.database or ""),
        reserved=[name for name, _ in settings.keys],
        windows=windows,
        windows_errors=errors,
        prices=Prices(settings.prices),
        keep_days=settings.keep_days,
        masked=masked,
    )


class LLMAuth:
    """Lets in only requests that carry one of the proxy keys.

    ::

        auth = LLMAuth()
        auth.init_app(app)         # every request to app, unknown paths included
        LLMAuth(blueprint=api)     # or one blueprint only, which init_app then guards

    The proxy's own blueprint is guarded in any case.

    Settings come from ``app.config["LLMAUTH_…"]`` and the environment; see
    :func:`llmauth.config.flask.from_flask`.

    :param app: guarded at once
    :param settings: instead of those of the application
    :param blueprint: guard this one only
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        settings: Settings | None = None,
        blueprint: Blueprint | None = None,
    ) -> None:
        self._settings = settings
        self._blueprint = blueprint
        self._exempt: dict[object, Any] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Guard an application.

        :raises ConfigurationError: for settings that cannot be used
        :raises RuntimeError: when the application is guarded already
        """
        if EXTENSION in app.extensions:
            raise RuntimeError("LLMAuth guards this application already.")
        settings = self._settings or from_flask(app.config)
        with hiding(settings.secrets):
            app.extensions[EXTENSION] = State(settings)
        if self._settings is None:
            warn(settings)
        app.before_request(self._guard)
        app.after_request(self._finish)

    def exempt(self, view: _ViewOrBlueprint) -> _ViewOrBlueprint:
        """Let requests to this view, or to all views of this blueprint, in without a key.

        It counts for the applications of this LLMAuth only, and never for the proxy, whatever
        blueprint that is registered below.

        :param view: a blueprint, a class of views, or a function, also one that decorators with
            ``functools.wraps`` stand around
        """
        self._exempt[_identity(view)] = view
        return view

    def _guard(self) -> Response | None:
        if not self._concerned():
            return None
        state, environ = current_state(), request.environ
        info = state.guard.info(environ)
        if info.public and not state.serves_pages:
            # A view that needs no key may hand its environ to another one, which needs one.
            info.decided = False
            info.path, info.query = raw_target(environ)
        if not info.decided:
            public = self._is_public(state, info)
            state.admit(info, environ, public=public, forwards=public and _is_proxy())
        if info.refusal is not None:
            raise info.refusal
        if not info.preflight:
            return None
        try:
            return _answer_preflight(state, environ)
        except RequestRefused as refusal:
            raise identified(refusal, info) from None

    def _is_public(self, state: State, info: RequestInfo) -> bool:
        if _is_proxy():
            path = (request.view_args or {}).get("path")
            return path is not None and _proxy_is_public(state, info, path)
        public = state.guard.is_public(
            info, request.environ, pages=state.serves_pages, any_method=not state.serves_pages
        )
        return public or self._is_exempt()

    def _finish(self, response: Response) -> Response:
        """Give an answer its headers, unless it leaves through an entry of ours, which does."""
        state, environ = current_state(), request.environ
        if environ.get(ENTRY) is state or not self._concerned():
            return response
        info = state.guard.info(environ)
        if info.backend or info.error:
            added = state.added_headers(info, environ, response.headers.keys())
        else:  # the host's own answer
            added = state.cors.headers(environ)
        response.headers.extend(added)
        return response

    def _concerned(self) -> bool:
        if self._blueprint is None or _is_proxy():
            return True
        if request.environ.get(_REACHED_PROXY) is current_state():
            return True  # a view of the host has called it
        # By what it is: nested or renamed it is registered under another name.
        return any(blueprint is self._blueprint for blueprint in _blueprints())

    def _is_exempt(self) -> bool:
        if redirected := _redirected_to():  # no view runs: Flask adds a slash, or leaves one out
            view = current_app.view_functions[redirected]
            if getattr(view, _ALWAYS_GUARDED, False):
                return False
            names = accumulate(redirected.split(".")[:-1], "{}.{}".format)
            parts = (*_layers(view), *_registered(names))
        else:
            parts = (*_layers(_view()), *_blueprints())
        return any(_identity(part) in self._exempt for part in parts)


def always_guarded(view: _View) -> _View:
    """Guard this view even where LLMAuth is there for another blueprint only."""
    setattr(view, _ALWAYS_GUARDED, True)
    return view


def admit_to_proxy(path: str) -> tuple[State, RequestInfo]:
    """Make sure that this request may be forwarded, whatever view of the host has called us.

    :param path: below the proxy's root, decoded
    :returns: of the application, and what is known of the request
    :raises RequestRefused: the answer for the client
    """
    state, environ = current_state(), request.environ
    info = state.guard.info(environ)
    environ[_REACHED_PROXY] = state
    if not info.admitted:
        info.public = _proxy_is_public(state, info, path)
        if not info.public:
            state.guard.check(info, environ, state.redactor.observe)
        info.admitted = True
    return state, info


def _proxy_is_public(state: State, info: RequestInfo, path: str) -> bool:
    """True for what is forwarded without a key: to read, and from the default backend."""
    public = state.guard.is_public(info, request.environ, pages=False)
    return public and not state.router.names_another("/" + path)


def _is_proxy() -> bool:
    return getattr(_view(), _ALWAYS_GUARDED, False)


def _identity(view: Any) -> object:
    """Return what tells a view from all others; bound methods are made anew for each use."""
    return (id(view.__self__), id(view.__func__)) if ismethod(view) else id(view)


def _layers(view: Any) -> Iterator[Any]:
    """Yield a view and what its decorators stand around, with its class if it has one."""
    while view is not None:
        yield view
        yield getattr(view, "view_class", None)
        view = getattr(view, "__wrapped__", None)


def _view() -> Callable[..., Any] | None:
    return current_app.view_functions.get(request.endpoint or "")


def _redirected_to() -> str | None:
    """Return the endpoint to which Flask redirects the request by itself, None if it does not."""
    redirect, adapter = request.routing_exception, current_app.create_url_adapter(request)
    if not isinstance(redirect, RequestRedirect) or adapter is None:
        return None
    path = urlsplit(redirect.new_url).path.removeprefix(request.script_root)
    try:
        endpoint, _ = adapter.match(unquote(path))
    except HTTPException:
        return None
    return str(endpoint)


def _blueprints() -> list[Any]:
    return _registered(request.blueprints)


def _registered(names: Iterable[str]) -> list[Any]:
    # An endpoint of the application itself may have a dot as well, before which is no blueprint.
    return [current_app.blueprints[name] for name in names if name in current_app.blueprints]


def _answer_preflight(state: State, environ: dict[str, Any]) -> Response | None:
    """Answer a browser's question, which carries no key, without letting it in.

    Unless pages are let in by our own settings, the application that we guard decides: whatever
    adds its CORS headers to every response adds them to this empty one too. A view that a
    decorator has taken OPTIONS from (which Flask's documentation shows with these two attributes)
    never sees the request, and the decorator answers.
    """
    if state.cors.enabled or state.serves_pages:
        return Response(status=204, headers=state.cors.preflight(environ))
    view = _view()
    decorated = getattr(view, "provide_automatic_options", None) is False
    if decorated and "OPTIONS" in getattr(view, "required_methods", ()):
        return None
    return Response(status=204)


def current_key() -> str | None:
    """Return the name of the key that let the current request in.

    None where no key was asked for (an exempt view, an application that is not guarded,
    authentication off), in the handler of a refusal, and outside of a request.
    """
    state: State | None = current_app.extensions.get(EXTENSION) if has_request_context() else None
    if state is None:
        return None
    info = state.guard.info(request.environ)
    return info.key_name if info.admitted else None


def current_state() -> State:
    """Return the state of the current application.

    :raises RuntimeError: when it is not guarded
    """
    state: State | None = current_app.extensions.get(EXTENSION)
    if state is None:
        raise RuntimeError("Call LLMAuth().init_app(app) before the first request.")
    return state
