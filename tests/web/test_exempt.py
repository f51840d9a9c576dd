"""What ``exempt`` opens: views of the applications of that LLMAuth, and never the proxy."""

from __future__ import annotations

import functools

import pytest
from embedding import BEARER, api_blueprint, application
from flask import Blueprint, Flask, Response, request
from flask.views import MethodView, View

from llmauth import LLMAuth, proxy_blueprint


def statuses(app: Flask, *paths: str) -> list[int]:
    client = app.test_client()
    return [client.get(path).status_code for path in paths]


def page():
    return "page"


class Page(MethodView):
    def get(self):
        return "page"


class Other(Page):
    pass


def test_an_exempt_view_is_guarded_in_another_application():
    """Both have the same function, of a library for one; so has a third, guarded in part."""
    auth, other, part = LLMAuth(), LLMAuth(), LLMAuth(blueprint=api_blueprint())
    apps = [application() for _ in range(4)]
    for app, guard in zip(apps, (auth, auth, other, part), strict=True):
        guard.init_app(app)
        app.add_url_rule("/page", view_func=page)
    auth.exempt(page)
    assert [statuses(app, "/page") for app in apps] == [[200], [200], [401], [200]]


def test_an_exempt_blueprint_is_guarded_in_another_application():
    api = api_blueprint()
    one, two = application(), application()
    auth, other = LLMAuth(one), LLMAuth(two)
    auth.exempt(api)
    one.register_blueprint(api)
    two.register_blueprint(api)
    assert (statuses(one, "/api/x"), statuses(two, "/api/x")) == ([200], [401])
    other.exempt(api)
    assert statuses(two, "/api/x") == [200]


@pytest.mark.parametrize("when", ["first", "after init_app", "last"])
@pytest.mark.parametrize("what", ["view", "blueprint", "parent"])
def test_the_order_does_not_count(when, what):
    app, auth, api, parent = application(), LLMAuth(), Blueprint("a", "a"), Blueprint("p", "p")
    api.add_url_rule("/x", "x", page)
    exempted = {"view": page, "blueprint": api, "parent": parent}[what]
    if when == "first":
        auth.exempt(exempted)
    auth.init_app(app)
    if when == "after init_app":
        auth.exempt(exempted)
    parent.register_blueprint(api, name="renamed")
    app.register_blueprint(parent, url_prefix="/p")
    if when == "last":
        auth.exempt(exempted)
    assert statuses(app, "/p/x", "/own", "/p/nothing") == [200, 401, 401]


@pytest.mark.parametrize("what", ["view", "blueprint", "parent"])
def test_where_flask_redirects_to_an_exempt_view_it_does_so_without_a_key(what):
    app, api, parent = application(), Blueprint("a", "a"), Blueprint("p", "p")
    auth = LLMAuth(app)
    api.add_url_rule("/x/", "x", page)
    api.add_url_rule("/y/", "y", lambda: "y")
    parent.register_blueprint(api)
    parent.register_blueprint(proxy_blueprint, url_prefix="/llm")
    auth.exempt({"view": page, "blueprint": api, "parent": parent}[what])
    app.register_blueprint(parent, url_prefix="/p")
    app.add_url_rule("/own/slash/", "own_slash", lambda: "own")
    assert statuses(app, "/p/x", "/p/x/?a=b", "/own/slash", "/p/llm") == [308, 200, 401, 401]
    assert statuses(app, "/p/y") == [401 if what == "view" else 308]


def test_an_endpoint_with_a_dot_needs_no_blueprint():
    app = application()
    auth = LLMAuth(app)
    app.add_url_rule("/z", "v1.z", auth.exempt(page))
    app.add_url_rule("/y", "v1.y", lambda: "y")
    assert statuses(app, "/z", "/y") == [200, 401]


def decorated(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def undecorated(view):
    return lambda *args, **kwargs: view(*args, **kwargs)


class Object:
    __hash__ = None  # as a dataclass has none

    def __call__(self):
        return "page"

    def method(self):
        return "page"


OBJECT, STRANGER = Object(), Object()


def exempt_class(auth):
    return auth.exempt(type("Exempt", (Page,), {})).as_view("x")


VIEWS = {
    "innermost": lambda auth: decorated(decorated(auth.exempt(lambda: "page"))),
    "outermost": lambda auth: auth.exempt(decorated(page)),
    "between": lambda auth: decorated(auth.exempt(decorated(lambda: "page"))),
    "class": exempt_class,
    "decorated class": lambda auth: decorated(exempt_class(auth)),
    "as_view": lambda auth: auth.exempt(Page.as_view("x")),
    "decorators": lambda auth: type("D", (Page,), {"decorators": [auth.exempt]}).as_view("x"),
    "method": lambda auth: auth.exempt(OBJECT.method) and OBJECT.method,
    "object": lambda auth: auth.exempt(OBJECT),
    "partial": lambda auth: auth.exempt(functools.partial(page)),
}
GUARDED = {
    "same class, another view": lambda auth: auth.exempt(Page.as_view("y")) and Page.as_view("x"),
    "subclass": lambda auth: auth.exempt(Page) and Other.as_view("x"),
    "what an exempt one wraps": lambda auth: auth.exempt(decorated(page)) and page,
    "another object's method": lambda auth: auth.exempt(OBJECT.method) and STRANGER.method,
    "another object": lambda auth: auth.exempt(OBJECT) and STRANGER,
    "another wrapper": lambda auth: auth.exempt(decorated(page)) and decorated(page),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
def test_views_of_every_kind_are_exempt(make):
    app = application()
    auth = LLMAuth(app)
    app.add_url_rule("/x", "x", make(auth))
    assert statuses(app, "/x", "/own") == [200, 401]


@pytest.mark.parametrize("make", GUARDED.values(), ids=GUARDED)
def test_what_only_resembles_an_exempt_view_is_guarded(make):
    app = application()
    auth = LLMAuth(app)
    app.add_url_rule("/x", "x", make(auth))
    assert statuses(app, "/x") == [401]


def below(auth, app, depth=1):
    """Register the proxy below blueprints that are all exempt."""
    blueprint = proxy_blueprint
    for number in range(depth):
        parent = auth.exempt(Blueprint(f"parent{number}", __name__))
        parent.register_blueprint(blueprint)
        blueprint = parent
    app.register_blueprint(blueprint, url_prefix="/llm")


def forwarding(app):
    app.register_blueprint(proxy_blueprint, url_prefix="/other")
    return app.view_functions["llmauth_proxy.forward"]


def as_view(auth, app, view):
    rule = "/llm/<path:path>"
    app.add_url_rule(rule, "x", view, methods=["GET", "POST", "OPTIONS"])


class Forwarding(View):
    def __init__(self, forward):
        self.forward = forward

    def dispatch_request(self, path):
        return self.forward(path)


def replaced(auth, app):
    """As instrumentation does it, which knows nothing of ``functools.wraps``."""
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    view = app.view_functions["llmauth_proxy.forward"]
    app.view_functions["llmauth_proxy.forward"] = auth.exempt(undecorated(view))


PROXIES = {
    "exempt parent": below,
    "exempt grandparent": functools.partial(below, depth=3),
    "exempt blueprint": lambda auth, app: app.register_blueprint(
        auth.exempt(proxy_blueprint), url_prefix="/llm"
    ),
    "exempt view": lambda auth, app: as_view(auth, app, auth.exempt(forwarding(app))),
    "wrapped": lambda auth, app: as_view(auth, app, auth.exempt(decorated(forwarding(app)))),
    "called": lambda auth, app: as_view(auth, app, auth.exempt(undecorated(forwarding(app)))),
    "class": lambda auth, app: as_view(
        auth, app, auth.exempt(Forwarding.as_view("y", forwarding(app)))
    ),
    "replaced": replaced,
}


@pytest.mark.parametrize("register", PROXIES.values(), ids=PROXIES)
@pytest.mark.parametrize("guards", ["all", "blueprint"])
def test_the_proxy_is_never_exempt(upstream, register, guards):
    app = application(BACKENDS={"openai": upstream.url}, BYPASS_PATHS=["/llm/v1/models"])
    auth = LLMAuth(app, blueprint=None if guards == "all" else api_blueprint())
    register(auth, app)
    client = app.test_client()
    for path in ("/llm/v1/x", "/llm/v1/models"):
        reply = client.post(path, data=b"{}")
        assert reply.status_code == 401
        assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert client.options("/llm/v1/x").status_code == 401
    wrong = {"Authorization": "Bearer wrong-key-0123456789"}
    assert client.get("/llm/v1/x", headers=wrong).status_code == 401
    assert upstream.requests == []
    assert client.get("/llm/v1/models").status_code == 200  # a bypass path is meant to be open
    reply = client.post("/llm/v1/x", headers=BEARER, data=b"{}")
    assert (reply.status_code, len(upstream.requests)) == (200, 2)


def test_a_request_to_the_proxy_counts_once(upstream):
    """The guard's verdict is kept: the view does not ask it again."""
    app = application(BACKENDS={"openai": upstream.url}, MAX_FAILED_ATTEMPTS=2)
    auth = LLMAuth(app)
    below(auth, app)
    client = app.test_client()
    found = [
        client.get("/llm/v1/x", headers={"x-api-key": f"wrong-key-012345678{n}"}).status_code
        for n in range(3)
    ]
    assert found == [401, 401, 429]


@pytest.mark.parametrize("bypass", [(), ("/open",)], ids=["exempt", "bypass path"])
def test_a_view_without_a_key_does_not_open_the_one_that_it_calls(bypass):
    """With the same environ, as a redirect inside an application does it."""
    app = application(BYPASS_PATHS=bypass)
    auth = LLMAuth(app)
    app.add_url_rule("/page", view_func=page)

    @app.get("/open")
    def opened():
        inner = {**request.environ, "PATH_INFO": "/page", "REQUEST_URI": "/page"}
        return Response.from_app(app.wsgi_app, inner)

    if not bypass:
        auth.exempt(opened)
    assert statuses(app, "/open", "/page") == [401, 401]
    assert app.test_client().get("/open", headers=BEARER).data == b"page"
