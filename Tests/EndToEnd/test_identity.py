"""Section 3: HS256 tokens and their claims, enforced on every way in."""

import itertools
import json
import time

import pytest
from support.event_stream import EventStream
from support.process import BATON, wait_for
from support.servers import UPGRADE, key
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


def everything(session):
    """Each request that names a session."""
    path, lines, body = f"/v1/sessions/{session}", {"Content-Type": "application/x-ndjson"}, {"Content-Type": "application/json"}
    yield from [("GET", path, None, headers) for headers in ({}, {"Accept": "text/event-stream"}, UPGRADE)]
    yield from [("GET", f"{path}{rest}", None, {}) for rest in ("?limit=1", "?wait=1s&after=0", "?before=9-9", "/responses", "/responses/r", "/responses/r/controls")]
    yield from [("POST", path, '{"data":"x"}', body), ("POST", f"{path}?epoch=1", '{"response":"r","n":1,"data":"x"}\n', lines)]
    yield from [("POST", f"{path}/input", '{"data":"x"}', body), ("POST", f"{path}/responses/r/cancel", None, {}), ("DELETE", path, None, {})]
    yield from [("DELETE", f"/v1/sessions?prefix={session}", None, {}), ("GET", f"/v1/responses/r~{session}", None, {}), ("GET", f"/v1/ai-sdk/{session}/stream", None, {})]
    yield from [("POST", "/v1/responses", '{"model":"m","input":"x"}', {**body, "Baton-Session": session}), ("GET", f"/agent?session={session}", None, {})]
    yield ("POST", "/v1/ai-sdk", json.dumps({"id": session, "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "x"}]}]}), body)


@pytest.mark.parametrize("credentials", [
    None, "nonsense", token(b"another secret, also longer than 32 bytes"), token(exp=-600), token(sessions=["other"]), token(sessions=[]), token(scope=[]),
], ids=["none", "nonsense", "forged", "expired", "of another session", "of no session", "without scope"])  # fmt: skip
def test_nobody_learns_whether_a_session_exists(new_redis, new_gateway, secret, session, credentials):
    """By no answer, nor by the time that it takes: Redis is not asked about it."""
    redis = new_redis()
    url = "http://127.0.0.1:9/"
    gateway = new_gateway(redis.url, "gw-silent", "--auth-secret-file", secret, "--openai", url, "--ai-sdk", url, "--relay", f"/agent={url}")
    there, absent = f"{session}-a", f"{session}-b"
    redis.add_tokens(there, ["x"], "r")
    redis.client.hset(f"{key(there)}:producers", "r", f"1 1 open w.1 1-0 {int(time.time() * 1000)}")
    headers = bearer(credentials) if credentials else {}
    # Where the body has not come by then, the connection is closed.
    varying = {"date", "connection"}
    with redis.client.monitor() as monitor:
        answers = []
        for name in (there, absent):
            told = [gateway.request(method, path, body, {**more, **headers}) for method, path, body, more in everything(name)]
            answers.append([(one.status, one.body.replace(name.encode(), b"S"), sorted(set(one.headers) - varying)) for one in told])
        redis.client.set("refused", "x")
        assert gateway.request("GET", f"/v1/sessions/{there}", headers=bearer(token())).status == 200
        redis.client.set("over", "x")
        seen = iter(command["command"] for command in monitor.listen())
        refused, allowed = ([one for one in itertools.takewhile(lambda one: not one.startswith(f"SET {mark}"), seen) if session in one] for mark in ("refused", "over"))
        assert refused == [] and allowed
    assert answers[0] == answers[1]
    assert {status for status, _, _ in answers[0]} <= {401, 403}


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
