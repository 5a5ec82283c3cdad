"""What Redis' moods, limits and doubles cost: the session that they are about, and nobody else."""

import json
import pathlib
import socket
import threading
import time

import pytest
from support.process import wait_for
from support.servers import UPGRADE, request
from support.switch import Switch, SwitchByName

JSON = {"Content-Type": "application/json"}


def post(gateway, session, data="x"):
    return gateway.request("POST", f"/v1/sessions/{session}", json.dumps({"data": data}), JSON)


def unread(gateway, path):
    """Somebody who attaches and takes nothing in."""
    device = socket.create_connection(("127.0.0.1", gateway.port))
    head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **UPGRADE}.items())
    device.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    return device


def logged(gateway, words):
    return [line for line in gateway.process.logged().splitlines() if words in line]


def attached(attach, gateway, session, **options):
    """A device that tries again until it is let in."""

    def one():
        try:
            return attach(gateway, session, follow=True, **options)
        except Exception:
            return None

    return wait_for(one, 20, "a device is let in")


def commands(redis):
    return redis.client.info("stats")["total_commands_processed"]


@pytest.mark.parametrize("gateway_is_new", [False, True], ids=["under it", "started into it"])
def test_a_disk_that_is_full_shuts_no_reader_out(new_redis, new_gateway, session, attach, gateway_is_new):
    """MISCONF: Redis serves reads, and refuses writes and PING."""
    redis = new_redis("redis-full-disk", "--dbfilename", "dump.rdb")
    redis.client.config_set("save", "3600 1")
    ids = [redis.add(session, data=f"{n} ") for n in range(5)]
    gateway = new_gateway(redis.url, "gw-full-disk") if not gateway_is_new else None
    # A directory in the file's place: no snapshot can be saved.
    blocked = pathlib.Path(redis.data) / "dump.rdb"
    blocked.mkdir()
    redis.client.bgsave()
    wait_for(lambda: redis.client.info("persistence")["rdb_last_bgsave_status"] == "err", 20, "the snapshot fails")
    if gateway_is_new:
        gateway = new_gateway(redis.url, "gw-full-disk", ready=False)
    else:
        # Its connections are made anew, too.
        redis.client.client_kill_filter(_type="normal", skipme=True)
    device = attached(attach, gateway, session, offset="0").until_at(ids[-1]).until_live()
    assert gateway.history(session).status == 200

    def refused():
        told = post(gateway, session)
        return told.status in (500, 503) and b"MISCONF" in told.body

    wait_for(refused, 15, "a write is refused, with the reason")
    blocked.rmdir()
    redis.client.bgsave()
    wait_for(lambda: post(gateway, session, "again").status == 201, 20, "writes are taken again")
    device.until_at(redis.stream(session)[-1][0])
    wait_for(lambda: gateway.get("/readyz").status == 200, 20, "ready")
    device.judge(redis.stream(session))


def test_a_small_output_buffer_makes_pages_small(new_redis, new_gateway, session, attach):
    redis = new_redis("redis-small-buffer")
    neighbour = session + "-neighbour"
    redis.add(neighbour, data="x")
    for n in range(600):
        redis.add(session, data=f"{n} " + "x" * 20_000)
    stream = redis.stream(session)
    redis.client.config_set("client-output-buffer-limit", "normal 8mb 0 0")
    gateway = new_gateway(redis.url, "gw-small-buffer")
    statuses, over = [], threading.Event()

    def ask():
        while not over.is_set():
            statuses.append(request(gateway.port, "GET", f"/v1/sessions/{neighbour}").status)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            attach(gateway, session, offset="0").until_live(60).judge(stream)
    finally:
        over.set()
        asking.join()
    assert set(statuses) == {200}


def test_one_entry_that_no_buffer_takes_is_its_sessions_patience_alone(new_redis, new_gateway, session, attach):
    """Redis hangs up on whoever asks for it; others' devices and pages notice nothing."""
    redis = new_redis("redis-tiny-buffer", "--client-output-buffer-limit", "normal", "1mb", "0", "0")
    neighbour = session + "-neighbour"
    redis.add(session, **{f"f{n}": "x" * 500_000 for n in range(6)})
    gateway = new_gateway(redis.url, "gw-tiny-buffer")
    live = attach(gateway, neighbour).until_live()
    deaf = unread(gateway, f"/v1/sessions/{session}?offset=0")
    for n in range(20):
        live.until_at(redis.add(neighbour, data=f"{n} "), 5)
        assert gateway.history(neighbour).status == 200
        time.sleep(0.1)
    assert gateway.process.alive
    deaf.close()


class Fork(Switch):
    """Sends one connection to one server, the next to the other: a name with two masters."""

    def __init__(self, ports):
        self.ports, self.turn = ports, 0
        super().__init__(ports[0])

    @property
    def target(self):
        self.turn += 1
        return self.ports[self.turn % len(self.ports)]

    @target.setter
    def target(self, port):
        pass


def test_two_masters_behind_one_name_make_no_storm(new_redis, new_gateway, started, session, attach):
    """Tail and history on different servers with different histories: no hot loop, and all is well once there is one."""
    one, other = new_redis("redis-one"), new_redis("redis-other")
    for n in range(200):
        one.add(session, data=f"one {n} ")
        other.add(session, data=f"other {n} ")
    fork = Fork([one.port, other.port])
    started.append(fork)
    gateway = new_gateway(fork.url, "gw-fork", ready=False)
    device = attached(attach, gateway, session, offset="0")
    before = commands(one) + commands(other)
    time.sleep(5)
    spent = commands(one) + commands(other) - before
    assert spent < 2000, f"{spent} commands in 5 s"
    fork.ports = [one.port]
    other.kill()
    id = one.add(session, data="the last ")
    device.until_at(id, 20).until_live()
    assert device.text.endswith("the last ")


def test_history_on_another_server_than_the_tail_is_not_served(new_redis, new_gateway, started, session, attach):
    """Both live on; whoever pages is sent what the tail's server holds, or waits."""
    one, other = new_redis("redis-one"), new_redis("redis-other")
    for n in range(5):
        one.add(session, data=f"one {n} ")
        other.add(session, data=f"other {n} ")
    switch = SwitchByName(one.port, "-history", other.port)
    started.append(switch)
    gateway = new_gateway(switch.url, "gw-two", ready=False)
    wait_for(lambda: gateway.history(session).status == 503, 20, "the other server's history is refused")
    before = commands(one) + commands(other)
    for _ in range(4):
        assert gateway.history(session).status == 503
    assert logged(gateway, "another server")
    assert commands(one) + commands(other) - before < 3000
    switch.special = one.port
    device = attached(attach, gateway, session, offset="0").until_at(one.stream(session)[-1][0]).until_live()
    device.judge(one.stream(session))
    wait_for(lambda: gateway.get("/readyz").status == 200, 20, "ready")


@pytest.mark.parametrize("trouble", ["away", "another password"])
def test_trouble_is_told_once_and_then_rarely(new_redis, new_gateway, session, attach, trouble):
    redis = new_redis("redis-loud")
    gateway = new_gateway(redis.url, "gw-loud")
    attach(gateway, session, follow=True).until_live()
    before = len(gateway.process.logged().splitlines())
    if trouble == "away":
        redis.kill()
    else:
        redis.client.config_set("requirepass", "another")
        redis.client.client_kill_filter(_type="normal", skipme=True)
    time.sleep(10)
    lines = gateway.process.logged().splitlines()[before:]
    words = "no connection to Redis" if trouble == "away" else "NOAUTH"
    assert any(words in line for line in lines), lines
    assert len(lines) <= 12, "\n".join(lines)


def test_a_step_that_may_not_be_run_is_trouble_whatever_else_can_be_written(new_redis, new_gateway, session, attach):
    """Leases are looked at beside plain writes that succeed: nothing that is posted could be written all the same."""
    redis = new_redis("redis-no-step")
    redis.client.acl_setuser("gw", enabled=True, nopass=True, reset=True, keys=["*"], channels=["*"], commands=["+@all", "-eval", "-evalsha"])
    gateway = new_gateway(f"redis://gw:@127.0.0.1:{redis.port}/0", "gw-no-step", ready=False)
    redis.add(session, event="start", response="r")
    redis.client.hset(f"baton:{{{session}}}:producers", "r", f"1 0 open w.1 - {int(time.time() * 1000)}")
    attached(attach, gateway, session, offset="0")
    wait_for(lambda: b"NOPERM" in gateway.get("/readyz").body, 15, "the reason")
    until = time.monotonic() + 4
    while time.monotonic() < until:
        told = gateway.get("/readyz")
        assert told.status == 503 and b"NOPERM" in told.body, told.body
        time.sleep(0.1)
