"""Section 3: HS256 tokens and their claims, enforced on every way in."""

import time

import pytest
from support.event_stream import EventStream
from support.process import BATON, wait_for
from support.tokens import bearer, part, token
from websockets.exceptions import InvalidStatus

@pytest.fixture(scope="module")
def guarded(shared, redis, secret):
    from support.servers import Gateway

    gateway = Gateway(shared, redis.url, "gw-auth", "--auth-secret-file", secret, "--log-level", "debug")
    yield gateway
    gateway.kill()


def refused(gateway, session, status, headers=None, query=""):
    """By all representations."""
    path = f"/v1/sessions/{session}{query}"
    gateway.upgrade(path, headers).problem(status)
    gateway.request("GET", path, headers=headers).problem(status)
    gateway.request("GET", path, headers={**(headers or {}), "Accept": "text/event-stream"}).problem(status)


def test_a_token_in_the_header(redis, guarded, session, attach):
    id = redis.add(session, data="x")
    attach(guarded, session, headers=bearer(token())).until_at(id)
    assert guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(token())).status == 200


def test_a_token_as_a_subprotocol_is_not_echoed(redis, guarded, session, attach):
    id = redis.add(session, data="x")
    device = attach(guarded, session, subprotocols=("baton.v1", f"bearer.{token()}")).until_at(id)
    assert device.socket.subprotocol == "baton.v1"


def test_a_token_in_the_query(redis, guarded, session, attach):
    id = redis.add(session, data="x")
    attach(guarded, session, token=token()).until_at(id)
    stream = EventStream(guarded, session, token=token())
    stream.until_at(id).close()


def test_the_header_wins(guarded, session):
    refused(guarded, session, 401, bearer("no.token.this"), f"?token={token()}")


def test_no_token_is_401(guarded, session):
    refused(guarded, session, 401)
    guarded.request("POST", f"/v1/sessions/{session}", "{\"data\":\"x\"}", {"Content-Type": "application/json"}).problem(401)
    guarded.request("DELETE", f"/v1/sessions/{session}").problem(401)


WRONG = {
    "not a token": lambda: "hello",
    "another secret": lambda: token(b"another secret, also longer than 32 bytes"),
    "expired": lambda: token(exp=-60),
    "no expiry": lambda: token(exp=None),
    "alg none": lambda: token(header={"alg": "none"}).rpartition(".")[0] + ".",
    "tampered": lambda: ".".join([token().split(".")[0], part({"sub": "eve", "exp": 9999999999, "sessions": ["*"], "scope": ["read"]}).decode(),
                                  token().split(".")[2]]),
    "empty": lambda: "",
}  # fmt: skip


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_token_is_401(guarded, session, make):
    refused(guarded, session, 401, bearer(make()))


@pytest.mark.parametrize("sessions, fits", [
    (["{}"], True), (["other", "{}"], True), (["*"], True), (["t-*"], True), (["{}*"], True),
    (["other"], False), ([], False), (["{}-x"], False), (["u-*"], False), (["*-x"], False),
])  # fmt: skip
def test_the_sessions_claim(redis, guarded, session, attach, sessions, fits):
    id = redis.add(session, data="x")
    value = token(sessions=[one.replace("{}", session) for one in sessions])
    if fits:
        attach(guarded, session, headers=bearer(value)).until_at(id)
    else:
        refused(guarded, session, 403, bearer(value))


def test_each_scope_is_needed_for_its_deed(redis, guarded, session):
    redis.add(session, data="x")
    path, body = f"/v1/sessions/{session}", "{\"data\":\"x\"}"
    for scope in (["publish", "input", "cancel", "delete"], []):
        refused(guarded, session, 403, bearer(token(scope=scope)))
    read = bearer(token(scope=["read"]))
    guarded.request("POST", path, body, {**read, "Content-Type": "application/json"}).problem(403)
    guarded.request("DELETE", path, headers=read).problem(403)
    assert len(redis.stream(session)) == 1
    publish = {**bearer(token(scope=["publish"])), "Content-Type": "application/json"}
    assert guarded.request("POST", path, body, publish).status == 201
    assert guarded.request("DELETE", path, headers=bearer(token(scope=["delete"]))).status == 204
    assert redis.stream(session) == []


def test_a_token_that_expires_closes_the_device(redis, guarded, session, attach):
    device = attach(guarded, session, headers=bearer(token(exp=8))).until_live()
    assert device.until_type("expiring")["inMs"] <= 8000
    assert device.until_closed(30) == 4401


def test_a_new_token_keeps_the_device(redis, guarded, session, attach):
    ends = time.time() + 8
    device = attach(guarded, session, headers=bearer(token(exp=8))).until_live()
    device.send({"type": "auth", "token": token(exp=600)})
    assert device.until_type("authenticated")["expiresInMs"] > 500_000
    wait_for(lambda: time.time() > ends + 1, 30, "the first token's end")
    device.until_at(redis.add(session, data="x"))


def test_a_wrong_subprotocol_is_still_refused(guarded, session, attach):
    with pytest.raises(InvalidStatus):
        attach(guarded, session, subprotocols=(f"bearer.{token()}",))


def test_tokens_are_never_logged(redis, guarded, session, attach):
    value = token()
    attach(guarded, session, token=value).until_live()
    guarded.get(f"/v1/sessions/{session}?token={value}")
    guarded.get(f"/v1/sessions/{session}?token={value}&offset=x&after=y")
    logged = guarded.process.logged()
    assert value not in logged and value.split(".")[1] not in logged


def test_a_short_secret_is_refused(redis, tmp_path):
    import subprocess

    (tmp_path / "short").write_bytes(b"x" * 31)
    told = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis.url, "--auth-secret-file", tmp_path / "short"],
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert told.returncode == 78 and "32" in told.stderr


def test_health_and_readiness_need_no_token(guarded):
    assert guarded.get("/healthz").status == 200 and guarded.get("/readyz").status == 200


@pytest.mark.parametrize("scope, features", [
    (["read"], []), (["read", "input"], ["input"]), (["read", "cancel"], ["cancel"]), (["read", "input", "cancel"], ["input", "cancel"]),
])  # fmt: skip
def test_attached_lists_what_the_token_allows(guarded, session, attach, scope, features):
    assert attach(guarded, session, headers=bearer(token(scope=scope))).attached["features"] == features


def test_a_refused_token_is_logged_with_its_reason_and_not_itself(guarded, session):
    wrong = token(secret=b"another secret, longer than 32 bytes!")
    guarded.upgrade(f"/v1/sessions/{session}?token={wrong}").problem(401)
    wait_for(lambda: "reason=unauthenticated" in guarded.process.logged(), 10, "the reason")
    assert wrong not in guarded.process.logged()
