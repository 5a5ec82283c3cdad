"""Entries and replies out of all proportion: skipped or read in parts, and nobody else notices."""

import threading
import time

import pytest
from support.process import wait_for
from support.raw import Raw
from support.servers import key

MB = 1_000_000


def add_out_of_proportion(redis, session, kind):
    """Adds one entry that no limit allows, and returns its id and its bytes."""
    if kind == "6 strings of 1 MB":
        fields = [part for n in range(6) for part in (f"f{n}", "x" * MB)]
    elif kind == "524,286 names and values":
        fields = [part for n in range(262_143) for part in (f"f{n}", "x")]
    else:
        fields = ["data", "x" * 20 * MB]
    return redis.add(session, *fields), sum(map(len, fields))


@pytest.mark.parametrize("kind", ["6 strings of 1 MB", "524,286 names and values", "1 string of 20 MB"])
def test_an_entry_over_every_bound_is_skipped(new_redis, new_gateway, session, attach, kind):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    neighbour = attach(gateway, f"{session}-neighbour").until_live()
    live = attach(gateway, session).until_live()
    redis.add(session, data="before ")
    big, size = add_out_of_proportion(redis, session, kind)
    # As the newest entry: it is what XINFO shows.
    newest = attach(gateway, session).until_at(big, 40).until_live()
    after = redis.add(session, data="after ")
    late = attach(gateway, session)
    for device in (live, newest, late):
        device.until_at(after, 40).until_live()
        skipped = [frame for frame in device.frames if frame.get("type") == "skipped"]
        assert [(frame["offset"].partition(".")[0], frame["bytes"]) for frame in skipped] == [(big, size)]
        assert device.text == "before after " and device.resets == []
    # Neighbours' devices are told of nothing.
    neighbour.until_at(redis.add(f"{session}-neighbour", data="x"))
    assert "stalled" not in [frame.get("type") for frame in neighbour.frames]
    resumed = attach(gateway, session, offset=newest.offset)
    resumed.until_live()
    assert resumed.resets == []
    assert gateway.get("/readyz").status == 200


def test_entries_of_1100_fields_arrive(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    script = """local f = {} for i = 1, 2200, 2 do f[i] = 'f' .. i; f[i + 1] = 'x' end
    local id for i = 1, 600 do id = redis.call('XADD', KEYS[1], '*', unpack(f)) end return id"""
    last = redis.client.eval(script, 1, key(session)).decode()
    device = attach(gateway, session, rollup="off").until_at(last, 60).until_live()
    device.judge(redis.stream(session), rollup=False)


def test_a_poisoned_inbox_is_read_over(redis, gateway, session):
    """What is none of ours, or over every bound, stands before what a person wants."""
    inbox = f"{key(session)}:inbox"
    lines = '{"response":"r","n":1,"data":"x"}\n'
    assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1&lease=keep", lines, {"Content-Type": "application/x-ndjson"}).status == 201
    for fields in ({"a": "b"}, {"event": "cancel"}, {"event": "cancel", "response": b"\xff\xfe"}, {"event": "cancel", "response": "x" * 5_000_000}, {"event": "x" * 1_000_000},
                   {"event": "input", "data": b"\0" * 3_000_000}, {f"f{n}": "v" for n in range(5000)}, {b"\xff": b"\xff"}, {"": ""}):  # fmt: skip
        redis.client.xadd(inbox, fields)
    raw = Raw(gateway).send(f"GET /v1/sessions/{session}/responses/r/controls HTTP/1.1\r\nHost: localhost\r\n\r\n")
    raw.until("\r\n\r\n")
    assert gateway.request("POST", f"/v1/sessions/{session}/responses/r/cancel").status == 202
    assert '"cancel"' in raw.until('"cancel"')
    raw.socket.close()
    # A key of another type is told, and harms no other session.
    redis.client.delete(inbox)
    redis.client.set(inbox, "text")
    assert gateway.request("POST", f"/v1/sessions/{session}/responses/r/cancel").problem(409)
    assert gateway.request("POST", f"/v1/sessions/{session}-2/responses/r/cancel").status == 202
    assert gateway.process.alive and max(map(len, gateway.process.logged().splitlines())) < 4096


def test_a_hash_of_600000_responses_keeps_nobody_waiting(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    redis.client.eval(
        "for i = 1, 600000 do redis.call('HSET', KEYS[1], 'response-' .. i, '{\"n\":1}') end", 1, f"{key(session)}:producers")
    device = attach(gateway, session).until_live()
    neighbour = attach(gateway, f"{session}-neighbour").until_live()
    polls = redis.calls("hmget")
    redis.add_tokens(session, ["a "], "response-1")
    wait_for(lambda: redis.calls("hmget") > polls, 20, "a look at the producers")
    device.until_at(redis.add_tokens(session, ["b "], "response-1", 2)[-1])
    neighbour.until_at(redis.add(f"{session}-neighbour", data="x"))
    for one in (device, neighbour):
        assert one.resets == [] and "stalled" not in [frame.get("type") for frame in one.frames]


def test_connections_that_are_cut_all_the_time_take_no_node_down(new_redis, new_gateway, session, attach):
    """Devices catch up while each connection is killed over and over, their requests under way."""
    redis = new_redis()
    gateways = [new_gateway(redis.url, name) for name in ("gw-1", "gw-2")]
    pipeline = redis.client.pipeline(transaction=False)
    for n in range(30_000):
        pipeline.xadd(key(session), {"data": f"w{n} "})
    pipeline.execute()
    stop = threading.Event()

    def cut():
        while not stop.wait(0.1):
            redis.client.client_kill_filter(_type="normal", skipme=True)
            redis.client.client_kill_filter(_type="pubsub", skipme=True)

    thread = threading.Thread(target=cut)
    thread.start()
    devices = []
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for gateway in gateways:
                assert gateway.process.alive, gateway.process.logged()[-2000:]
            try:
                devices.append(attach(gateways, session, follow=True))
            except Exception as refusal:  # 503 while a node has no connection
                assert "503" in str(refusal), refusal
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
    assert devices, "no device was ever let in"
    last = redis.add(session, data="last")
    for device in devices:
        device.until_at(last, 40)
        device.judge(redis.stream(session))
    assert all(gateway.process.alive for gateway in gateways)
