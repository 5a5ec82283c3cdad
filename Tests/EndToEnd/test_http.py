"""What programs, browsers and proxies may do over HTTP (RFC 9110, RFC 9112), with real clients and with raw sockets."""

import asyncio
import json
import re
import socket
import subprocess
import threading
import time

import aiohttp
import httpx
import httpx_sse
import pytest
import requests
from support.event_stream import EventStream
from support.process import wait_for
from support.raw import Raw
from support.servers import UPGRADE


def post(gateway, session, body, type="application/x-ndjson", query="?epoch=1", **headers):
    headers = {"Content-Type": type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return gateway.request("POST", f"/v1/sessions/{session}{query}", body, headers)


def line(response="r", **members):
    return json.dumps({"response": response, **members})


# Whole, or cut


def read_httpx(url, seen):
    with httpx.Client(timeout=30) as client, httpx_sse.connect_sse(client, "GET", url) as source:
        for event in source.iter_sse():
            json.loads(event.data)
            seen.set()


def read_requests(url, seen):
    with requests.get(url, headers={"Accept": "text/event-stream"}, stream=True, timeout=30) as answer:
        for _ in answer.iter_lines():
            seen.set()


def read_aiohttp(url, seen):
    async def read():
        async with aiohttp.ClientSession() as client, client.get(url, headers={"Accept": "text/event-stream"}) as answer:
            async for _ in answer.content:
                seen.set()

    asyncio.run(read())


def read_curl(url, seen):
    process = subprocess.Popen(["curl", "-sN", "-H", "Accept: text/event-stream", url], stdout=subprocess.PIPE)
    for _ in process.stdout:
        seen.set()
    if process.wait():
        raise OSError(f"curl ends with {process.returncode}")


READERS = [read_httpx, read_requests, read_aiohttp, read_curl]


def reading(read, url):
    """Runs a reader; returns what waits for its first line and for its end, which is None or the error."""
    seen, ended = threading.Event(), []

    def run():
        try:
            read(url, seen)
            ended.append(None)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert seen.wait(20)

    def end():
        thread.join(20)
        assert ended, "the reader did not end"
        return ended[0]

    return end


@pytest.mark.parametrize("read", READERS)
def test_an_answer_that_a_killed_gateway_cut_does_not_look_whole(redis, new_gateway, session, read):
    gateway = new_gateway(redis.url, "gw-cut")
    redis.add_tokens(session, ["a"] * 10, "r")
    end = reading(read, f"{gateway.url}/v1/sessions/{session}?until=end&rollup=off")
    gateway.kill()
    assert end() is not None


@pytest.mark.parametrize("read", READERS)
def test_an_answer_that_came_to_its_end_is_whole(redis, gateway, session, read):
    redis.add_tokens(session, ["a"] * 10, "r")
    end = reading(read, f"{gateway.url}/v1/sessions/{session}?until=end")
    redis.add(session, event="end", response="r")
    assert end() is None


@pytest.mark.parametrize("proxy", ["haproxy", "nginx"])
def test_proxies_pass_the_cut_on(redis, new_gateway, new_proxy, session, proxy):
    gateways = [new_gateway(redis.url, f"gw-{proxy}-{n}") for n in (1, 2)]
    front = new_proxy(proxy, gateways)
    redis.add_tokens(session, ["a"] * 10, "r")
    end = reading(read_curl, f"{front.url}/v1/sessions/{session}?until=end")
    for gateway in gateways:
        gateway.kill()
    assert end() is not None


def test_no_block_is_without_data(redis, gateway, session):
    """httpx-sse makes an event of every blank line."""
    redis.add_tokens(session, ["a", "b"], "r")
    redis.add(session, event="end", response="r")
    with httpx.Client(timeout=30) as client:
        with httpx_sse.connect_sse(client, "GET", f"{gateway.url}/v1/sessions/{session}?until=end") as source:
            events = list(source.iter_sse())
    assert [json.loads(event.data).get("type") for event in events][0] == "attached"
    assert all(event.data and json.loads(event.data) for event in events)
    assert events[0].retry >= 4000


def test_comments_are_no_blocks(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-comments", "--ping-interval", "200ms")
    stream = EventStream(gateway, session)
    blocks = len(stream.until(lambda stream: stream.view.live and stream.events, what="live"))
    stream.until(lambda stream: stream.comments >= 3, what="comments")
    with httpx.Client(timeout=2) as client, httpx_sse.connect_sse(client, "GET", f"{gateway.url}/v1/sessions/{session}") as source:
        data = []
        with pytest.raises(httpx.ReadTimeout):
            # Comments come more often than the time-out, so this ends by closing.
            for event in source.iter_sse():
                data.append(event.data)
                if len(data) == blocks:
                    raise httpx.ReadTimeout("had all")
    assert all(data)
    stream.close()


# What passes is no status


def test_without_redis_an_event_stream_is_told_to_come_back(new_redis, new_gateway, session):
    redis = new_redis()
    gateway = new_gateway(redis.url, "gw-alone")
    redis.kill()
    wait_for(lambda: gateway.upgrade(f"/v1/sessions/{session}").status == 503, 20, "503")
    stream = EventStream(gateway, session).until_ended()
    assert stream.status == 200 and stream.frames == [{"type": "stalled", "reason": "store"}]
    assert stream.retries and stream.retries[0] >= 4000
    assert gateway.get(f"/v1/sessions/{session}").status == 503


def test_a_full_node_tells_an_event_stream_to_come_back(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-full", "--max-devices", "1")
    attach(gateway, session).until_live()
    stream = EventStream(gateway, session).until_ended()
    assert stream.status == 200 and [frame["type"] for frame in stream.frames] == ["draining"]
    assert EventStream(gateway, session, offset="x").status == 400
    assert gateway.metric("baton_http_refusals_total", reason="too-many-devices") == 1
    assert gateway.metric("baton_limits_exceeded_total", limit="max-devices") == 1


def test_a_response_keeps_its_filter_when_the_browser_comes_back(redis, gateway, session):
    for n in range(1, 4):
        redis.add(session, response="r", n=n, data=f"r{n} ")
        redis.add(session, response="q", n=n, data=f"q{n} ")
    def listen(**options):
        return EventStream(gateway, session, response="r", rollup="off", **options)

    def is_live(stream):
        return any(frame.get("type") == "live" for frame in stream.frames)

    def data(stream):
        return [frame.get("data") for frame in stream.frames if "type" not in frame]

    stream = listen()
    stream.until(is_live, what="live")
    middle = [event["id"] for event in stream.events if '"r2 "' in event["data"]][0]
    for place in ({"last_event_id": middle}, {"lastEventId": middle}):
        again = listen(**place)
        again.until(is_live, what="live")
        assert data(again) == ["r3 "]
        again.close()
    at_live = stream.last_id
    redis.add(session, response="q", n=4, data="q4 ")
    redis.add(session, event="end", response="r")
    redis.add(session, response="q", n=5, data="q5 ")
    stream.until_ended()
    assert data(stream) == ["r1 ", "r2 ", "r3 ", None]
    assert listen(last_event_id=stream.last_id).status == 204
    assert data(listen(last_event_id=at_live).until_ended()) == [None]
    # A place behind the end, of an entry that was never sent.
    assert listen(last_event_id=redis.stream(session)[-1][0]).status == 204


# By the letter


def test_100_continue(gateway, session):
    raw = Raw(gateway).send(
        f"POST /v1/sessions/{session} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 12\r\nExpect: 100-continue\r\n\r\n")
    raw.until("HTTP/1.1 100 Continue\r\n\r\n")
    raw.send('{"data":"x"}').until("HTTP/1.1 201 Created\r\n")
    refused = Raw(gateway).send(
        "POST /v1/sessions/a%2Fb HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 12\r\nExpect: 100-continue\r\n\r\n").until_closed()
    assert refused.startswith("HTTP/1.1 400 ") and "Connection: close" in refused


def test_curl_uploads_without_waiting(gateway, session):
    done = subprocess.run(
        ["curl", "-sS", "-T", "-", "-X", "POST", "-w", "%{http_code} %{time_total}", "-H", "Content-Type: application/x-ndjson",
         "-v", f"{gateway.url}/v1/sessions/{session}?epoch=1"], input=line(event="end"), capture_output=True, text=True)  # fmt: skip
    assert "201 " in done.stdout
    assert "HTTP/1.1 100 Continue" in done.stderr or "Expect:" not in done.stderr


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/baton.js", "/v1/sessions/SESSION", "/v1/sessions/absent"])
def test_head_is_get_without_the_body(redis, gateway, session, path):
    redis.add(session, data="x")
    path = path.replace("SESSION", session)
    head, get = gateway.request("HEAD", path), gateway.get(path)
    assert head.status == get.status and head.body == b""
    if path != "/metrics":
        assert head.headers["content-length"] == str(len(get.body))
    assert head.headers["date"]


@pytest.mark.parametrize("request_, status", [
    ("GET /healthz HTTP/1.1\r\n\r\n", 400),
    ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET /healthz HTTP/1.0\r\n\r\n", 200),
    ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Close\r\n\r\n", 200),
    ("GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
    ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 204),
    ("GET /v1/sessions/%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    ("GET /v1/sessions/%ff HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n", 400),
    ("GET /v1/sessions/a/responses/%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: miracles\r\n\r\n", 417),
    ("no http\r\n\r\n", 400),
])  # fmt: skip
def test_what_a_parser_may_send(gateway, request_, status):
    assert Raw(gateway).send(request_).until_closed().startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize("size", [200_000, 20_000_000])
def test_a_413_arrives_however_much_is_on_its_way(gateway, session, size):
    for _ in range(5):
        answer = post(gateway, session, b"x" * size if size > 1_000_000 else b'"' + b"x" * size, "application/json", "")
        assert answer.status == (413 if size > 1_000_000 else 400)


@pytest.mark.parametrize("payload, code", [(b"a" * 5_000_000, 1009), (b"\xff" * 100, 1007)])
def test_a_close_frame_arrives_however_much_is_on_its_way(gateway, session, payload, code):
    for _ in range(6):
        raw = Raw(gateway).send(
            f"GET /v1/sessions/{session} HTTP/1.1\r\nHost: localhost\r\n" + "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
            + "\r\n")  # fmt: skip
        raw.until('"attached"')
        length = b"\xff" + len(payload).to_bytes(8) if len(payload) > 65535 else bytes([0x80 | len(payload)])
        raw.send(b"\x81" + length + b"\0\0\0\0" + payload)
        raw.send(b"\x81\x80\0\0\0\0" * 1000)
        while part := raw.socket.recv(65536):
            raw.got += part
        assert b"\x88" in raw.got and code.to_bytes(2) in raw.got


def test_a_handshake_that_lost_its_upgrade_is_told(gateway, session):
    headers = {name: value for name, value in UPGRADE.items() if name not in ("Connection", "Upgrade")}
    told = gateway.request("GET", f"/v1/sessions/{session}", headers=headers)
    assert "proxy" in told.problem(426)["detail"] and told.headers["upgrade"] == "websocket"


def test_pages_of_other_origins(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-origins", "--allowed-origins", "https://*.example.com,capacitor://localhost,null")
    for origin, allowed in [("https://app.example.com", True), ("capacitor://localhost", True), ("null", True),
                            ("https://a.b.example.com", False), ("http://localhost", False)]:  # fmt: skip
        for path in (f"/v1/sessions/{session}", f"/v1/sessions/{session}/responses/r"):
            answer = gateway.request("OPTIONS", path, headers={
                "Origin": origin, "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "authorization, cache-control, traceparent"})  # fmt: skip
            assert answer.status == (204 if allowed else 403)
            if allowed:
                assert answer.headers["access-control-allow-origin"] == origin
                allows = re.split(r"\s*,\s*", answer.headers["access-control-allow-headers"].lower())
                assert {"authorization", "cache-control", "traceparent"} <= set(allows)
        assert (gateway.upgrade(f"/v1/sessions/{session}/", {"Origin": origin}).status == 403) is False


# Appending


def test_a_last_line_without_its_newline_is_whole(redis, gateway, session):
    body = "\n".join([line(data="a", n=1), line(data="b", n=2.0), line(event="end")])
    assert post(gateway, session, body).status == 201
    assert [dict(fields).get(b"data") for _, fields in redis.stream(session)] == [b"a", b"b", None]


@pytest.mark.parametrize("type", ["application/jsonl", "application/ndjson; charset=utf-8", "application/x-ndjson"])
def test_ndjson_by_other_names(gateway, session, type):
    assert post(gateway, session, line(data="a", n=1) + "\n" + line(event="end") + "\n", type).status == 201


def test_a_line_over_the_limit_is_refused_as_plain_json_is(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-limit", "--max-entry-bytes", "1KiB")
    # Stored as response r, n 1 and data: 8 + 1 + 1 + 1 + 4 bytes beside it.
    assert post(gateway, session, line(data="x" * 1009, n=1)).status == 201
    told = post(gateway, session, line("q", data="x" * 1010, n=1)).problem(413)
    assert told["type"].endswith("entry-too-large") and "Line 1" in told["detail"]
    assert len(redis.stream(session)) == 1
    post(gateway, session, json.dumps({"data": "x" * 1021}), "application/json", "").problem(413)


def test_an_answer_that_nobody_reads_is_cut(redis, new_gateway, session):
    """It would hold history's memory for as long as the client lives."""
    for _ in range(60):
        redis.add(session, data="x" * 200_000)
    gateway = new_gateway(redis.url, "gw-unread", "--max-stall", "1s")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", gateway.port))
        deaf.sendall(f"GET /v1/sessions/{session}?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        mine = f":{deaf.getsockname()[1]:04X}"

        def is_open():
            told = [line.split() for line in open("/proc/net/tcp")]
            return any(one[2].endswith(mine) and one[3] == "01" for one in told[1:])

        wait_for(is_open, 10, "the connection")
        wait_for(lambda: not is_open(), 30, "the cut")
    assert gateway.history(session, "?limit=1").status == 200


def test_a_replay_says_so(gateway, session):
    answers = [post(gateway, session, '{"data":"x"}', "application/json", "", Idempotency_Key="k") for _ in range(2)]
    assert answers[0].json == answers[1].json
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]


@pytest.mark.parametrize("query", ["offset=0", "last=5", "until=end", "response=r"])
def test_a_page_of_history_takes_no_parameters_of_an_attach(redis, gateway, session, query):
    redis.add(session, data="x")
    gateway.history(session, f"?{query}").problem(400)


def test_half_an_emoji_ends_nothing(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    device.send('{"type":"input","key":"k","data":"half \\ud83d"}')
    device.until_type("accepted")
    device.send('{"type":"nothing","x":"\\ud83d","y":1e999,"z":' + "[" * 5000 + "]" * 5000 + "}")
    assert device.until_type("error")["code"] == "unsupported"
    assert dict(redis.stream(session)[-1][1])[b"data"].decode() == "half \N{REPLACEMENT CHARACTER}"
    assert post(gateway, session, '{"data":"\\ude42"}', "application/json", "").status == 201


# Uploads


class Upload:
    """An NDJSON upload in chunks, at the test's pace."""

    def __init__(self, gateway, session, epoch=1):
        self.raw = Raw(gateway).send(
            f"POST /v1/sessions/{session}?epoch={epoch} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            "Transfer-Encoding: chunked\r\n\r\n")

    def send(self, text):
        self.raw.send(f"{len(text.encode()):x}\r\n{text}\r\n")
        return self

    def answer(self):
        head, _, body = self.raw.until_closed().partition("\r\n\r\n")
        return int(head.split()[1]), json.loads(body[body.index("{"):])


def test_a_silent_upload_is_answered_with_what_the_stream_has(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-silent", "--upload-timeout", "1s", "--idle-timeout", "300ms")
    upload = Upload(gateway, session).send(line(data="a", n=1) + "\n" + line(data="b", n=2) + "\n")
    began = time.monotonic()
    status, told = upload.answer()
    assert (status, told["response"], told["n"]) == (408, "r", 2) and time.monotonic() - began >= 0.9


def test_a_blank_line_is_a_heartbeat(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-heart", "--upload-timeout", "2s", "--idle-timeout", "300ms")
    upload = Upload(gateway, session).send(line(data="a", n=1) + "\n")
    for _ in range(8):
        time.sleep(0.5)
        upload.send("\n")
    upload.send(line(event="end") + "\n").raw.send("0\r\n\r\n").until("HTTP/1.1 201 ")
    assert len(redis.stream(session)) == 2


def test_a_silent_json_body_is_a_408(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-slow", "--idle-timeout", "300ms")
    raw = Raw(gateway).send(
        f"POST /v1/sessions/{session} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{{")
    assert raw.until_closed().startswith("HTTP/1.1 408 ")


def test_the_answer_of_a_dead_uploader_ends_and_that_of_a_silent_one_does_not(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    silent = Upload(gateway, session).send(line("silent", data="a", n=1) + "\n")
    dead = Upload(gateway, session).send(line("dead", data="a", n=1) + "\n")
    finished = Upload(gateway, session).send(line("finished", data="a", n=1) + "\n")
    device.until(lambda device: len(device.entries) == 3, what="three answers")
    finished.raw.send("0\r\n\r\n").until("HTTP/1.1 201 ")
    dead.raw.socket.close()
    device.until(lambda device: any(frame.get("event") == "error" for frame in device.entries), 60, "the end of the dead one")
    ends = [(frame["response"], frame["data"]) for frame in device.entries if frame.get("event") == "error"]
    assert ends == [("dead", '{"reason":"producer_lost"}')]
    silent.send(line("silent", event="end") + "\n").raw.send("0\r\n\r\n").until("HTTP/1.1 201 ")
    # The body's end gave the lease up: it may be gone on with whenever its writer wants.
    again = Upload(gateway, session).send(line("finished", data="b", n=2) + "\n" + line("finished", event="end") + "\n")
    again.raw.send("0\r\n\r\n").until("HTTP/1.1 201 ")


def test_draining_waits_for_requests_and_ends_uploads_with_what_the_stream_has(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-goes", "--drain-delay", "300ms", "--drain-time", "2s")
    uploads = [Upload(gateway, f"{session}-{n}").send(line(data="a", n=1) + "\n") for n in range(2)]
    for n in range(2):
        wait_for(lambda: redis.stream(f"{session}-{n}"), 20, "the first lines")
    gateway.terminate()
    wait_for(lambda: gateway.get("/readyz").status == 503, 10, "not ready")
    assert gateway.get("/healthz").headers["connection"] == "close"
    wait_for(lambda: not listens(gateway), 20, "the listener is closed")
    uploads[0].send(line(data="b", n=2) + "\n" + line(event="end") + "\n").raw.send("0\r\n\r\n").until("HTTP/1.1 201 ")
    assert "Connection: close" in uploads[0].raw.got.decode()
    status, told = uploads[1].send(line(data="b", n=2) + "\n").answer()
    assert (status, told["response"], told["n"]) == (503, "r", 2)
    assert gateway.process.wait(20) == 0


def listens(gateway):
    try:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False


# Refusals are told to those who run it, too


def test_refusals_are_counted_and_logged_with_their_reason(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-refuses")
    for _ in range(50):
        gateway.upgrade(f"/v1/sessions/{session}?token=secret-in-a-query", {"Origin": "https://evil.example"}).problem(403)
    assert gateway.metric("baton_http_refusals_total", reason="origin-not-allowed", status="403") == 50
    logged = [entry for entry in gateway.process.logged().splitlines() if "origin-not-allowed" in entry]
    assert 1 <= len(logged) <= 7
    assert session in logged[0] and "https://evil.example" in logged[0] and "secret-in-a-query" not in gateway.process.logged()


def test_without_descriptors_nothing_is_accepted_for_a_while_and_then_it_is(redis, new_gateway, session):
    import resource

    gateway = new_gateway(redis.url, "gw-few")
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (60, 60))
    sockets = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(100)]
    wait_for(lambda: "no descriptor is left" in gateway.process.logged(), 20, "a word")
    for one in sockets:
        one.close()
    wait_for(lambda: gateway.get("/healthz").status == 200, 20, "an answer")
    assert gateway.metric("baton_accept_pauses_total") >= 1
    assert gateway.process.logged().count("no descriptor is left") <= 20
