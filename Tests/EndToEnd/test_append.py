"""Section 8: appending over HTTP."""

import base64
import json

import pytest
from support.checker import frame_of

JSON = {"Content-Type": "application/json"}


def post(gateway, session, body, headers=JSON):
    return gateway.request("POST", f"/v1/sessions/{session}", body if isinstance(body, (str, bytes)) else json.dumps(body), headers)


def test_an_object_is_appended(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    answer = post(gateway, session, {"data": "Hel", "event": "note", "fields": {"k": "v"}})
    assert answer.status == 201
    (id,) = answer.json["ids"]
    stream = redis.stream(session)
    assert id.partition(".")[0] == stream[-1][0]
    shown = frame_of(stream[-1])
    assert (shown["event"], shown["data"], shown["fields"]) == ("note", "Hel", {"k": "v"})
    device.until_at(id)
    device.judge(stream)


def test_data64_is_appended_as_bytes(redis, gateway, session):
    data = bytes(range(256))
    assert post(gateway, session, {"data64": base64.b64encode(data).decode()}).status == 201
    assert dict(redis.stream(session)[-1][1])[b"data"] == data


def test_unicode_is_appended_as_utf_8(redis, gateway, session):
    assert post(gateway, session, {"data": "🙂 \u0000 é"}).status == 201
    assert dict(redis.stream(session)[-1][1])[b"data"] == "🙂 \u0000 é".encode()


def test_the_content_type_may_have_a_charset(gateway, session):
    assert post(gateway, session, {"data": "x"}, {"Content-Type": "application/json; charset=utf-8"}).status == 201


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}])
def test_another_content_type_is_415(redis, gateway, session, headers):
    post(gateway, session, {"data": "x"}, headers).problem(415)
    assert redis.stream(session) == []


@pytest.mark.parametrize("body", [
    "", "x", "[]", "7", "null", "{", "{\"data\":7}", "{\"data\":\"a\",\"data64\":\"YQ==\"}", "{\"data64\":\"*\"}", "{\"event\":\"a b\",\"data\":\"x\"}",
    "{\"event\":7}", "{\"response\":\"a/b\",\"data\":\"x\"}", "{\"fields\":[],\"data\":\"x\"}", "{\"data\":\"x\"} {}",
    b"{\"data\":\"\xff\"}",
])  # fmt: skip
def test_a_wrong_body_is_400_and_appends_nothing(redis, gateway, session, body):
    post(gateway, session, body).problem(400)
    assert redis.stream(session) == []


def test_a_body_over_the_limit_is_413(redis, gateway, session):
    post(gateway, session, {"data": "x" * 8_000_000}).problem(413)
    assert redis.stream(session) == []


def test_another_type_is_409(redis, gateway, session):
    redis.client.set(f"baton:{{{session}}}", "x")
    post(gateway, session, {"data": "x"}).problem(409)
