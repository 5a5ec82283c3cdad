"""Sections 10.4 and 10.6: what Redis refuses, cuts or announces in vain costs the session that it is about, and no storm."""

import socket
import threading
import time

import pytest
from support.process import wait_for
from support.servers import UPGRADE, key

READS = ("xread", "xrange", "xinfo", "xinfo|stream", "multi", "exec")


def user(redis, name="gw", **rights):
    rights = {"keys": ["*"], "channels": ["*"], "commands": ["+@all"], **rights}
    redis.client.acl_setuser(name, enabled=True, nopass=True, reset=True, reset_channels=True, **rights)
    return f"redis://{name}:@127.0.0.1:{redis.port}/0"


def clients(redis):
    """The ids of the gateway's connections: a new one is a reconnect."""
    return {client["id"] for client in redis.client.client_list() if client["name"].startswith("baton-")}


def unread(gateway, path, upgrade=True):
    """A device that attaches, or somebody who asks for a page, and takes nothing in."""
    device = socket.socket()
    device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    device.connect(("127.0.0.1", gateway.port))
    head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **(UPGRADE if upgrade else {})}.items())
    device.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    return device


def logged(gateway, words):
    return [line for line in gateway.process.logged().splitlines() if words in line]


def test_connections_that_die_under_paging_devices_cost_nothing(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    redis.add_tokens(session, [f"w{n} " for n in range(1, 20001)], "r")
    over = threading.Event()

    def kill():
        while not over.is_set():
            redis.client.client_kill_filter(_type="normal", skipme=True)
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        devices = [attach(gateway, session, offset=0) for _ in range(4)]
        time.sleep(3)
    finally:
        over.set()
        killer.join()
    last = redis.add(session, data="last")
    for device in devices:
        device.until_at(last, 30).until_live()
        device.judge(redis.stream(session))
    assert gateway.process.alive


@pytest.mark.parametrize("fields", [
    [part for n in range(6) for part in (f"f{n}", "x" * (1 << 20))],
    [part for n in range(524_286) for part in ("f", "v")],
    [part for n in range(20_000) for part in (f"f{n}", "v")],
], ids=["bytes", "most fields", "fields"])  # fmt: skip
def test_an_entry_out_of_proportion_is_skipped_and_nobody_notices(new_redis, new_gateway, session, attach, fields):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    neighbour = attach(gateway, f"{session}-neighbour").until_live()
    device = attach(gateway, session).until_live()
    redis.add(session, data="before")
    giant = redis.add(session, *fields)
    device.until_at(giant, 20)
    connections = clients(redis)
    # Attached while it is the newest.
    late = attach(gateway, session, offset=0).until_live()
    told = redis.add(f"{session}-neighbour", data="x")
    neighbour.until_at(told, 5)
    after = redis.add(session, data="after")
    for one in (device, late):
        one.until_at(after, 10)
        assert [frame for frame in one.frames if frame.get("type") == "skipped"]
        assert one.text.endswith("after") and one.resets == []
    assert gateway.history(session, "?limit=1000").status == 200
    assert clients(redis) == connections, "a connection was closed over one entry"


def test_a_user_without_channels_is_polled_for_in_peace(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(user(redis, channels=[]))
    device = attach(gateway, session).until_live()
    connections = clients(redis)
    for n in range(20):
        device.until_at(redis.add(session, data=f"{n} "), 2)
        time.sleep(0.2)
    assert clients(redis) == connections, "refused notices tear connections down"
    assert len(logged(gateway, "NOPERM")) <= 2, gateway.process.logged()
    assert gateway.metric("baton_wakeup", mode="poll") == 1


def test_notices_are_proven_where_nothing_is_written(new_redis, new_gateway):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    wait_for(lambda: gateway.metric("baton_wakeup", mode="tracking") == 1, 20, "notices are proven")
    assert redis.client.dbsize() == 0, "something is left"


@pytest.mark.parametrize("refused", [["-multi"], ["-multi", "-eval"]])
def test_without_transactions_looks_are_taken_otherwise(new_redis, new_gateway, session, attach, refused):
    redis = new_redis()
    redis.add_tokens(session, [f"w{n} " for n in range(1, 101)], "r")
    # Without EVAL nothing can be posted, and the node is not ready; devices are let in all the same.
    gateway = new_gateway(user(redis, commands=["+@all", *refused]), ready="-eval" not in refused)
    device = attach(gateway, session, offset=0).until_live()
    device.until_at(redis.add(session, data="x"))
    assert gateway.history(session).status == 200


def test_a_read_that_is_refused_stalls_its_session_and_heals(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(user(redis))
    device = attach(gateway, session).until_live()
    neighbour = attach(gateway, f"{session}-neighbour").until_live()
    user(redis, keys=[f"baton:{{{session}-neighbour}}*", "baton:{}*"])
    redis.add(session, data="unheard")
    device.until_type("stalled", seconds=10)
    neighbour.until_at(redis.add(f"{session}-neighbour", data="x"), 3)
    user(redis)
    device.until_at(redis.add(session, data="heard"), 3).until_live()
    assert not any(frame.get("type") == "stalled" for frame in neighbour.frames)
    device.judge(redis.stream(session))


def test_busy_is_no_sign_of_life(new_redis, new_gateway, session, attach):
    redis = new_redis("redis", "--lua-time-limit", "100")  # the name that Redis 6 has, too
    gateway = new_gateway(redis.url)
    device = attach(gateway, session).until_live()
    busy = threading.Thread(target=lambda: redis.raw("EVAL", "local t = redis.call('TIME')[1] repeat until redis.call('TIME')[1] - t > 6", 0))
    busy.start()
    device.until_type("stalled", seconds=6)
    busy.join()
    device.until_at(redis.add(session, data="x"), 5).until_live()


def test_a_table_that_is_too_small_makes_no_storm(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.client.config_set("tracking-table-max-keys", 10)
    gateway = new_gateway(redis.url)
    devices = [attach(gateway, f"{session}-{n}") for n in range(60)]
    for device in devices:
        device.until_live()
    # What the first moments cost is not what is asked about.
    time.sleep(3)
    before = redis.calls(*READS)
    time.sleep(3)
    assert (redis.calls(*READS) - before) / 3 < 500
    for n, device in enumerate(devices[:5]):
        device.until_at(redis.add(f"{session}-{n}", data="x"), 5)


def test_what_redis_refuses_for_good_is_said_once_and_not_to_be_tried_again(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(user(redis, commands=["+@all", "-xadd"]), ready=False)
    device = attach(gateway, session).until_live()
    wait_for(lambda: b"xadd" in gateway.get("/readyz").body.lower(), 20, "the reason")
    assert gateway.get("/readyz").status == 503
    for _ in range(5):
        answer = gateway.request("POST", f"/v1/sessions/{session}", '{"data":"x"}', {"Content-Type": "application/json"})
        problem = answer.problem(500)
        assert problem["type"].endswith("store-refused") and "script" in problem["detail"] and "retry-after" not in answer.headers, problem
    # Each request's refusal is told to whom it concerns; some versions name the command there, too.
    told = [line for line in logged(gateway, "xadd") if "refused a request" not in line]
    assert 1 <= len(told) <= 4, gateway.process.logged()
    assert len(logged(gateway, "Redis refuses")) <= 4, gateway.process.logged()
    device.until_at(redis.add(session, data="reading goes on"), 5)


def test_after_the_master_has_changed_posts_go_to_the_new_one(new_redis, new_gateway, session, attach):
    old, new = new_redis("old"), new_redis("new")
    gateway = new_gateway(old.url)
    device = attach(gateway, session).until_live()
    path, header = f"/v1/sessions/{session}", {"Content-Type": "application/json"}
    assert gateway.request("POST", path, '{"data":"a"}', header).status == 201
    old.client.replicaof("127.0.0.1", new.port)
    wait_for(lambda: gateway.request("POST", path, '{"data":"b"}', header).status == 503, 10, "writes are refused")
    old.client.replicaof("NO", "ONE")
    wait_for(lambda: gateway.request("POST", path, '{"data":"c"}', header).status == 201, 10, "writes are taken again")
    wait_for(lambda: gateway.get("/readyz").status == 200, 10, "ready")
    device.until_at(old.stream(session)[-1][0], 5)


# Known and not mended: pages that are made for many at a time were seen to take up to 170 MiB.
@pytest.mark.parametrize("devices, pages", [pytest.param(150, 0, id="devices"), pytest.param(0, 40, id="pages")])
def test_devices_that_read_nothing_cost_a_bounded_memory_and_delay_nobody(new_redis, new_gateway, session, attach, devices, pages):
    redis = new_redis()
    ids = [redis.add(session, data="x" * 100_000) for _ in range(100)]
    gateway = new_gateway(redis.url)
    attach(gateway, session, offset=0).until_live(60).close()
    before = gateway.process.rss()
    path = f"/v1/sessions/{session}"
    deaf = [unread(gateway, f"{path}?offset={ids[n % 50]}") for n in range(devices)]
    deaf += [unread(gateway, f"{path}?limit=100", upgrade=False) for _ in range(pages)]
    device = attach(gateway, session, offset=0).until_live(60)
    assert len(device.text) == 100 * 100_000
    grown = (gateway.process.rss() - before) / 2**20
    # `--catch-up-bytes`, and what the allocator keeps of it.
    assert grown < 64, f"{grown} MiB"
    for one in deaf:
        one.close()


def test_a_walk_through_many_responses_makes_nobody_wait(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.add(session, data="x")
    redis.raw("EVAL", """for i = 1, 100000 do redis.call('HSET', KEYS[1], 'r' .. i, '1 1 end - 1-0 1') end""", 1, key(session) + ":producers")
    gateway = new_gateway(redis.url)
    redis.client.config_resetstat()
    redis.client.config_set("slowlog-log-slower-than", 20_000)
    redis.client.slowlog_reset()
    device = attach(gateway, session).until_live(20)
    device.until_at(redis.add(session, data="y", response="new", n=1), 5)
    assert redis.calls("hgetall") == 0
    slow = [entry["command"][:40] for entry in redis.client.slowlog_get() if b"EVAL " not in entry["command"]]
    assert slow == []


def test_a_rollup_window_does_not_outlast_the_window_of_entries(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url, "gw-1", "--window-bytes", "64KiB")
    device = attach(gateway, session, rollup=1000).until_live()
    for start in range(0, 6000, 100):
        last = redis.add_tokens(session, [f"w{n} " for n in range(start + 1, start + 101)], "r", start + 1)[-1]
        time.sleep(0.02)
    device.until_at(last, 20)
    assert [frame for frame in device.frames if frame.get("type") == "behind"] == []
    device.judge(redis.stream(session))


def lease(redis, session, count):
    """A response `r` that is open, and its producer's lease renewed for the `count`th time."""
    if count == 1:
        redis.add(session, event="start", response="r")
    now = int(time.time() * 1000)
    redis.client.hset(key(session) + ":producers", "r", f"1 0 open w.{count} 1-0 {now}")


def lost(device):
    return [frame for frame in device.frames if frame.get("event") == "error"]


def test_a_producer_that_can_not_write_is_not_lost(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    lease(redis, session, 1)
    device = attach(gateway, session, offset=0).until_live()
    redis.client.config_set("min-replicas-to-write", 1)
    # Longer than a lease lasts.
    time.sleep(17)
    redis.client.config_set("min-replicas-to-write", 0)
    # Not renewed at once: from here on it has its 15 s.
    time.sleep(4)
    assert lost(device) == []
    lease(redis, session, 2)
    began = time.monotonic()
    device.until(lost, 60, "producer_lost")
    assert time.monotonic() - began > 14
