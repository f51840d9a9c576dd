"""A small application with pages, a login and an API of its own, which has gained the proxy.

Everything between the two marks is llmauth; the rest was there before. People log in with a
password as ever; programs reach the models below /llm with the proxy's key::

    export LLM_INTERACTIVE_PROXY_API_KEY=$(llmauth keygen)
    export OPENAI_API_KEY=... NOTES_PASSWORD=...
    flask --app examples/existing_app run
    curl http://127.0.0.1:5000/llm/v1/models \\
      -H "Authorization: Bearer $LLM_INTERACTIVE_PROXY_API_KEY"
"""

from __future__ import annotations

import hmac
import os
import secrets

from flask import (
    Blueprint,
    Flask,
    abort,
    jsonify,
    redirect,
    render_template_string,
    request,
    session,
    url_for,
)

from llmauth import LLMAuth, proxy_blueprint

PAGE = """<!doctype html><title>Notes</title>
{% if user %}
<h1>Notes of {{ user }}</h1>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% else %}
<form method="post" action="{{ url_for('pages.login') }}">
<input name="user"><input name="password" type="password"><button>Log in</button>
</form>
{% endif %}"""

pages = Blueprint("pages", __name__)
api = Blueprint("api", __name__, url_prefix="/api")
notes: dict[str, list[str]] = {}


@pages.get("/")
def index():
    user = session.get("user")
    return render_template_string(PAGE, user=user, notes=notes.get(user, []))


@pages.post("/login")
def login():
    wanted = os.environ.get("NOTES_PASSWORD", "")
    if not wanted or not hmac.compare_digest(
        request.form.get("password", "").encode(), wanted.encode()
    ):
        abort(403)
    session["user"] = request.form["user"]
    return redirect(url_for("pages.index"))


@api.before_request
def only_people_who_are_logged_in():
    if "user" not in session:
        abort(401, "Log in first.")


@api.route("/notes", methods=["GET", "POST"])
def own_notes():
    mine = notes.setdefault(session["user"], [])
    if request.method == "POST":
        mine.append(request.get_json()["text"])
    return jsonify(mine)


def create_app() -> Flask:
    app = Flask(__name__)
    app.secret_key = os.environ.get("NOTES_SECRET_KEY") or secrets.token_bytes(32)
    app.register_blueprint(pages)
    app.register_blueprint(api)

    # llmauth: settings from FLASK_LLMAUTH_… and the environment, and everything below /llm
    app.config.from_prefixed_env()
    app.config.setdefault("LLMAUTH_MAX_FAILED_ATTEMPTS", 10)
    LLMAuth(app, blueprint=proxy_blueprint)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    # llmauth: end

    return app
