"""Section 5: what a device says to a gateway."""

import contextlib

import pytest
from websockets.exceptions import ConnectionClosed


@pytest.fixture
def device(gateway, session, attach):
    return attach(gateway, session).until_live()


def test_ping_is_answered_by_pong(device):
    device.send({"type": "ping"})
    assert device.until_type("pong") == {"type": "pong"}


def test_websocket_pings_are_answered(device):
    assert device.socket.ping().wait(10)


def test_an_unknown_type_is_unsupported_and_nothing_else_happens(redis, session, device):
    device.send({"type": "dance"})
    told = device.until_type("error")
    assert told["code"] == "unsupported" and told["message"]
    device.send({"type": "ping"})
    device.until_type("pong")
    device.until_at(redis.add(session, data="x"))


@pytest.mark.parametrize("message", ["{}", "{\"type\":7}", "{\"type\":null}", "{\"Type\":\"ping\"}"])
def test_an_object_without_a_known_type_is_no_fault(device, message):
    device.send(message)
    assert device.until_type("error")["code"] in ("unsupported", "bad_request")
    device.send({"type": "ping"})
    device.until_type("pong")


@pytest.mark.parametrize("message", [
    "hello", "", "[]", "7", "null", "\"ping\"", "{", "{\"type\":\"ping\"", "{\"type\":\"ping\"}x", "{'type':'ping'}",
])  # fmt: skip
def test_what_is_no_json_object_closes_with_1008(device, message):
    device.send(message)
    assert device.until_closed() == 1008


def test_a_binary_message_closes_with_a_policy_code(device):
    device.send(b"{\"type\":\"ping\"}")
    assert device.until_closed() in (1003, 1008)


def test_64_kib_is_allowed(device):
    frame = "{\"type\":\"ping\",\"x\":\"%s\"}"
    device.send(frame % ("x" * (64 * 1024 - len(frame % ""))))
    device.until_type("pong")


def test_over_64_kib_closes_with_1009(device):
    frame = "{\"type\":\"ping\",\"x\":\"%s\"}"
    device.send(frame % ("x" * (64 * 1024 - len(frame % "") + 1)))
    assert device.until_closed() == 1009


def test_over_64_kib_in_fragments_closes_with_1009(device):
    with contextlib.suppress(ConnectionClosed):  # the refusal may come before the last part has left
        device.socket.send(part for part in ["x" * 16_000] * 10)
    assert device.until_closed() == 1009


def test_text_that_is_not_utf_8_closes_with_1007(device):
    device.socket.send(b"\xff\xfe\xfd", text=True)
    assert device.until_closed() == 1007


def test_a_close_is_answered(device):
    device.socket.close(1000)
    assert device.until_closed() == 1000


def test_one_hostile_device_disturbs_no_other(redis, gateway, session, attach, device):
    hostile = attach(gateway, session).until_live()
    hostile.send("not json")
    hostile.until_closed()
    device.until_at(redis.add(session, data="fine"))
    assert device.text == "fine"


def test_many_pings_are_all_answered(device):
    for _ in range(200):
        device.send({"type": "ping"})
    device.until_type("pong", 200)
