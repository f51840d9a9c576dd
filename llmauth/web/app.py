"""The stand-alone application: guard, proxy and pages composed."""

from __future__ import annotations

import logging
import sqlite3

from flask import Flask, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import WebsocketMismatch
from werkzeug.wrappers import Response

from ..auth.request import identified
from ..config.loading import load
from ..config.settings import Settings
from ..exceptions import (
    InternalError,
    MethodRefused,
    RequestRefused,
    Unavailable,
    UnknownRoute,
    UpgradeRefused,
)
from .admin import admin_blueprint
from .blueprint import proxy_blueprint
from .entry import Entry
from .extension import EXTENSION, LLMAuth, State, current_state
from .metrics import metrics_blueprint
from .pages import pages_blueprint

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Flask:
    """Return the proxy as a Flask application.

    :param settings: by default those of the environment and of the file that it names
    :raises ConfigurationError: for settings that cannot be used, and without a key
    """
    app = Flask("llmauth", static_folder=None)
    LLMAuth(app, settings=settings or load())
    state: State = app.extensions[EXTENSION]
    state.serves_pages = True
    app.url_map.merge_slashes = False
    app.register_blueprint(pages_blueprint)
    app.register_blueprint(admin_blueprint)
    if state.accounts:  # else the path is the backend's own
        app.register_blueprint(metrics_blueprint)
    app.register_blueprint(proxy_blueprint)
    app.register_error_handler(HTTPException, _restyled)
    app.register_error_handler(sqlite3.Error, _no_database)
    app.register_error_handler(Exception, _unexpected)
    app.wsgi_app = Entry(app.wsgi_app, state)  # type: ignore[method-assign]
    return app


def _restyled(error: HTTPException) -> Response:
    """Give Flask's own refusals the body that every client understands."""
    if isinstance(error, RequestRefused):
        return error.get_response()
    return _answered(_translated(error))


def _translated(error: HTTPException) -> RequestRefused:
    if isinstance(error, MethodNotAllowed):
        return MethodRefused(request.method, error.valid_methods or ())
    if isinstance(error, WebsocketMismatch):
        return UpgradeRefused()
    if error.code == 404:
        return UnknownRoute("There is nothing at this path.")
    refusal = InternalError(error.description or error.name)
    refusal.code = error.code or 500
    return refusal


def _answered(refusal: RequestRefused) -> Response:
    return identified(refusal, current_state().guard.info(request.environ)).get_response()


def _no_database(error: sqlite3.Error) -> Response:
    request_id = current_state().guard.info(request.environ).id
    logger.warning("%s: the database cannot be read: %s", request_id, error)
    return _answered(Unavailable("The database cannot be read. Try again.", retry_after=5))


def _unexpected(error: Exception) -> Response:
    request_id = current_state().guard.info(request.environ).id
    logger.error(
        "%s: unexpected error", request_id, exc_info=error, extra={"request_id": request_id}
    )
    return _answered(InternalError("This server failed. Its log says more."))
