"""The guard on a Flask application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, current_app, request

from .backends import Backend, Router
from .capture import WireCapture
from .configuration import require_keys, warn
from .cors import Cors
from .descriptors import connections_within, file_limit
from .exceptions import RequestRefused
from .flask_settings import from_flask
from .guard import Guard, RequestInfo, refusal_headers
from .journal import Journal
from .key_files import KeyFiles
from .keys import hiding
from .lifecycle import Lifecycle, server_stopping
from .pump import Pump
from .redaction import Redactor
from .settings import Settings
from .upstream import Upstream, open_upstream

EXTENSION = "llmauth"
_EXEMPT = "_llmauth_exempt"
_ALWAYS_GUARDED = "_llmauth_always_guarded"
_View = TypeVar("_View", bound=Callable[..., Any])
_ViewOrBlueprint = TypeVar("_ViewOrBlueprint", bound=Callable[..., Any] | Blueprint)


class State:
    """What one application has of llmauth; kept in ``app.extensions["llmauth"]``."""

    def __init__(self, settings: Settings) -> None:
        require_keys(settings)
        self.settings = settings
        self.redactor = Redactor(settings.secrets)
        self.guard = Guard(settings)
        self.cors = Cors(settings.cors_origins)
        self.backends = {name: Backend(own) for name, own in settings.backends.items()}
        self.key_files = KeyFiles(settings, self.guard, self.backends, self.redactor)
        unused = {name for name, own in settings.backends.items() if not settings.uses(own)}
        self.router = Router(self.backends, settings.default_backend, unused)
        self.lifecycle = Lifecycle(settings.threads)
        self.journal = Journal()
        self.pump = Pump(lambda: self.lifecycle.cut)
        self.serves_pages = False
        self.capture: WireCapture | None = None
        if settings.capture_file:
            self.capture = WireCapture(
                settings.capture_file,
                self.redactor,
                max_bytes=settings.capture_max_bytes,
                max_files=settings.capture_max_files,
            )
        self._upstreams: dict[str, Upstream] = {}

    def upstream(self, backend: Backend) -> Upstream:
        """Return the backend's upstream, opened when it is used for the first time."""
        found = self._upstreams.get(backend.name)
        if found is None:
            used = sum(map(self.settings.uses, self.settings.backends.values()))
            kept = connections_within(file_limit()) // max(1, used)
            opened = open_upstream(backend, max(1, min(self.settings.threads, kept)))
            found = self._upstreams.setdefault(backend.name, opened)
        return found

    def admit(
        self, environ: dict[str, Any], *, exempt: bool = False, at_once: bool = False
    ) -> RequestInfo:
        """Decide once whether a request is let in; see :meth:`llmauth.guard.Guard.admit`.

        :param exempt: the application lets everybody see it
        :param at_once: leave it undecided if a store or a disk would have to be asked
        """
        guard = self.guard
        info = guard.info(environ)
        if info.decided:
            return info
        info.public = exempt or guard.is_public(info, environ, self.serves_pages)
        answered_by_us = self.cors.enabled or not info.public
        info.preflight = answered_by_us and self.cors.is_preflight(environ)
        open = info.public or info.preflight
        if self.lifecycle.draining and not info.public:
            info.refuse(server_stopping())
            return info
        if not open:
            if at_once and (self.key_files.due or guard.may_wait(info)):
                return info
            self.key_files.look()
        guard.admit(info, environ, open=open, observe=self.redactor.observe)
        return info

    def admit_raw(self, environ: dict[str, Any], *, at_once: bool = False) -> RequestInfo:
        """The same before Flask, which is made to see the path that was decided on."""
        environ["PATH_INFO"] = self.guard.info(environ).path
        return self.admit(environ, at_once=at_once)

    def close(self) -> None:
        """Cut streams, close idle connections and write out the capture."""
        self.pump.close()
        for upstream in self._upstreams.values():
            upstream.close()
        if self.capture:
            self.capture.close(5.0)
        self.journal.flush()


class LLMAuth:
    """Lets in only requests that carry one of the proxy keys.

    ::

        auth = LLMAuth()
        auth.init_app(app)         # every request to app, unknown paths included
        LLMAuth(blueprint=api)     # or one blueprint only, which init_app then guards

    The proxy's own blueprint is guarded in any case.

    Settings come from ``app.config["LLMAUTH_…"]`` and the environment; see
    :func:`llmauth.flask_settings.from_flask`.

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
        app.after_request(self._let_pages_read)

    def exempt(self, view: _ViewOrBlueprint) -> _ViewOrBlueprint:
        """Let requests to this view, or to all views of this blueprint, in without a key."""
        setattr(view, _EXEMPT, True)
        return view

    def _guard(self) -> Response | None:
        if not self._concerned():
            return None
        state, environ = current_state(), request.environ
        info = state.admit(environ, exempt=self._is_exempt())
        if info.refusal is not None:
            raise info.refusal
        if not info.preflight:
            return None
        try:
            return _answer_preflight(state, environ)
        except RequestRefused as refusal:
            raise refusal_headers(refusal, info) from None

    def _let_pages_read(self, response: Response) -> Response:
        if self._concerned():
            response.headers.extend(current_state().cors.headers(request.environ))
        return response

    def _concerned(self) -> bool:
        if self._blueprint is None or getattr(_view(), _ALWAYS_GUARDED, False):
            return True
        # By what it is: nested or renamed it is registered under another name.
        return any(blueprint is self._blueprint for blueprint in _blueprints())

    def _is_exempt(self) -> bool:
        return any(getattr(one, _EXEMPT, False) for one in (_view(), *_blueprints()))


def always_guarded(view: _View) -> _View:
    """Guard this view even where LLMAuth is there for another blueprint only."""
    setattr(view, _ALWAYS_GUARDED, True)
    return view


def _view() -> Callable[..., Any] | None:
    return current_app.view_functions.get(request.endpoint or "")


def _blueprints() -> list[Any]:
    return [current_app.blueprints[name] for name in request.blueprints]


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


def current_state() -> State:
    """Return the state of the current application.

    :raises RuntimeError: when it is not guarded
    """
    state: State | None = current_app.extensions.get(EXTENSION)
    if state is None:
        raise RuntimeError("Call LLMAuth().init_app(app) before the first request.")
    return state
