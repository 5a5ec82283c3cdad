"""Output that cannot be written: readers that have gone, that stall, and a full disk."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time

import pytest
from support.process import BATON, Process, free_port, wait_for
from support.servers import Gateway

BAD_CHUNK = b"POST /v1/sessions/s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"

class Piped(Gateway):
    """A gateway whose standard error is a pipe; `stall` stops reading it, `leave` closes it."""

    def __init__(self, folder, redis_url, node, *options, pipe_bytes=None):
        self.node = node
        reading, writing = os.pipe()
        if pipe_bytes:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, pipe_bytes)
        self.reading = reading
        self.process = Process(folder, node, [BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis_url, "--node", node, *options],
                               stderr=writing)
        os.close(writing)
        told = b""
        while b"listening on http://127.0.0.1:" not in told or not told.endswith(b"\n"):
            more = os.read(reading, 65536)
            assert more, told
            told += more
        self.port = int(told.rpartition(b"listening on http://127.0.0.1:")[2].split()[0])
        wait_for(lambda: self.get("/readyz").status == 200, 20, "ready")

    def leave(self):
        if self.reading is not None:
            os.close(self.reading)
            self.reading = None

    def kill(self):
        super().kill()
        self.leave()


def log_lines(gateway, count):
    """Makes the gateway log at least so many lines of its own."""
    for _ in range(count):
        with contextlib.closing(socket.create_connection(("127.0.0.1", gateway.port), timeout=10)) as one:
            one.sendall(BAD_CHUNK)
            with contextlib.suppress(OSError):
                one.recv(4096)


@pytest.fixture
def piped(tmp_path, redis, started):
    def new(*options, **named):
        started.append(Piped(tmp_path, redis.url, f"gw-piped-{len(started)}", "--log-level", "trace", *options, **named))
        return started[-1]

    return new


def test_a_log_reader_that_has_gone_costs_its_lines_only(redis, piped, session, attach):
    gateway = piped("--drain-delay", "0s", "--drain-time", "1s")
    device = attach(gateway, session).until_live()
    gateway.leave()
    log_lines(gateway, 20)
    redis.client.client_kill_filter(_type="normal")
    device.until_at(redis.add(session, data="still here"), seconds=30)
    wait_for(lambda: gateway.metric("baton_log_lines_dropped_total") > 0, 20, "dropped lines are counted")
    assert gateway.process.alive
    gateway.terminate()
    assert gateway.process.wait(30) == 0
    assert device.until_closed() == 1001


def test_a_log_reader_that_stalls_holds_up_nobody(redis, piped, session, attach):
    gateway = piped("--drain-delay", "0s", "--drain-time", "1s", pipe_bytes=4096)
    device = attach(gateway, session).until_live()
    log_lines(gateway, 200)
    assert gateway.get("/healthz").status == 200
    assert gateway.get("/metrics").status == 200
    device.until_at(redis.add(session, data="still here"))
    attach(gateway, session + "-2").until_live()
    gateway.terminate()
    assert gateway.process.wait(30) == 0


@pytest.mark.parametrize("how", ["closed", "full disk", "read only"])
def test_a_standard_error_of_any_kind(redis, tmp_path, how):
    port = free_port()
    redirect = {"closed": "2>&-", "full disk": "2>/dev/full", "read only": "2</dev/null"}[how]
    command = f"exec {BATON} serve --listen 127.0.0.1:{port} --redis {redis.url} --node n --drain-delay 0s --drain-time 0s {redirect}"
    process = Process(tmp_path, "serve", ["sh", "-c", command])
    gateway = Gateway.__new__(Gateway)
    gateway.port, gateway.node, gateway.process = port, "n", process
    try:
        def ready():
            with contextlib.suppress(OSError):
                return gateway.get("/readyz").status == 200

        wait_for(ready, 20, "ready")
        assert gateway.metric("baton_log_lines_dropped_total") > 0
        gateway.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()


def shell(command, seconds=60):
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stderr


@pytest.mark.parametrize("command, status", [
    ("attach s --url http://127.0.0.1:{port} --connect-timeout 1s", 69),
    ("publish s --redis redis://127.0.0.1:{port}/0 --response a/b", 64),
    ("token --secret-file /nowhere --subject me --sessions s", 78),
    ("serve --redis http://x", 78),
    ("dev --listen nowhere", 78),
    ("no-such-command", 64),
])  # fmt: skip
def test_a_commands_status_is_its_own_where_nobody_reads(command, status):
    command = command.format(port=free_port())
    assert shell(f"{BATON} {command} 2>&1 </dev/null | true; exit ${{PIPESTATUS[0]}}")[0] == status
    assert shell(f"{BATON} {command} 2>/dev/full </dev/null")[0] == status
    assert shell(f"{BATON} {command} 2>&- </dev/null")[0] == status


@pytest.fixture
def finished(redis, session):
    redis.add_tokens(session, ["All of it. "] * 1000, "r")
    redis.add(session, event="end", response="r")
    return session


@pytest.mark.parametrize("json", ["", "--json"])
def test_attach_to_a_full_disk_fails(gateway, finished, json):
    attach = f"{BATON} attach {finished} --url {gateway.url} --until end {json}"
    for redirect in (">/dev/full", ">&-"):
        status, told = shell(f"{attach} {redirect}")
        assert status == 74 and "standard output" in told, (redirect, status, told)
    assert shell(f"{attach} | true; exit ${{PIPESTATUS[0]}}")[0] == 0


def test_what_is_asked_for_and_cannot_be_printed_fails(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x" * 40)
    for command in (f"token --secret-file {secret} --subject me --sessions s", "serve --print-config", "--version", "--help"):
        status, told = shell(f"{BATON} {command} >/dev/full")
        assert status == 74 and "standard output" in told, (command, status, told)


def test_a_client_that_is_gone_in_mid_body_is_no_error(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-gone")
    for kind in ("application/json", "application/x-ndjson"):
        with contextlib.closing(socket.create_connection(("127.0.0.1", gateway.port))) as one:
            one.sendall(f"POST /v1/sessions/{session}?epoch=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 999\r\n\r\n{{".encode())
        log_lines(gateway, 1)
    gateway.terminate()
    gateway.process.wait(60)
    assert not [line for line in gateway.process.logged().splitlines() if " error " in line]


def test_nothing_is_lost_at_the_end_of_a_reader_that_keeps_up(redis, new_gateway):
    gateway = new_gateway(redis.url, "gw-last", "--drain-delay", "0s", "--drain-time", "0s")
    gateway.terminate()
    assert gateway.process.wait(20) == 0
    assert "drained" in gateway.process.logged()


def test_a_second_sigterm_ends_it_while_the_log_stalls(redis, piped, session, attach):
    gateway = piped("--drain-delay", "60s", "--drain-time", "60s", pipe_bytes=4096)
    attach(gateway, session).until_live()
    log_lines(gateway, 100)
    gateway.terminate()
    wait_for(lambda: gateway.get("/readyz").status == 503, 10, "draining")
    began = time.monotonic()
    gateway.process.signal(signal.SIGTERM)
    gateway.process.wait(20)
    assert time.monotonic() - began < 5
