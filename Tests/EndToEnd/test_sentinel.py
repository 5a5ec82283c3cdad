"""Baton over a master that Sentinels name: planned and unplanned switches, and Sentinels that are wrong or gone."""

import re
import socketserver
import subprocess
import threading

import pytest
from baton_stream.sync import Producer, attach
from support.load import Load
from support.process import BATON, free_port, wait_for
from support.servers import Gateway, Redis
from support.topology import Sentinel

NAMES = [f"s{number}" for number in range(4)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sentinel")


@pytest.fixture(scope="module")
def sentinel(place):
    servers = Sentinel(place)
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def gateways(place, sentinel):
    nodes = [Gateway(place, sentinel.url, f"gw-{number}") for number in (1, 2)]
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def load(place, sentinel, gateways, request):
    name = request.node.name[5:40].replace("[", "-").replace("]", "")
    load = Load(place, sentinel.url, [gateway.url for gateway in gateways], [f"{name}-{session}" for session in NAMES])
    load.grown()
    yield load
    load.close()


def test_four_connections_to_the_master_and_none_to_replicas(sentinel, gateways, load):
    load.judge()
    assert load.resets == []
    for port in sentinel.ports:
        assert sentinel.connections(port) == (8 if port == sentinel.master else 0)


def test_the_python_producer_takes_the_same_address(sentinel, gateways, session):
    with Producer(sentinel.url, session, "r") as answer:
        answer.delta("one ")
        answer.delta("two")
    answer.close()
    texts = [entry.get("data", "") for entry in gateways[0].history(session).json["entries"]]
    assert "".join(texts).startswith("one two")


@pytest.mark.parametrize("how", ["planned", "killed"])
def test_the_python_producer_and_device_go_on_after_a_failover(sentinel, gateways, session, how):
    """What the new master does not have is appended again, and the device is told."""
    before, parts = sentinel.master, [[f"{part}.{n} " for n in range(30)] for part in range(2)]
    with Producer(sentinel.url, session, "r") as answer:
        for text in parts[0]:
            answer.delta(text)
        if how == "planned":
            sentinel.failover()
        else:
            sentinel.kill(before)
            sentinel.switched(before)
        for text in parts[1]:
            answer.delta(text)
    answer.close()
    if how == "killed":
        sentinel.restart(before)
    wait_for(lambda: sentinel.role(before) == "slave", 30, "it is a replica now")
    with attach([gateway.url for gateway in gateways], session, until="end") as chat:
        for _ in chat:
            pass
    assert chat.text("r") == "".join(parts[0] + parts[1]) and chat.responses["r"].state == "end"


def test_a_planned_failover(sentinel, gateways, load):
    before = sentinel.master
    after = sentinel.failover()
    load.grown()
    # The demoted master may hold its clients for 10 s: nobody waits for that.
    wait_for(lambda: sentinel.connections(after) == 8, 5, "all connections are to the new master")
    wait_for(lambda: sentinel.connections(before) == 0, 5, "none is to the old one")
    load.judge()


def test_a_master_that_dies_takes_its_last_entries_along(sentinel, load):
    """What the replicas have not had is appended again by the producers, and devices are told."""
    before = sentinel.master
    others = [port for port in sentinel.ports if port != before]
    for port in others:
        # From here on replicas fall behind.
        assert sentinel.ask(port, "DEBUG", "SLEEP", "0.8") or True
    sentinel.kill(before)
    sentinel.switched(before)
    load.grown()
    sentinel.restart(before)
    wait_for(lambda: sentinel.role(before) == "slave", 30, "it is a replica now")
    load.grown()
    load.judge()


def test_a_master_that_hangs_and_thaws_as_a_master(sentinel, load):
    """It executes what was queued in its sockets, answers, and loses it as it becomes a replica."""
    before = sentinel.master
    sentinel.stop(before)
    sentinel.switched(before)
    load.grown()
    sentinel.cont(before)
    wait_for(lambda: sentinel.role(before) == "slave", 30, "it is a replica now")
    load.grown()
    load.judge()


def test_a_producer_stays_until_a_replica_has_the_end(sentinel, gateways, session, attach):
    """Without `--ack replicas`: what a crash of the master would take along is still there to be appended again."""
    master = sentinel.master
    replicas = [port for port in sentinel.ports if port != master]
    wait_for(lambda: len(sentinel.ask(master, "ROLE")[2]) == 2, 30, "both replicas are there")
    sentinel.ask(master, "CONFIG", "RESETSTAT")
    device = attach(gateways[0], session)
    for port in replicas:
        sentinel.stop(port)
    publish = subprocess.Popen([BATON, "publish", "--redis", sentinel.url, session], stdin=subprocess.PIPE, text=True)
    publish.stdin.write("all of it\n")
    publish.stdin.close()
    device.until(lambda device: device.frames and device.frames[-1].get("event") == "end", 20, "the end")
    wait_for(lambda: sentinel.client(master).info("commandstats").get("cmdstat_wait", {}).get("calls", 0) >= 3, 9, "it asks")
    assert publish.poll() is None
    for port in replicas:
        sentinel.cont(port)
    assert publish.wait(20) == 0


def test_what_replicas_have_is_acknowledged_and_nothing_else(sentinel, place, session):
    """With `--ack replicas=1` an answer is over when a replica has its end: a failover loses nothing of it."""
    before = sentinel.master
    others = [port for port in sentinel.ports if port != before]
    wait_for(lambda: b"slave1:" in sentinel.ask(before, "INFO", "replication"), 30, "two replicas")
    for port in sentinel.sentinels + others:
        sentinel.stop(port)
    publish = subprocess.Popen(
        [BATON, "publish", "--redis", f"redis://127.0.0.1:{before}/0", session, "--ack", "replicas=1"], stdin=subprocess.PIPE)
    publish.stdin.write(b"one\ntwo\n")
    publish.stdin.close()
    # Written over and over again, and never twice.
    wait_for(lambda: len(sentinel.stream(session, before)) >= 1, 20, "the master has it")
    calls = sentinel.client(before).info("commandstats")["cmdstat_wait"]["calls"]
    wait_for(lambda: sentinel.client(before).info("commandstats")["cmdstat_wait"]["calls"] > calls + 2, 20, "it asks again")
    assert publish.poll() is None
    for port in others:
        sentinel.cont(port)
    assert publish.wait(20) == 0
    assert any(sentinel.stream(session, port) == sentinel.stream(session, before) for port in others)
    texts = [dict(fields).get(b"data", b"") for _, fields in sentinel.stream(session, before)]
    assert b"".join(texts).startswith(b"one\ntwo\n") and texts.count(b"one\ntwo\n") <= 1
    for port in sentinel.sentinels:
        sentinel.cont(port)


def test_two_failovers_in_a_row(sentinel, load):
    sentinel.failover()
    sentinel.failover()
    load.grown()
    load.judge()


def test_without_sentinels_the_master_is_stayed_with(sentinel, gateways, load):
    for port in sentinel.sentinels:
        sentinel.stop(port)
    load.grown(200)
    assert gateways[0].get("/readyz").status == 200
    for port in sentinel.sentinels:
        sentinel.cont(port)
    load.judge()
    assert load.resets == []


def test_while_a_listed_sentinel_is_gone_those_that_it_knew_are_asked(place, sentinel, started, session):
    """One of three is listed. It dies, the others promote a replica, and gateway and producer follow."""
    listed, *others = sentinel.sentinels
    url = re.sub(r"://[^/]+/", f"://127.0.0.1:{listed}/", sentinel.url)
    gateway = Gateway(place, url, "gw-one-listed")
    started.append(gateway.process)
    before = sentinel.master
    load = Load(place, url, [gateway.url], [session])
    try:
        load.grown()
        assert [sentinel.connections(port, "baton-gw-one-listed-") for port in others] == [0, 0], "not needed yet"
        sentinel.kill(listed)
        after = sentinel.failover()
        wait_for(lambda: sentinel.connections(after, "baton-gw-one-listed-") == 4, 10, "all connections are to the new master")
        wait_for(lambda: sentinel.role(before) == "slave", 30, "it is a replica now")
        load.grown()
        load.judge()
        sentinel.restart(listed)
        wait_for(lambda: not any(sentinel.connections(port, "baton-gw-one-listed-") for port in others), 60, "it speaks for itself")
    finally:
        load.close()
        if listed not in sentinel.restarted:
            sentinel.restart(listed)


def test_the_python_producer_asks_those_whom_a_listed_sentinel_knew(sentinel, gateways, session):
    """One of three is listed. It dies, the others promote a replica, and the producer follows."""
    listed, *_ = sentinel.sentinels
    url, before = re.sub(r"://[^/]+/", f"://127.0.0.1:{listed}/", sentinel.url), sentinel.master
    parts = [[f"{part}.{n} " for n in range(30)] for part in range(2)]
    wait_for(lambda: len((sentinel.ask(before, "ROLE") or [0, 0, []])[2]) == 2, 60, "both replicas are there")
    answer = Producer(url, session, "r")
    try:
        with answer:
            for text in parts[0]:
                answer.delta(text)
            sentinel.kill(listed)
            sentinel.failover()
            for text in parts[1]:
                answer.delta(text)
        answer.close()
    finally:
        sentinel.restart(listed)
    wait_for(lambda: sentinel.role(before) == "slave", 30, "it is a replica now")
    with attach([gateway.url for gateway in gateways], session, until="end") as chat:
        for _ in chat:
            pass
    assert chat.text("r") == "".join(parts[0] + parts[1]) and chat.responses["r"].state == "end"


class Liar(socketserver.ThreadingTCPServer):
    """A Sentinel that names another server."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port):
        self.named = port
        super().__init__(("127.0.0.1", 0), Liar.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while line := self.rfile.readline():
                words = []
                for _ in range(int(line[1:])):
                    length = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(length + 2)[:-2].upper())
                if words[0] == b"SENTINEL":
                    port = str(self.server.named)
                    self.wfile.write(f"*2\r\n$9\r\n127.0.0.1\r\n${len(port)}\r\n{port}\r\n".encode())
                elif words[0] == b"SUBSCRIBE":
                    self.wfile.write(b"*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n")
                    told = f"mymaster 127.0.0.1 1 127.0.0.1 {self.server.named}"
                    self.wfile.write(f"*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${len(told)}\r\n{told}\r\n".encode())
                elif words[0] == b"PING":
                    self.wfile.write(b"+PONG\r\n")
                else:
                    self.wfile.write(b"+OK\r\n")
                self.wfile.flush()


@pytest.mark.parametrize("what", ["another master", "a replica", "nobody"])
def test_one_sentinel_that_lies_moves_nobody(place, sentinel, what, started):
    if what == "another master":
        other = Redis(place, "other")
        started.append(other)
        port = other.port
    elif what == "a replica":
        port = next(port for port in sentinel.ports if port != sentinel.master)
    else:
        port = free_port()
    liar = Liar(port)
    url = sentinel.url.replace("sentinel://", f"sentinel://127.0.0.1:{liar.server_address[1]},")
    node = f"gw-liar-{port}"
    gateway = Gateway(place, url, node)
    started.append(gateway.process)
    load = Load(place, sentinel.url, [gateway.url], [f"liar-{what.replace(' ', '-')}"])
    try:
        load.grown(200)
        load.judge()
        assert load.resets == []
        assert sentinel.connections(sentinel.master, f"baton-{node}-") == 4
    finally:
        load.close()
        liar.shutdown()


def test_a_name_that_no_sentinel_knows_is_named(place, sentinel, started):
    gateway = Gateway(place, sentinel.url.replace("mymaster", "nobody"), "gw-nobody", ready=False)
    started.append(gateway.process)
    wait_for(lambda: "does not know a master of this name" in gateway.process.logged(), 20, "it says why")
    assert gateway.get("/readyz").status == 503


def test_the_rights_at_the_master_are_tried(sentinel):
    for url, status in [(sentinel.url, 0), (sentinel.url.replace("mymaster", "nobody"), 69)]:
        done = subprocess.run([BATON, "serve", "--check", "--redis", url], capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
