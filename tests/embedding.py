"""An existing Flask application, as somebody else wrote it."""

from __future__ import annotations

from flask import Blueprint, Flask

KEY = "key-of-the-application-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}


def application(**config) -> Flask:
    app = Flask(__name__)
    app.config["LLMAUTH_API_KEY"] = KEY
    app.config.update({f"LLMAUTH_{name}": value for name, value in config.items()})
    app.add_url_rule("/own", "own", lambda: "own")
    return app


def api_blueprint() -> Blueprint:
    api = Blueprint("api", __name__, url_prefix="/api")
    api.add_url_rule("/x", "x", lambda: "x", methods=["GET", "POST"])
    return api
