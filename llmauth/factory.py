"""The stand-alone application: guard, proxy and pages composed."""

from __future__ import annotations

import logging

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from .access_log import Entry
from .configuration import load
from .exceptions import InternalError, MethodRefused, RequestRefused, UnknownRoute
from .extension import EXTENSION, LLMAuth, State
from .pages import pages_blueprint
from .proxy import proxy_blueprint
from .settings import Settings

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
    app.register_blueprint(proxy_blueprint)
    app.register_error_handler(HTTPException, _restyled)
    app.register_error_handler(Exception, _unexpected)
    app.wsgi_app = Entry(app.wsgi_app, state)  # type: ignore[method-assign]
    return app


def _restyled(error: HTTPException) -> Response:
    """Give Flask's own refusals the body that every client understands."""
    if isinstance(error, RequestRefused):
        return error.get_response()
    if error.code == 405:
        return MethodRefused("This path does not take this method.").get_response()
    if error.code == 404:
        return UnknownRoute("There is nothing at this path.").get_response()
    refusal = InternalError(error.description or error.name)
    response = refusal.get_response()
    response.status_code = error.code or 500
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return InternalError("This server failed. Its log says more.").get_response()
