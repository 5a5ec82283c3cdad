"""Section 3: the app says who asks, by the request's cookies and headers; what it does not say lets nobody in."""

import json
import subprocess
import threading
import time

import pytest
from support.app import App, claims
from support.event_stream import EventStream
from support.process import BATON, wait_for
from support.raw import Raw
from support.servers import Gateway
from support.tokens import bearer, token
from test_identity import refused

SECRET = b"a secret of this test, longer than 32 bytes"
UNKNOWN = iter(range(10**6))


def cookie():
    """One that no other test uses."""
    return {"Cookie": f"login=c-{next(UNKNOWN)}-{time.time_ns()}"}


@pytest.fixture
def app(shared_app):
    shared_app.answer, shared_app.asked = claims(), []
    if not shared_app.server:
        shared_app.start()
    return shared_app


@pytest.fixture(scope="module")
def shared_app():
    app = App()
    yield app
    app.kill()


@pytest.fixture(scope="module")
def shared_guarded(tmp_path_factory, redis, shared_app):
    gateway = Gateway(
        tmp_path_factory.mktemp("asked"), redis.url, "gw-asks", "--auth-url", shared_app.url, "--auth-timeout", "3s", "--log-level", "debug")
    yield gateway
    gateway.kill()


@pytest.fixture
def guarded(shared_guarded, app):
    return shared_guarded


def status(gateway, headers, method="GET"):
    """404 is for who may look: the session does not exist."""
    return gateway.request(method, "/v1/sessions/absent", headers=headers).status


def test_a_cookie_lets_in_by_every_representation(redis, guarded, app, session, attach):
    mine, id = cookie(), redis.add(session, data="x")
    attach(guarded, session, headers=mine).until_at(id)
    EventStream(guarded, session, headers=mine).until_at(id).close()
    assert guarded.request("GET", f"/v1/sessions/{session}", headers=mine).status == 200
    body = {**mine, "Content-Type": "application/json"}
    assert guarded.request("POST", f"/v1/sessions/{session}", '{"data":"y"}', body).status == 201
    assert guarded.request("DELETE", f"/v1/sessions/{session}", headers=mine).status == 204


def test_the_app_gets_the_cookies_and_headers_and_nothing_else(guarded, app, session):
    headers = {"Cookie": "a=1; b=2", "User-Agent": "t", "Authorization": "Basic eDp5", "X-Other": "o", "X-Forwarded-Host": "elsewhere"}
    assert status(guarded, headers) == 404
    (asked,) = app.asked
    assert {name: asked[name] for name in ("cookie", "user-agent", "authorization")} == {
        "cookie": "a=1; b=2", "user-agent": "t", "authorization": "Basic eDp5"}  # fmt: skip
    assert asked["host"] == f"127.0.0.1:{app.port}" and asked[":path"] == "/who"
    assert not [name for name in asked if name.startswith("x-")]


@pytest.mark.parametrize("way", ["header", "subprotocol", "query"])
def test_a_token_is_passed_on_where_there_is_no_key(guarded, app, session, attach, way):
    given = f"opaque-{way}"
    options = {"header": {"headers": bearer(given)}, "subprotocol": {"subprotocols": ("baton.v1", f"bearer.{given}")}, "query": {"token": given}}
    attach(guarded, session, **options[way]).until_live()
    assert app.asked[0]["authorization"] == f"Bearer {given}"


def test_a_token_writes_no_header(guarded, app, session):
    guarded.upgrade(f"/v1/sessions/{session}?token=x%0d%0aCookie:%20login=root").problem(401)
    assert app.asked == []


@pytest.mark.parametrize("lines", [
    "Cookie: a=1\r\nCookie: b=2\r\n", "Cookie: a=\x80\xff\r\n", "Cookie: a=1\tb\r\n", "Cookie:\r\n", "Cookie: a=1;;;;\r\nUser-Agent: %0d%0aX: y\r\n",
    "Cookie: " + "; ".join(f"c{n}={n}" for n in range(500)) + "\r\n",
], ids=repr)  # fmt: skip
def test_odd_cookies_reach_the_app_as_headers_or_not_at_all(guarded, app, session, lines):
    raw = Raw(guarded).send(f"GET /v1/sessions/{session} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode("latin1"))
    assert int(raw.until("\r\n\r\n").split()[1]) in (400, 401, 404)
    raw.socket.close()
    for asked in app.asked:
        assert set(asked) <= {":path", "host", "cookie", "user-agent", "accept", "accept-encoding", "connection", "content-length"}, asked
        assert not [value for value in asked.values() if set(value) & set("\r\n\0")]


def test_claims_are_enforced(guarded, app, session):
    app.answer = claims(sessions=["other"])
    refused(guarded, session, 403, cookie())
    app.answer = claims(scope=["read"])
    mine = cookie()
    assert guarded.request("DELETE", f"/v1/sessions/{session}", headers=mine).problem(403)


def test_401_and_403_refuse_and_are_not_remembered(guarded, app, session):
    mine = cookie()
    for said in (401, 403):
        app.answer = said
        refused(guarded, session, said, mine)
    app.answer = claims()
    assert status(guarded, mine) == 404


def test_claims_are_remembered_until_their_end(guarded, app):
    mine, other = cookie(), cookie()
    app.answer = claims(exp=3)
    ends = app.answer["exp"]
    for _ in range(5):
        assert status(guarded, mine) == 404
    assert len(app.asked) == 1
    status(guarded, other)
    assert len(app.asked) == 2
    wait_for(lambda: time.time() > ends + 0.1, 10, "the claims' end")
    app.answer = 401
    assert status(guarded, mine) == 401


def test_the_same_is_asked_once_at_a_time(guarded, app):
    held, answers = threading.Event(), []

    def answer(_):
        held.wait(20)
        return claims()

    app.answer = answer
    mine = cookie()
    threads = [threading.Thread(target=lambda: answers.append(status(guarded, mine))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: app.asked, 10, "the app is asked")
    held.set()
    for thread in threads:
        thread.join()
    assert answers == [404] * 8 and len(app.asked) == 1


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


BROKEN = {
    "a redirect": lambda app: lambda handler: handler.say(302, "", Location=f"http://127.0.0.1:{app.port}/elsewhere"),
    "not found": lambda app: 404,
    "a failure": lambda app: 500,
    "nothing": lambda app: 204,
    "not JSON": lambda app: lambda handler: handler.say(200, "hello"),
    "no exp": lambda app: {"sub": "ada", "sessions": ["*"], "scope": ["read"]},
    "another type": lambda app: claims(sessions="*"),
    "a claim twice": lambda app: lambda handler: handler.say(200, json.dumps(claims())[:-1] + ', "sub": "root"}'),
    "depth": lambda app: lambda handler: handler.say(200, "[" * 60_000),
    "a list": lambda app: lambda handler: handler.say(200, json.dumps([claims()])),
    "too long": lambda app: claims(more="x" * 70_000),
    "a cut": lambda app: lambda handler: handler.connection.shutdown(2),
    "without an end": lambda app: drip,
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_503(guarded, app, session, make):
    app.answer = make(app)
    mine = cookie()
    answer = guarded.upgrade(f"/v1/sessions/{session}", mine)
    answer.problem(503)
    assert answer.headers["retry-after"] and "auth-unavailable" in answer.body.decode()
    assert all(asked[":path"] == "/who" for asked in app.asked)
    app.answer = claims()
    assert status(guarded, mine) == 404


def test_expired_claims_are_401(guarded, app):
    app.answer = claims(exp=-70)
    assert status(guarded, cookie()) == 401


def test_without_the_app_nobody_new_gets_in(redis, guarded, app, session, attach):
    mine = cookie()
    device = attach(guarded, session, headers=mine).until_live()
    app.kill()
    guarded.upgrade(f"/v1/sessions/{session}", cookie()).problem(503)
    guarded.request("GET", f"/v1/sessions/{session}", headers=cookie()).problem(503)
    wait_for(lambda: "--auth-url gives no verdict" in guarded.process.logged(), 10, "a line about it")
    # What is remembered holds, and who is attached stays.
    assert status(guarded, mine) == 404
    device.until_at(redis.add(session, data="x"))
    app.start()
    assert status(guarded, cookie()) == 404


def test_attached_devices_are_asked_about_before_the_end(redis, guarded, app, session, attach):
    app.answer = lambda _: claims(exp=4)
    mine, ends = cookie(), time.time() + 6
    device, stream = attach(guarded, session, headers=mine).until_live(), EventStream(guarded, session, headers=mine)
    wait_for(lambda: time.time() > ends, 20, "the first claims' end")
    id = redis.add(session, data="x")
    device.until_at(id)
    stream.until_at(id)
    app.answer = 401
    assert device.until_closed(20) == 4401
    wait_for(lambda: stream.ended, 20, "the stream's end")


@pytest.mark.parametrize("said", [lambda: 403, lambda: claims(sessions=["other"]), lambda: claims(sub="eve")])
def test_an_attached_device_that_may_no_longer_is_closed(guarded, app, session, attach, said):
    app.answer = claims(exp=4)
    device = attach(guarded, session, headers=cookie()).until_live()
    app.answer = said()
    assert device.until_closed(20) == 4403


def test_a_silent_app_keeps_devices_until_the_end(guarded, app, session, attach):
    app.answer = claims(exp=5)
    device = attach(guarded, session, headers=cookie()).until_live()
    app.answer = 500
    assert device.until_type("expiring")["inMs"] <= 4000
    assert device.until_closed(20) == 4401


def test_auth_without_a_token_asks_again(guarded, app, session, attach):
    app.answer = claims(exp=60)
    device = attach(guarded, session, headers=cookie()).until_live()
    app.answer = 503
    device.send({"type": "auth"})
    assert device.until_type("error")["code"] == "auth_unavailable"
    app.answer = claims(exp=600)
    device.send({"type": "auth"})
    assert device.until_type("authenticated")["expiresInMs"] > 500_000
    app.answer = claims(exp=900)
    device.send({"type": "auth", "token": "newer"})
    assert device.until_type("authenticated", 2)["expiresInMs"] > 800_000
    assert app.asked[-1]["authorization"] == "Bearer newer" and "login=" in app.asked[-1]["cookie"]


def test_tokens_are_checked_here_where_there_is_a_key(redis, app, session, tmp_path, new_gateway):
    (tmp_path / "secret").write_bytes(SECRET)
    gateway = new_gateway(redis.url, "gw-both", "--auth-url", app.url, "--auth-secret-file", tmp_path / "secret")
    assert status(gateway, bearer(token())) == 404
    assert status(gateway, {**cookie(), **bearer("opaque")}) == 401
    assert app.asked == []
    assert status(gateway, cookie()) == 404 and len(app.asked) == 1


def test_asks_are_bounded(redis, app, new_gateway):
    gateway = new_gateway(redis.url, "gw-bounded", "--auth-url", app.url, "--max-auth-asks", "2", "--auth-timeout", "30s")
    held, answers = threading.Event(), []

    def answer(_):
        held.wait(20)
        return claims()

    app.answer = answer
    threads = [threading.Thread(target=lambda: answers.append(status(gateway, cookie()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(app.asked) == 2, 10, "two are asked about")
    assert status(gateway, cookie()) == 503
    assert gateway.metric("baton_limits_exceeded_total", limit="max-auth-asks") == 1
    held.set()
    for thread in threads:
        thread.join()
    assert answers == [404, 404]


def test_what_is_remembered_is_bounded(redis, app, new_gateway):
    gateway = new_gateway(redis.url, "gw-forgets", "--auth-url", app.url, "--auth-cache-bytes", "1KiB")
    mine = [cookie() for _ in range(10)]
    for one in mine:
        assert status(gateway, one) == 404
    assert status(gateway, mine[-1]) == 404 and len(app.asked) == 10
    assert status(gateway, mine[0]) == 404 and len(app.asked) == 11


def test_too_long_cookies_are_401(guarded, app):
    assert status(guarded, {"Cookie": "a=" + "x" * 9000}) == 401
    assert app.asked == []


@pytest.mark.parametrize("option, value", [
    ("--auth-url", "ftp://127.0.0.1/x"), ("--auth-url", "http://u:p@127.0.0.1/x"), ("--auth-url", "nonsense"),
    ("--auth-jwks-url", "file:///etc/passwd"), ("--auth-headers", "cookie,connection"), ("--auth-headers", "a b"),
])  # fmt: skip
def test_options_of_no_use_are_refused(redis, option, value):
    told = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis.url, option, value], capture_output=True, text=True, timeout=30)
    assert told.returncode == 78 and option in told.stderr and "u:p" not in told.stderr


def test_credentials_are_never_logged(guarded, app, session):
    app.answer = 500
    guarded.upgrade(f"/v1/sessions/{session}", {"Cookie": "login=hidden-cookie", "Authorization": "Basic aGlkZGVuOg=="}).problem(503)
    guarded.upgrade(f"/v1/sessions/{session}?token=hidden-token").problem(503)
    logged = guarded.process.logged()
    assert not [word for word in ("hidden-cookie", "aGlkZGVuOg", "hidden-token") if word in logged]
