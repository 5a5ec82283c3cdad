"""What somebody on the open internet may try, while devices of others are attached, which must not notice."""

import contextlib
import hashlib
import hmac
import json
import os
import resource
import select
import signal
import socket
import threading
import time

import pytest
from support.browser import Browser
from support.process import wait_for
from support.raw import Raw
from support.servers import UPGRADE, Gateway
from support.tokens import SECRET, bearer, part, token

HOST = "Host: localhost\r\n"
WEBSOCKET = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **UPGRADE}.items())
EVENTS = f"{HOST}Accept: text/event-stream\r\n"


@pytest.fixture(scope="module")
def target(shared, redis):
    gateway = Gateway(shared, redis.url, "gw-target")
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def secret(shared):
    (shared / "attacked-secret").write_bytes(SECRET)
    return shared / "attacked-secret"


@pytest.fixture(scope="module")
def guarded(shared, redis, secret):
    gateway = Gateway(shared, redis.url, "gw-guarded", "--auth-secret-file", secret)
    yield gateway
    gateway.kill()


def cpu(gateway):
    """Seconds that the process has computed."""
    with open(f"/proc/{gateway.process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def unnoticed(redis, gateway, attach, session, megabytes=64, headers=None):
    """Neighbours of what happens within get their entries meanwhile, within 5 s each (1 s and less where the machine is not busy);
    afterwards the gateway has what it had before."""
    names = [f"{session}-neighbour-{n}" for n in range(4)]
    devices = [attach(gateway, name, headers=headers).until_live() for name in names]
    memory, descriptors, over, late = gateway.process.rss(), gateway.process.descriptors(), threading.Event(), []

    def publish():
        while not over.wait(0.05):
            for name, device in zip(names, devices):
                try:
                    device.until_at(redis.add(name, data="x"), 5)
                except AssertionError as failure:
                    late.append(failure)
                    return

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        yield
    finally:
        over.set()
        publisher.join()
    assert not late, late
    assert gateway.process.alive
    assert gateway.process.rss() - memory < megabytes << 20
    wait_for(lambda: gateway.process.descriptors() <= descriptors + 8, 20, "descriptors are given back")
    wait_for(lambda: rest(gateway) < 0.3, 20, "nothing is computed")


def rest(gateway):
    began, before = time.monotonic(), cpu(gateway)
    time.sleep(0.3)
    return (cpu(gateway) - before) / (time.monotonic() - began)


def errors(gateway):
    return [entry for entry in gateway.process.logged().splitlines() if " error " in entry]


def answered(raw, seconds=5):
    """The status of what comes within `seconds`, and all of it."""
    raw.socket.settimeout(seconds)
    text = raw.until("\r\n\r\n")
    return int(text.split()[1]), text


def frame(payload, opcode=1, final=True, length=None):
    """A masked frame; `length` as the wire has it."""
    payload = payload if isinstance(payload, bytes) else payload.encode()
    if length is None:
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
    mask = b"\0\0\0\0"
    return bytes([opcode | (0x80 if final else 0), length[0] | 0x80]) + length[1:] + mask + payload


def websocket(gateway, session, headers="", query=""):
    raw = Raw(gateway).send(f"GET /v1/sessions/{session}{query} HTTP/1.1\r\n{WEBSOCKET}{headers}\r\n")
    raw.until('"type":"attached"')
    return raw


def closed_with(raw, seconds=20):
    """The close code that the gateway sends."""
    raw.socket.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError):
        raw.until_closed()
    at = max(raw.got.rfind(b"\x88" + bytes([size])) for size in range(2, 126))
    return int.from_bytes(raw.got[at + 2:at + 4], "big") if at >= 0 else None


# Bodies that never come


@pytest.mark.parametrize("wire", [WEBSOCKET, EVENTS], ids=["websocket", "events"])
@pytest.mark.parametrize("body", ["Content-Length: 5\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n"])
def test_an_attach_with_a_body_is_refused_before_it_comes(redis, target, attach, session, wire, body):
    with unnoticed(redis, target, attach, session):
        held = [Raw(target).send(f"GET /v1/sessions/{session} HTTP/1.1\r\n{wire}{body}\r\n") for _ in range(20)]
        for raw in held:
            assert answered(raw)[0] == 400
            # Nor is who goes on sending listened to for long.
            with contextlib.suppress(OSError):
                raw.send("5\r\nxxxxx\r\n")
        for raw in held:
            raw.socket.close()


def test_who_sends_half_a_request_does_not_keep_the_process(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-halves", "--drain-delay", "0s", "--drain-time", "1s")
    halves = [
        "GET /v1", f"GET /v1/sessions/{session} HTTP/1.1\r\nHost: h\r\n",
        *(f"GET /v1/sessions/{session} HTTP/1.1\r\n{wire}Content-Length: 9\r\n\r\n" for wire in (WEBSOCKET, EVENTS)),
        f"POST /v1/sessions/{session} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n",
        f"POST /v1/sessions/{session}?epoch=1 HTTP/1.1\r\n{HOST}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]  # fmt: skip
    held = [Raw(gateway).send(half) for half in halves]
    wait_for(lambda: gateway.process.descriptors() > len(held), 10, "connections")
    gateway.terminate()
    assert gateway.process.wait(20) == 0
    for raw in held:
        raw.socket.close()


# Uploads


def test_a_line_that_comes_byte_by_byte_costs_what_it_weighs(redis, target, attach, session):
    size = 300_000
    raw = Raw(target).send(f"POST /v1/sessions/{session}?epoch=1 HTTP/1.1\r\n{HOST}Content-Type: application/x-ndjson\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    with unnoticed(redis, target, attach, session):
        before = cpu(target)
        raw.send("1\r\nx\r\n" * size + "0\r\n\r\n")
        assert answered(raw, 60)[0] == 400
        # Looked through from its start for each byte it takes 25 s.
        assert cpu(target) - before < 8
        raw.socket.close()


def test_an_upload_answers_with_its_newest_ids(redis, target, session):
    lines = "".join(json.dumps({"response": "r", "n": n, "data": "x"}) + "\n" for n in range(1, 10_101))
    answer = target.request("POST", f"/v1/sessions/{session}?epoch=1", lines, {"Content-Type": "application/x-ndjson"}, seconds=60)
    assert answer.status == 201
    stream = [id for id, _ in redis.stream(session)]
    assert len(stream) == 10_100 and answer.json["ids"] == stream[-10_000:]


@pytest.fixture(scope="module")
def limited(shared, redis):
    """A gateway with every limit of bodies low."""
    gateway = Gateway(shared, redis.url, "gw-limited", "--max-upload-bytes", "4KiB", "--max-upload-time", "2s", "--max-body-time", "2s",
                      "--min-body-rate", "1KiB", "--max-requests", "8", "--idle-timeout", "30s")  # fmt: skip
    yield gateway
    gateway.kill()


def drip(raw, text, every=0.1):
    """Sends `text` again and again until an answer comes; its status."""
    began = time.monotonic()
    raw.socket.settimeout(every)
    while b"\r\n\r\n" not in raw.got:
        assert time.monotonic() - began < 20, "no answer"
        with contextlib.suppress(TimeoutError):
            raw.got += raw.socket.recv(65536)
            continue
        with contextlib.suppress(OSError):
            raw.send(text)
    return int(raw.got.split()[1])


def upload(gateway, session):
    return Raw(gateway).send(f"POST /v1/sessions/{session}?epoch=1 HTTP/1.1\r\n{HOST}Content-Type: application/x-ndjson\r\n"
                             "Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip


def json_post(gateway, session, length=100_000):
    return Raw(gateway).send(f"POST /v1/sessions/{session} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n")


def test_a_body_has_an_end(redis, limited, session):
    """Nor does it help not to be silent."""
    statuses = {}

    def run(name, *arguments):
        statuses[name] = drip(*arguments)

    threads = [
        threading.Thread(target=run, args=("max-body-time", json_post(limited, session), " " * 400)),
        threading.Thread(target=run, args=("max-upload-time", upload(limited, session), "1\r\n\n\r\n")),
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert statuses == {"max-body-time": 408, "max-upload-time": 408}
    exceeded(limited, "max-body-time", "max-upload-time")


def test_a_body_may_not_trickle(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-trickle", "--min-body-rate", "1KiB", "--header-timeout", "500ms")
    assert drip(json_post(gateway, session), " ") == 408
    exceeded(gateway, "min-body-rate")


def test_an_upload_may_not_be_endless(redis, limited, session):
    first = json.dumps({"response": "r", "n": 1, "data": "x"}) + "\n"
    raw = upload(limited, session).send(f"{len(first):x}\r\n{first}\r\n")
    wait_for(lambda: redis.stream(session), 10, "the first line")
    assert drip(raw, f"{1000:x}\r\n" + "\n" * 1000 + "\r\n", 0.01) == 413
    told = raw.until_closed()
    assert "--max-upload-bytes" in told and '"n":1' in told
    exceeded(limited, "max-upload-bytes")


def test_answers_in_progress_are_bounded(redis, limited, session):
    held = [upload(limited, session) for _ in range(12)]
    wait_for(lambda: limited.metric("baton_limits_exceeded_total", limit="max-requests") >= 4, 10, "refusals")
    told = limited.history(session)
    assert told.problem(503)["type"].endswith("too-many-requests") and told.headers["retry-after"]
    assert limited.get("/healthz").status == 200 and limited.get("/readyz").status == 200
    exceeded(limited, "max-requests")
    for raw in held:
        raw.socket.close()
    wait_for(lambda: limited.history(session).status == 404, 10, "room")


def exceeded(gateway, *names):
    for name in names:
        assert gateway.metric("baton_limits_exceeded_total", limit=name) >= 1, name


@pytest.mark.parametrize("flood", ["1;" + "x" * 200_000, "0" * 200_000, "1;" + "x" * 60_000 + "\r\n\n\r\n"], ids=["extension", "zeros", "in each chunk"])
@pytest.mark.parametrize("kind", ["json", "ndjson"])
def test_what_a_chunked_body_has_beside_its_content_is_bounded(redis, target, attach, session, kind, flood):
    """Extensions, and zeros of a length (RFC 9112 section 7.1.1), which count for no limit of bodies."""
    head = (POST if kind == "json" else LINES).replace("SESSION", session)
    with unnoticed(redis, target, attach, session):
        raw = Raw(target).send(f"{head}Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        while not select.select([raw.socket], [], [], 0)[0]:
            assert sent < 64 << 20, "nothing is said to it"
            raw.send(flood)
            sent += len(flood)
        assert answered(raw)[0] == 400
        raw.socket.close()


def test_chunks_of_one_byte_are_a_body(target, session):
    body = json.dumps({"data": "x" * 40_000})
    raw = Raw(target).send(f"{POST.replace('SESSION', session)}Transfer-Encoding: chunked\r\n\r\n" + "".join(f"1;a=b\r\n{one}\r\n" for one in body) + "0\r\n\r\n")
    assert answered(raw, 20)[0] == 201
    raw.socket.close()


# Connections


def test_without_descriptors_no_loop_spins(redis, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-few")
    with unnoticed(redis, gateway, attach, session):
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (60, 60))
        held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(100)]
        wait_for(lambda: "no descriptor is left" in gateway.process.logged(), 20, "a word")
        # What ends makes the listener ask for more.
        for one in held[:20]:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        before = cpu(gateway)
        time.sleep(2)
        assert cpu(gateway) - before < 1
        for one in held:
            one.close()
        wait_for(lambda: gateway.metric("baton_accept_pauses_total") >= 1, 20, "the count")


def test_there_are_only_so_many_connections(redis, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-connections", "--max-connections", "30")
    with unnoticed(redis, gateway, attach, session):
        held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(60)]
        wait_for(lambda: "--max-connections" in gateway.process.logged(), 10, "a word")
        assert gateway.process.descriptors() < 80
        for one in held:
            one.close()
    assert gateway.get("/healthz").status == 200
    assert gateway.metric("baton_accept_pauses_total") >= 1
    exceeded(gateway, "max-connections")


def test_an_address_has_only_so_many_connections(redis, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-address", "--max-connections-per-address", "20")
    with unnoticed(redis, gateway, attach, session):
        held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(40)]
        ended = 0
        for one in held:
            one.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                ended += one.recv(1) == b""
        # Another address is none the worse.
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.connect(("127.0.0.1", gateway.port))
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert other.recv(12) == b"HTTP/1.1 200"
        for one in held:
            one.close()
    assert ended >= 15
    wait_for(lambda: gateway.get("/healthz").status == 200, 10, "room")
    exceeded(gateway, "max-connections-per-address")


def test_an_address_attaches_only_so_often(redis, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-handshakes", "--max-handshakes-per-address", "2")
    with unnoticed(redis, gateway, attach, session):
        path = f"/v1/sessions/{session}?offset=x"
        answers = [gateway.upgrade(path) for _ in range(40)]
        assert answers[0].status == 400 and answers[-1].status == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        answers[-1].problem(429)
        # A status would end an EventSource for good.
        status, told = answered(Raw(gateway).send(f"GET /v1/sessions/{session} HTTP/1.1\r\n{EVENTS}\r\n"))
        assert status == 200 and "text/event-stream" in told
    exceeded(gateway, "max-handshakes-per-address")


def test_an_address_fails_only_so_often(redis, secret, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-guesses", "--auth-secret-file", secret, "--max-auth-failures-per-address", "10")
    with unnoticed(redis, gateway, attach, session, headers=bearer(token())):
        wrong = bearer(token(secret=b"a guess that is longer than thirty-two bytes"))
        statuses = [gateway.request("GET", f"/v1/sessions/{session}", headers=wrong).status for _ in range(20)]
        assert statuses[:10] == [401] * 10 and statuses[-1] == 429
        gateway.upgrade(f"/v1/sessions/{session}", wrong).problem(429)
    exceeded(gateway, "max-auth-failures-per-address")


# Devices


def test_a_session_and_a_subject_have_only_so_many_devices(redis, secret, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-places", "--auth-secret-file", secret, "--max-devices-per-session", "3",
                          "--max-devices-per-subject", "8")  # fmt: skip
    mine = bearer(token(sub="eve"))
    with unnoticed(redis, gateway, attach, session, headers=bearer(token(sub="ada"))):
        held = [attach(gateway, session, headers=mine).until_live() for _ in range(3)]
        told = gateway.upgrade(f"/v1/sessions/{session}", mine)
        assert told.problem(429)["type"].endswith("too-many-devices-of-session") and told.headers["retry-after"]
        held += [attach(gateway, f"{session}-{n}", headers=mine).until_live() for n in range(5)]
        told = gateway.upgrade(f"/v1/sessions/{session}-9", mine)
        assert told.problem(429)["type"].endswith("too-many-devices-of-subject")
        held[0].close()
        wait_for(lambda: gateway.metric("baton_devices") < 12, 10, "a place")
        held.append(attach(gateway, f"{session}-9", headers=mine).until_live())
        for device in held:
            device.close()
    exceeded(gateway, "max-devices-per-session", "max-devices-per-subject")


def test_a_flood_of_tokens_costs_one_at_a_time(redis, guarded, attach, session):
    long = token(padding="x" * 40_000)
    short = bearer(token())
    with unnoticed(redis, guarded, attach, session, megabytes=48, headers=short):
        raw = websocket(guarded, session, f"Authorization: Bearer {token()}\r\n")
        many = frame(json.dumps({"type": "auth", "token": long})) * 20
        raw.socket.settimeout(0.2)
        memory = 0
        with contextlib.suppress(OSError):
            for _ in range(100):
                raw.send(many)
                memory = max(memory, guarded.process.rss())
        raw.socket.close()
        assert memory < 400 << 20


def test_a_device_says_only_so_much(redis, new_gateway, attach, session):
    gateway = new_gateway(redis.url, "gw-talk", "--max-messages-per-second", "5")
    with unnoticed(redis, gateway, attach, session):
        device = attach(gateway, session).until_live()
        for n in range(100):
            device.send({"type": "cancel", "key": f"k{n}", "response": "r"})
        device.until(lambda device: len([one for one in device.frames if one.get("type") in ("accepted", "error")]) == 100, what="answers")
        kinds = [one.get("code", "accepted") for one in device.frames if one.get("type") in ("accepted", "error")]
        assert 30 < kinds.count("rate_limited") < 100
        limited = next(one for one in device.frames if one.get("code") == "rate_limited")
        assert limited["key"].startswith("k")
        device.until_at(redis.add(session, data="x"))
        device.close()
    exceeded(gateway, "max-messages-per-second")


@pytest.mark.parametrize("what, limit", [
    (frame("", 9), "max-pings-per-second"), (frame('{"type":"ping"}'), "max-pings-per-second"), (frame("", 10), "max-frames-per-second"),
    (frame("x", 1, final=False) + frame("", 0, final=False) * 200 + frame("", 0), "max-frames-per-second"),
], ids=["ping frames", "pings", "pong frames", "fragments"])  # fmt: skip
def test_a_flood_of_frames_is_closed(redis, target, attach, session, what, limit):
    with unnoticed(redis, target, attach, session):
        raw = websocket(target, session)
        with contextlib.suppress(OSError):
            raw.send(what * (200_000 // max(1, len(what) // 6)))
        assert closed_with(raw) in (1008, 1002)
        raw.socket.close()
    assert sum(target.metric("baton_limits_exceeded_total", limit=one) for one in {limit, "max-frames-per-second"}) >= 1
    assert sum(target.metric("baton_websocket_violations_total", reason=one) or 0 for one in ("too many pings", "too many frames")) >= 1


def test_an_event_stream_is_not_talked_to(redis, target, attach, session):
    with unnoticed(redis, target, attach, session):
        raw = Raw(target).send(f"GET /v1/sessions/{session} HTTP/1.1\r\n{EVENTS}\r\n")
        raw.until('"attached"')
        with pytest.raises(OSError):
            for _ in range(10_000):
                raw.send("x" * 65536)
        raw.socket.close()


# Entries


@pytest.mark.parametrize("body", [
    *('{"fields":{"base64:%s":"7"}}' % name for name in ("bg==", "ZGF0YQ==", "ZXZlbnQ=", "cmVzcG9uc2U=", "am9pbmVk", "X3ByaXZhdGU=", "")),
    '{"fields":{"n":"7"}}', '{"fields":{"_x":"7"}}', '{"fields":{"":"7"}}',
    '{"data":"x",}', '{"data":"x"}{}', '{,"data":"x"}', '{"fields":{"a":["x",]}}', "{'data':'x'}", '{"data":"x"}\x00', "[]", "",
    json.dumps({"fields": {f"f{n}": "x" for n in range(1001)}}), json.dumps({"fields": {"f": ["x"] * 1001}}),
], ids=lambda body: body[:40])  # fmt: skip
def test_an_entry_out_of_shape_is_a_400(redis, target, session, body):
    told = target.request("POST", f"/v1/sessions/{session}", body, {"Content-Type": "application/json"}).problem(400)
    assert "retry-after" not in told
    assert redis.stream(session) == []


@pytest.mark.parametrize("line", [
    '{"response":"r","n":true,"data":"x"}', '{"response":"r","n":"1","data":"x"}', '{"response":"r","n":0,"data":"x"}',
    '{"response":"r","n":-1,"data":"x"}', '{"response":"r","n":1.5,"data":"x"}', '{"response":"r","n":9007199254740992,"data":"x"}',
    '{"response":"r","n":1,"data":"x",}', '{"response":"r","n":1,"fields":{"base64:bg==":"7"}}',
    json.dumps({"response": "r", "n": 1, "fields": {f"f{n}": "x" for n in range(1001)}}),
], ids=lambda line: line[:60])  # fmt: skip
def test_a_line_out_of_shape_is_a_400(redis, target, session, line):
    target.request("POST", f"/v1/sessions/{session}?epoch=1", line + "\n", {"Content-Type": "application/x-ndjson"}).problem(400)
    assert redis.stream(session) == []


def test_a_thousand_fields_are_an_entry(redis, target, session):
    body = json.dumps({"fields": {f"f{n}": "x" for n in range(990)}})
    assert target.request("POST", f"/v1/sessions/{session}", body, {"Content-Type": "application/json"}).status == 201


# HTTP and frames that are none


POST = f"POST /v1/sessions/SESSION HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n"
LINES = f"POST /v1/sessions/SESSION?epoch=1 HTTP/1.1\r\n{HOST}Content-Type: application/x-ndjson\r\n"


@pytest.mark.parametrize("head", [POST, LINES], ids=["json", "ndjson"])
@pytest.mark.parametrize("rest", [
    "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n", "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0\r\nA: \x01\r\n\r\n", "Transfer-Encoding: gzip\r\n\r\nx", "Transfer-Encoding: chunked, gzip\r\n\r\nx",
    "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "Content-Length: +3\r\n\r\nabc", "Content-Length: 3, 3\r\n\r\nabc",
    "Content-Length: 0x3\r\n\r\nabc", "Content-Length: 99999999999999999999\r\n\r\n", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "X: a\x00b\r\n\r\n", " folded: x\r\n\r\n",
], ids=repr)  # fmt: skip
def test_a_body_that_is_no_http_is_a_400(redis, target, session, head, rest):
    before = len(errors(target))
    raw = Raw(target).send((head + rest).replace("SESSION", session))
    status, text = answered(raw)
    # 501 is for transfer codings that are not known (RFC 9112 section 6.1).
    assert status in ((400, 413, 501) if "99999" in rest else (400, 501)), text
    raw.socket.shutdown(socket.SHUT_WR)
    raw.until_closed()
    assert raw.got.count(b"HTTP/1.1 4") + raw.got.count(b"HTTP/1.1 501 ") == 1
    assert len(errors(target)) == before, errors(target)[before:]
    assert redis.stream(session) == []


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("path", ["/v1/sessions/SESSION", "/healthz", "/metrics", "/nothing"])
@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n", "Host: \r\n", "Host: a b\r\n", "Host: localhost/\r\n", "Host: a@localhost\r\n"],
                         ids=repr)  # fmt: skip
def test_a_request_has_one_host(target, session, accept, path, hosts):
    raw = Raw(target).send(f"GET {path.replace('SESSION', session)} HTTP/1.1\r\n{hosts}Accept: {accept}\r\n\r\n")
    assert answered(raw)[0] == 400


def test_a_connection_of_http_1_0_is_closed(target):
    told = Raw(target).send("GET /healthz HTTP/1.0\r\n\r\n").until_closed()
    assert told.startswith("HTTP/1.1 200 ") and "connection: close" in told.lower()


@pytest.mark.parametrize("length", [b"\x7e\x00\x05", b"\x7f" + (5).to_bytes(8, "big"), b"\x7f" + (126).to_bytes(8, "big"), b"\x7e\x00\x7d"])
def test_a_length_is_written_as_short_as_it_goes(target, session, length):
    raw = websocket(target, session)
    size = int.from_bytes(length[1:], "big")
    raw.send(frame('{"type":"ping","x":"'.ljust(size - 2, "x")[:size - 2] + '"}', length=length))
    assert closed_with(raw) == 1002


@pytest.mark.parametrize("head", [b"\x81\x05", b"\xc1\x85", b"\x83\x85", b"\x8b\x85", b"\x09\x80", b"\x81\xff" + b"\xff" * 8], ids=repr)
def test_a_frame_is_refused_by_its_head(target, session, head):
    """Its payload need not come: unmasked, reserved bits and opcodes, fragmented control frames, lengths beyond 63 bits."""
    raw = websocket(target, session)
    raw.send(head + b"\0\0\0\0")
    assert closed_with(raw, 5) in (1002, 1009)


# Tokens


@pytest.mark.parametrize("header", [
    {"alg": "none"}, {"alg": "hs256"}, {"alg": "HS512"}, {"alg": "RS256"}, {"alg": "ES256"}, {}, {"alg": None}, {"alg": ["HS256"]},
    {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "crit": []}, {"alg": "HS256", "crit": ["b64"], "b64": False}, {"alg": "HS256", "crit": None},
], ids=repr)  # fmt: skip
def test_a_signed_token_with_another_header_is_a_401(guarded, session, header):
    told = guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(token(header=header or {"typ": "JWT"}))).problem(401)
    assert "claims" not in told["detail"]


@pytest.mark.parametrize("claims, fits", [
    ({"exp": None}, False), ({"exp": -61}, False), ({"exp": -30}, True), ({"nbf": 30}, True), ({"nbf": 120}, False), ({"iat": 30}, True),
    ({"iat": 120}, False), ({"exp": "soon"}, False), ({"sub": None}, False), ({"sub": 7}, False), ({"sessions": "*"}, False), ({"iat": "now"}, False),
    ({"nbf": "now"}, False), ({"aud": "elsewhere"}, True),
], ids=repr)  # fmt: skip
def test_times_have_a_minute_of_leeway(redis, guarded, session, claims, fits):
    made = dict(claims)
    for name in ("nbf", "iat"):
        if isinstance(made.get(name), int):
            made[name] += int(time.time())
    if isinstance(made.get("exp"), str):
        made = {"exp": None, **{name: value for name, value in made.items() if name != "exp"}}
        value = raw_token({"sub": "ada", "exp": "soon", "sessions": ["*"], "scope": ["read"]})
    else:
        value = token(**made)
    answer = guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(value))
    assert answer.status == (404 if fits else 401), answer.body


def raw_token(claims):
    return signed('{"alg":"HS256"}', json.dumps(claims))


def signed(header, payload, secret=SECRET):
    """A token of these two texts."""
    text = part(header.encode()) + b"." + part(payload.encode())
    return (text + b"." + part(hmac.new(secret, text, hashlib.sha256).digest())).decode()


@pytest.mark.parametrize("spoil", [
    lambda value: value + "=", lambda value: value + ".x", lambda value: value.replace(".", " .", 1), lambda value: value.replace(".", "..", 1),
    lambda value: value[:-1], lambda value: "." + value, lambda value: value + "\x7f", lambda value: "x" * 12_000,
], ids=["padded", "four parts", "space", "empty part", "shortened", "empty header", "control", "long"])  # fmt: skip
def test_a_token_is_read_strictly(guarded, session, spoil):
    raw = Raw(guarded).send(f"GET /v1/sessions/{session} HTTP/1.1\r\n{HOST}Authorization: Bearer {spoil(token())}\r\n\r\n")
    assert answered(raw)[0] in (400, 401)


@pytest.mark.parametrize("parts", [
    ('{"alg":"HS256"}', '{CLAIMS,"exp":1}'), ('{"alg":"HS256"}', '{"exp":1,CLAIMS}'), ('{"alg":"HS256"}', '{CLAIMS,"sub":"root"}'), ('{"alg":"HS256"}', '{CLAIMS,"s\\u0075b":"root"}'),
    ('{"alg":"HS256"}', '{CLAIMS,"x":{"a":1,"a":2}}'), ('{"alg":"none","alg":"HS256"}', "{CLAIMS}"), ('{"alg":"HS256","alg":"none"}', "{CLAIMS}"),
    ('{"alg":"HS256","kid":"a","kid":"b"}', "{CLAIMS}"), ('{"alg":"HS256"}', "[{CLAIMS}]"), ('{"alg":"HS256"}', "{CLAIMS}{}"), ('{"alg":"HS256"}', "{CLAIMS}\0"),
], ids=repr)  # fmt: skip
def test_a_token_says_everything_once(guarded, session, parts):
    """What two readers may read in two ways is for none (RFC 7515 section 4, RFC 7519 section 4)."""
    claims = f'"sub":"ada","sessions":["*"],"scope":["read"],"exp":{int(time.time()) + 600}'
    header, payload = (text.replace("CLAIMS", claims) for text in parts)
    assert guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(signed(header, payload))).status == 401
    assert guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(signed('{"alg":"HS256"}', f"{{{claims}}}"))).status == 404


@pytest.mark.parametrize("exp", ["1e308", "9223372036854775807", "18446744073709551616", "253402300800", "4000000000.5"])
def test_a_token_may_end_whenever(redis, guarded, session, exp):
    """Whatever number it is, attached devices stand it."""
    value = signed('{"alg":"HS256"}', f'{{"sub":"ada","sessions":["*"],"scope":["read"],"exp":{exp}}}')
    raw = websocket(guarded, session, f"Authorization: Bearer {value}\r\n")
    raw.send(frame(json.dumps({"type": "auth", "token": value})))
    assert '"expiresInMs":' in raw.until('"authenticated"') + raw.until("}")
    raw.socket.close()
    events = Raw(guarded).send(f"GET /v1/sessions/{session}?token={value} HTTP/1.1\r\n{EVENTS}\r\n")
    events.until('"live"')
    events.socket.close()


@pytest.mark.parametrize("header, claims", [
    ({"kid": "../../../../dev/null"}, {}), ({"kid": ""}, {}), ({"kid": "' OR 1=1 --"}, {}), ({"kid": "k" * 5000}, {}), ({"kid": 7}, {}),
    ({"jwk": {"kty": "oct", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg"}}, {}), ({"jku": "http://127.0.0.1:1/"}, {}), ({"x5u": "http://127.0.0.1:1/"}, {}), ({"x5c": ["AAAA"]}, {}),
    ({}, {"exp": -5}), ({}, {"exp": "9999999999"}), ({}, {"exp": [9999999999]}), ({}, {"exp": True}), ({}, {"iat": 1e30}), ({}, {"nbf": 1e308}),
    ({}, {"scope": "read"}), ({}, {"sessions": {"a": 1}}), ({}, {"sub": ["ada"]}), ({}, {"deep": eval("[" * 60 + "]" * 60)}),
], ids=lambda value: repr(value)[:50])  # fmt: skip
def test_what_a_forged_token_says_matters_not(guarded, session, header, claims):
    """Each is signed by another key; those with claims that can't be are refused by the right one, too."""
    header, body = {"alg": "HS256", **header}, {"sub": "ada", "sessions": ["*"], "scope": ["read"], "exp": int(time.time()) + 600, **claims}
    value = signed(json.dumps(header), json.dumps(body), b"x" * 35)
    assert guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(value)).problem(401)
    if claims and "deep" not in claims:
        assert guarded.request("GET", f"/v1/sessions/{session}", headers=bearer(signed(json.dumps(header), json.dumps(body)))).problem(401)


def test_a_token_that_has_just_expired_is_let_in_for_the_minute(redis, guarded, session, attach):
    device = attach(guarded, session, headers=bearer(token(exp=-5))).until_live()
    device.until_at(redis.add(session, data="x"))


# Redis


def test_what_redis_says_is_logged_short_and_without_control_characters(new_gateway):
    """Every command is refused in 50 KB of escape sequences and line ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                connection.sendall(b"-ERR \x1b[31m\x07\x9b\xc2\x9b\x00 " + "\u2028\u202e".encode() + b"x" * 50_000 + b"\r\n")

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    for gateway in [new_gateway(url, f"gw-{form}", "--log-format", form, ready=False) for form in ("text", "json")]:
        wait_for(lambda: "x" * 20 in gateway.process.logged(), 20, "what Redis said")
        ready = gateway.get("/readyz").body
        told = gateway.process.log.read_bytes()
        assert max(map(len, told.split(b"\n"))) < 4096 and len(ready) < 4096
        for text in (told, ready):
            assert not [one for one in text.decode() if (not one.isprintable() and one != "\n")]
    listener.close()


# Pages of others


@pytest.mark.parametrize("host, fits", [
    ("localhost", True), ("localhost:8080", True), ("LocalHost", True), ("app.localhost:5173", True), ("127.0.0.1", True), ("127.8.9.1:80", True),
    ("[::1]:8080", True), ("localhost.", True),
    ("evil.example", False), ("evil.example:8080", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("192.168.0.1", False),
    ("10.0.0.1:80", False), ("[::2]", False), ("0.0.0.0", False), ("1270.0.0.1", False), ("notlocalhost", False),
])  # fmt: skip
def test_a_tokenless_gateway_knows_its_names(redis, target, session, host, fits):
    redis.add(session, data="secret")
    for head in (f"GET /v1/sessions/{session} HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\n", f"GET /v1/sessions/{session} HTTP/1.1\r\nAccept: text/event-stream\r\n",
                 f"GET /v1/sessions/{session} HTTP/1.1\r\n" + WEBSOCKET.replace(HOST, ""), f"DELETE /v1/sessions/{session}-x HTTP/1.1\r\n",
                 f"OPTIONS /v1/sessions/{session} HTTP/1.1\r\n", f"GET http://{host}/v1/sessions/{session} HTTP/1.1\r\n"):  # fmt: skip
        status, text = answered(Raw(target).send(f"{head}Host: {host}\r\n\r\n"))
        assert (status < 300) if fits else status == 403 and "host-not-allowed" in Raw_text(text, target, head, host), (head, text)
    if not fits:
        # The target's host counts for more than the field.
        assert answered(Raw(target).send(f"GET http://{host}/v1/sessions/{session} HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 403


def Raw_text(text, target, head, host):
    return Raw(target).send(f"{head}Host: {host}\r\n\r\n").until("host-not-allowed") if "host-not-allowed" not in text else text


def test_a_page_on_a_rebound_name_reads_nothing(redis, target, session):
    redis.add(session, data="secret")
    browser = Browser(switches=["host-resolver-rules=MAP rebound.example 127.0.0.1"])
    try:
        for host, seen in (("localhost", {"fetch": 200, "events": "secret", "socket": "secret"}), ("rebound.example", {"fetch": 403})):
            browser.open(f"http://{host}:{target.port}/healthz")
            told = browser.driver.execute_async_script("""
                const [session, done] = arguments, path = `/v1/sessions/${session}`, told = {};
                const ask = async () => { told.fetch = (await fetch(path)).status; };
                const first = (name, source) => new Promise((resolve) => {
                  source.onmessage = ({data}) => { if (JSON.parse(data).data) { told[name] = JSON.parse(data).data; source.close(); resolve(); } };
                  source.onerror = () => { source.close(); resolve(); };
                });
                Promise.all([ask(), first('events', new EventSource(path)), first('socket', new WebSocket(`ws://${location.host}${path}`))])
                  .then(() => done(told), (error) => done(`${error}`));
                """, session)  # fmt: skip
            assert told == seen, host
    finally:
        browser.kill()


def test_names_are_allowed_by_an_option_and_by_the_public_url(redis, new_gateway, guarded, session):
    gateway = new_gateway(redis.url, "gw-names", "--allowed-hosts", "chat.example, *.chat.example:8443", "--public-url", "https://baton.example/x")
    for host, status in {"chat.example": 404, "chat.example:8080": 404, "a.chat.example:8443": 404, "a.chat.example": 403, "a.b.chat.example:8443": 403,
                         "baton.example": 404, "evil.example": 403, "localhost": 404}.items():  # fmt: skip
        assert gateway.request("GET", f"/v1/sessions/{session}", headers={"Host": host}).status == status, host
    # Who asks for tokens is read by no page that has none.
    assert guarded.request("GET", f"/v1/sessions/{session}", headers={"Host": "any.example", **bearer(token())}).status == 404


def test_guesses_are_counted_by_who_makes_them_behind_a_proxy(redis, new_gateway, secret, session):
    """Their own address, as the proxy says; nobody else may say it."""
    gateway = new_gateway(redis.url, "gw-behind", "--auth-secret-file", secret, "--max-auth-failures-per-address", "10",
                          "--trusted-proxies", "127.0.0.0/8, fd00::/8")  # fmt: skip

    def status(value, *hops):
        return gateway.request("GET", f"/v1/sessions/{session}", headers={**bearer(value), "X-Forwarded-For": ", ".join(hops)}).status

    wait_for(lambda: status("a.b.c", "192.0.2.66", "198.51.100.7") == 429, 20, "too many guesses")
    assert status(token(), "198.51.100.7") == 429, "the left part is anybody's"
    assert status(token(), "198.51.100.8") == 404 and status(token(), "198.51.100.7", "198.51.100.9") == 404
    alone = new_gateway(redis.url, "gw-alone", "--auth-secret-file", secret, "--max-auth-failures-per-address", "10")
    gateway = alone
    wait_for(lambda: status("a.b.c", "198.51.100.7") == 429, 20, "too many guesses")
    assert status(token(), "198.51.100.8") == 429, "nobody is believed here"


def test_metrics_are_for_operators(redis, shared, new_gateway, target):
    target.get("/metrics", Origin="https://evil.example").problem(403)
    target.get("/metrics", X_Forwarded_For="203.0.113.7").problem(403)
    assert target.get("/metrics").status == 200
    (shared / "metrics-secret").write_bytes(b"a word for those who watch\n")
    gateway = new_gateway(redis.url, "gw-watched", "--metrics-secret-file", shared / "metrics-secret")
    for headers in ({}, bearer("a word"), bearer("another word for those who"), {"Authorization": "Basic YTpi"}):
        told = gateway.request("GET", "/metrics", headers=headers)
        assert told.problem(401) and told.headers["www-authenticate"] == "Bearer"
    assert gateway.request("GET", "/metrics", headers=bearer("a word for those who watch")).status == 200


def test_signals_during_an_attack(redis, new_gateway, session):
    """SIGTERM ends a gateway under a flood."""
    gateway = new_gateway(redis.url, "gw-flooded", "--drain-delay", "0s", "--drain-time", "1s")
    over = threading.Event()

    def flood():
        while not over.is_set():
            with contextlib.suppress(OSError, AssertionError):
                raw = websocket(gateway, session)
                raw.socket.settimeout(1)
                raw.send(frame("", 9) * 1000)
                raw.socket.close()

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for one in threads:
        one.start()
    wait_for(lambda: gateway.get("/readyz").status == 200, 10, "ready")
    gateway.process.signal(signal.SIGTERM)
    try:
        assert gateway.process.wait(30) == 0
    finally:
        over.set()
        for one in threads:
            one.join()
