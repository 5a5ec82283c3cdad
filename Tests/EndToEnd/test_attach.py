"""Section 3: how a device gets in, and what it is told when it does not."""

import pytest
from support.checker import offset
from websockets.exceptions import InvalidStatus

FOREIGN = "https://evil.example"


@pytest.mark.parametrize("query", [
    "offset=0&offset=0", "last=5&offset=0", "offset=1-0&last=2", "response=r&offset=0", "last=2&response=r", "rollup=off&rollup=off",
    "until=end&until=end",
    "offset=", "offset=x", "offset=-1", "offset=1-", "offset=-1-0", "offset=1-0.", "offset=1-0.12345", "offset=1-0.1234567890",
    "offset=1-0.9f3a11cg", "offset=18446744073709551616-0", "offset=1-18446744073709551616", "offset=1.5", "offset=%00",
    "last=0", "last=10001", "last=-1", "last=x", "last=", "last=99999999999999999999",
    "rollup=0", "rollup=1001", "rollup=x", "rollup=", "until=now", "until=",
    "device=", "device=a%20b", "device=" + "d" * 65,
])  # fmt: skip
def test_a_wrong_parameter_is_refused_with_400(gateway, session, query):
    gateway.upgrade(f"/v1/sessions/{session}?{query}").problem(400)


@pytest.mark.parametrize("name", [".", "..", "a%20b", "a%2Fb", "%7Bx%7D", "s" * 129, "%C3%A9", "a%00b", "a,b"])
def test_a_wrong_session_name_is_refused(gateway, name):
    assert gateway.upgrade(f"/v1/sessions/{name}").status in (400, 404)
    assert gateway.get(f"/v1/sessions/{name}").status in (400, 404)


@pytest.mark.parametrize("name", ["a", "s" * 128, "A.b_c~d:e@f-9", "...", "-", "%40x"])
def test_every_allowed_session_name_works(redis, gateway, attach, name, session):
    stream = name.replace("%40", "@")
    redis.client.delete(f"baton:{{{stream}}}")
    id = redis.add(stream, data="x")
    device = attach(gateway, name).until_at(id)
    assert device.attached["session"] == stream


def test_unknown_parameters_are_ignored(redis, gateway, session, attach):
    id = redis.add(session, data="x")
    assert attach(gateway, session, colour="blue").until_at(id).text == "x"


def test_the_subprotocol_is_echoed(gateway, session, attach):
    assert attach(gateway, session).socket.subprotocol == "baton.v1"


def test_no_subprotocol_is_accepted_and_none_is_echoed(gateway, session, attach):
    assert attach(gateway, session, subprotocols=()).until_live().socket.subprotocol is None


def test_only_ours_is_echoed_out_of_several(gateway, session, attach):
    assert attach(gateway, session, subprotocols=("chat", "baton.v1", "x")).socket.subprotocol == "baton.v1"


def test_other_subprotocols_only_are_refused(gateway, session, attach):
    with pytest.raises(InvalidStatus) as refused:
        attach(gateway, session, subprotocols=("chat", "baton.v2"))
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize("origin", [
    "http://localhost", "http://localhost:3000", "https://localhost:8443", "http://127.0.0.1:5173", "http://[::1]:80",
])  # fmt: skip
def test_local_origins_are_accepted_without_a_list(gateway, session, origin):
    assert gateway.upgrade(f"/v1/sessions/{session}", {"Origin": origin, "Connection": "close"}).status != 403


@pytest.mark.parametrize("origin", [
    FOREIGN, "http://localhost.evil.example", "http://evil.example:80", "null", "http://127.0.0.1.evil.example",
    "http://localhost@evil.example",
])  # fmt: skip
def test_foreign_origins_are_refused_for_every_representation(redis, gateway, session, origin):
    redis.add(session, data="x")
    path = f"/v1/sessions/{session}"
    gateway.upgrade(path, {"Origin": origin}).problem(403)
    gateway.get(path, Origin=origin).problem(403)
    gateway.get(path, Origin=origin, Accept="text/event-stream").problem(403)
    body = {"Origin": origin, "Content-Type": "application/json"}
    gateway.request("POST", path, "{\"data\":\"x\"}", body).problem(403)
    assert len(redis.stream(session)) == 1


def test_only_listed_origins_are_accepted_where_there_is_a_list(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-o", "--allowed-origins", "https://app.example,https://b.example:8443")
    for origin in ("https://app.example", "https://b.example:8443"):
        attach(gateway, session, headers={"Origin": origin}).until_live()
    for origin in ("http://app.example", "https://app.example:444", "https://b.example", FOREIGN, "http://localhost"):
        gateway.upgrade(f"/v1/sessions/{session}", {"Origin": origin}).problem(403)


def test_the_public_urls_origin_is_accepted(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-p", "--public-url", "https://baton.example/x")
    attach(gateway, session, headers={"Origin": "https://baton.example"}).until_live()
    gateway.upgrade(f"/v1/sessions/{session}", {"Origin": FOREIGN}).problem(403)


def test_another_websocket_version_is_refused_with_426(gateway, session):
    answer = gateway.upgrade(f"/v1/sessions/{session}", {"Sec-WebSocket-Version": "8"})
    assert answer.status in (400, 426)
    if answer.status == 426:
        assert answer.headers["sec-websocket-version"] == "13"


def test_a_missing_key_is_refused(gateway, session):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert gateway.request("GET", f"/v1/sessions/{session}", headers=headers).status == 400


def test_an_unknown_path_is_404(gateway):
    gateway.get("/v1/nothing").problem(404)
    gateway.upgrade("/v2/sessions/x").problem(404)


def test_a_method_that_is_not_there_is_405(gateway, session):
    gateway.request("PUT", f"/v1/sessions/{session}", "{}").problem(405)


def test_the_same_device_name_may_be_attached_twice(redis, gateway, session, attach):
    devices = [attach(gateway, session, device="phone") for _ in range(2)]
    id = redis.add(session, data="x")
    for device in devices:
        device.until_at(id)
        assert device.attached["device"] == "phone"


def test_a_device_without_a_name_gets_a_random_one(gateway, session, attach):
    names = {attach(gateway, session).attached["device"] for _ in range(3)}
    assert len(names) == 3 and all(names)


def test_live_comes_when_everything_was_sent_and_once(redis, gateway, session, attach):
    redis.add_tokens(session, ["a", "b", "c"])
    device = attach(gateway, session).until_live()
    stream = redis.stream(session)
    assert device.frames[-1] == {"type": "live", "offset": offset(stream[-1])}
    device.until_at(redis.add(session, data="d"))
    device.until_at(redis.add(session, data="e"))
    assert sum(frame.get("type") == "live" for frame in device.frames) == 1


def test_live_offset_of_an_empty_session_is_zero(gateway, session, attach):
    assert attach(gateway, session).until_live().frames[-1] == {"type": "live", "offset": "0"}


def test_until_end_closes_after_the_end(redis, gateway, session, attach):
    redis.add(session, event="start", response="r")
    redis.add_tokens(session, ["a", "b"], "r")
    device = attach(gateway, session, until="end").until_live()
    redis.add_tokens(session, ["c"], "r", 3)
    redis.add(session, event="end", response="r")
    assert device.until_closed() == 1000
    device.judge(redis.stream(session))
    assert device.text == "abc"


def test_until_end_of_a_finished_answer_closes_at_once(redis, gateway, session, attach):
    redis.add(session, event="start", response="r")
    redis.add_tokens(session, ["a"], "r")
    redis.add(session, event="end", response="r")
    device = attach(gateway, session, until="end")
    assert device.until_closed() == 1000
    device.judge(redis.stream(session))
    again = attach(gateway, session, until="end", offset=device.offset)
    assert again.until_closed() == 1000
    assert again.entries == []


@pytest.mark.parametrize("event", ["end", "error", "cancelled"])
def test_every_kind_of_end_ends(redis, gateway, session, attach, event):
    device = attach(gateway, session, until="end").until_live()
    redis.add_tokens(session, ["a"], "r")
    redis.add(session, event=event, response="r", data="{}")
    assert device.until_closed() == 1000
    device.judge(redis.stream(session))


def test_until_end_waits_for_every_open_response(redis, gateway, session, attach):
    redis.add(session, event="start", response="a")
    redis.add(session, event="start", response="b")
    redis.add(session, event="end", response="a")
    device = attach(gateway, session, until="end").until_live()
    redis.add_tokens(session, ["x"], "b")
    redis.add(session, event="end", response="b")
    assert device.until_closed() == 1000
    device.judge(redis.stream(session))
    assert device.text == "x"


def test_until_end_counts_a_response_open_before_the_offset(redis, gateway, session, attach):
    """A response is open from its first retained entry, wherever the offset lies."""
    redis.add(session, event="start", response="a")
    redis.add(session, event="start", response="b")
    at = offset(redis.stream(session)[-1])
    redis.add(session, event="end", response="b")
    device = attach(gateway, session, until="end", offset=at).until_live()
    device.until_at(redis.add(session, data="still", response="a", n=1))
    redis.add(session, event="end", response="a")
    assert device.until_closed() == 1000


def test_until_end_without_an_end_waits(redis, gateway, session, attach):
    device = attach(gateway, session, until="end").until_live()
    device.until_at(redis.add(session, data="no response, no end"))
    assert device.code is None
    redis.add(session, event="end")
    assert device.until_closed() == 1000
