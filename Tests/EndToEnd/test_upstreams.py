"""`baton publish` before model servers as they really are, and what becomes of the answer in the session."""

import gzip
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import zlib

import pytest
from support.process import BATON, REPOSITORY, Process, free_port, wait_for
from support.servers import key
from test_process import on_a_terminal

ANSWERS = json.loads((REPOSITORY / "Tests/Conformance/upstream/answers.json").read_text())["cases"]
SSE = {"Content-Type": "text/event-stream"}
KEY = "sk-very-secret-0123456789"


class Server:
    """Answers each POST with what `answer(server, request)` does; `requests` are all of them: path, headers, JSON."""

    def __init__(self, answer, get=None):
        self.requests, self.gone = [], threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.path, dict(self.headers), json.loads(body) if body else None))
                try:
                    answer(self, len(outer.requests))
                except (BrokenPipeError, ConnectionResetError):
                    outer.gone.set()

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers), None))
                get(self)

            def whole(self, status, body=b"", **headers):
                body = body.encode() if isinstance(body, str) else body
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def begin(self, **headers):
                self.send_response(200)
                for name, value in {**SSE, "Connection": "close", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.close_connection = True

            def tell(self, *pieces):
                for piece in pieces:
                    self.wfile.write(piece.encode() if isinstance(piece, str) else piece)
                    self.wfile.flush()

            def until_gone(self):
                while not outer.gone.wait(0.02):
                    self.tell(": still there\n\n")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        self.gone.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def model():
    servers = []

    def new(answer, get=None):
        servers.append(Server(answer, get))
        return servers[-1]

    yield new
    for one in servers:
        one.close()


def chunk(text=None, finish=None, **more):
    delta = {} if text is None else {"content": text}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}], **more})}\n\n"


DONE = "data: [DONE]\n\n"
WHOLE = chunk("Hello ") + chunk("world", "stop") + DONE


def run(where, session, *arguments, input=b"", seconds=60, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([BATON, "publish", session, *where, *map(str, arguments)], capture_output=True, input=input, timeout=seconds, env=environment)


def ask(redis, session, url, *more, **named):
    return run(["--redis", redis.url, "--response", "r1"], session, "--openai", url, "--prompt", "Say hello", *more, **named)


class Told:
    """A session's entries, and of one response its text and its end."""

    def __init__(self, redis, session, response="r1"):
        entries = [{name.decode(): value.decode() for name, value in fields} for _, fields in redis.stream(session)]
        self.all = [entry for entry in entries if entry.get("event") != "input"]
        self.entries = [entry for entry in self.all if entry.get("response") == response]
        self.text = "".join(entry.get("data", "") for entry in self.entries if "n" in entry)
        ends = [entry for entry in self.entries if entry.get("event") in ("end", "error", "cancelled")]
        assert len(ends) <= 1, ends
        self.end = ends[0]["event"] if ends else None
        self.data = json.loads(ends[0].get("data", "{}")) if ends else None
        self.largest = max((sum(len(k.encode()) + len(v.encode()) for k, v in entry.items()) for entry in self.entries), default=0)


def body_of(case):
    body = case["body"]
    if isinstance(body, str):
        return body
    parts = [chunk("x" * body["delta_of"])] if "delta_of" in body else []
    if "image_of" in body:
        image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * body["image_of"]}}]
        parts = [chunk(body["before"]), chunk(image), chunk(body["after"])]
    return "".join(parts) + chunk(None, "stop") + DONE


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["name"])
def test_what_servers_answer(redis, session, model, case):
    headers = {"Content_Type": case["content_type"]} if case["content_type"] else {}
    server = model(lambda on, _: on.whole(case["status"], body_of(case), **headers))
    done, told, want = ask(redis, session, server.url), Told(redis, session), case["want"]
    text = want["text"]
    assert told.text == text if isinstance(text, str) else len(told.text) == text["length"]
    assert told.end in ("end", "error") and told.end in want["end"], told.data
    assert (done.returncode == 0) == (told.end == "end"), done.stderr
    assert bool(done.stderr) == (told.end == "error")
    for name in ("reason", "message", "finish_reason", "not_shown"):
        if name in want:
            assert told.data[name] == want[name]
    if "message" in want:
        assert want["message"].encode() in done.stderr
    assert want.get("message_names", "") in told.data.get("message", "")
    assert told.largest <= want.get("largest_entry_bytes", 256 << 10)


# MARK: every way out gives an end


def test_what_standard_input_can_not_give_is_an_error(redis, session):
    with open("/proc/self/mem", "rb") as unreadable:
        done = subprocess.run([BATON, "publish", session, "--redis", redis.url, "--response", "r1"], stdin=unreadable, capture_output=True, timeout=60)
    told = Told(redis, session)
    assert done.returncode == 69 and told.end == "error" and told.data["reason"] == "producer_error"


@pytest.mark.parametrize("round", range(5))
def test_an_event_that_is_too_large_is_told(redis, session, model, round):
    giant = "data: " + "x" * (9 << 20) + "\n\n"
    server = model(lambda on, _: on.whole(200, chunk("a") + giant + chunk("b", "stop") + DONE, **{"Content_Type": "text/event-stream"}))
    done, told = ask(redis, session, server.url), Told(redis, session)
    assert told.text == "ab" and told.end == "error" and "left out" in told.data["message"] and done.returncode == 69


@pytest.mark.parametrize("over", ["redis", "url"])
def test_a_line_of_any_length_arrives_whole(redis, gateway, session, over):
    line = "🙂é" * 100_000 + "\n"
    where = ["--redis", redis.url] if over == "redis" else ["--url", gateway.url]
    done = run([*where, "--response", "r1"], session, input=line.encode())
    told = Told(redis, session)
    assert done.returncode == 0, done.stderr
    assert told.text == line and told.end == "end" and told.largest <= 256 << 10


def test_a_gateway_that_refuses_a_line_is_told_of_in_the_answers_end(redis, new_gateway, session):
    small = new_gateway(redis.url, "gw-small", "--max-entry-bytes", "1KiB")
    done = run(["--url", small.url, "--response", "r1"], session, input=b"a\n" + b"x" * 5000 + b"\n")
    told = Told(redis, session)
    assert done.returncode == 64 and told.end == "error" and told.data["reason"] == "producer_error"


# MARK: silence


def test_the_first_event_may_take_long(redis, session, model):
    """Longer than the silence that is allowed within an answer."""
    heard = threading.Event()

    def answer(on, _):
        on.begin()
        heard.wait(30)
        on.tell(WHOLE)

    server = model(answer)
    process = Process("/tmp", f"publish-{session}", [BATON, "publish", session, "--redis", redis.url, "--response", "r1",
                      "--openai", server.url, "--prompt", "x", "--idle-timeout", "300ms"])  # fmt: skip
    wait_for(lambda: server.requests, 30)
    time.sleep(0.8)  # what must not end it; nothing can be waited for
    heard.set()
    assert process.wait(30) == 0, process.logged()
    assert Told(redis, session).end == "end"


@pytest.mark.parametrize("limits, begins", [(["--idle-timeout", "300ms"], True), (["--first-event-timeout", "300ms"], False)])
def test_a_server_that_falls_silent_is_given_up(redis, session, model, limits, begins):
    def answer(on, _):
        on.begin()
        if begins:
            on.tell(chunk("Hel"))
        server.gone.wait(30)

    server = model(answer)
    done, told = ask(redis, session, server.url, *limits), Told(redis, session)
    assert done.returncode == 69
    assert told.end == "error" and told.data["reason"] == "model_cut" and told.text == ("Hel" if begins else "")


@pytest.mark.parametrize("then", ["silence", "cut"])
def test_after_a_finish_reason_the_answer_is_whole(redis, session, model, then):
    def answer(on, _):
        on.begin(**{"Content-Length": "100000"})
        on.tell(chunk("Hello", "stop"))
        if then == "silence":
            server.gone.wait(30)

    server = model(answer)
    began = time.monotonic()
    done, told = ask(redis, session, server.url), Told(redis, session)
    assert told.text == "Hello" and told.end == "end" and done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20


# MARK: what is asked


@pytest.mark.parametrize("path, asked", [
    ("", "/v1/chat/completions"), ("/", "/v1/chat/completions"), ("/v1", "/v1/chat/completions"), ("/v1/", "/v1/chat/completions"),
    ("/v1/chat/completions", "/v1/chat/completions"), ("/chat/completions", "/chat/completions"), ("/api/v3", "/api/v3/chat/completions"),
    ("/openai/deployments/gpt/chat/completions?api-version=2024-10-21", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"),
    ("/openai/deployments/gpt?api-version=1", "/openai/deployments/gpt/chat/completions?api-version=1"), ("?a=b", "/v1/chat/completions?a=b"),
])  # fmt: skip
def test_addresses(redis, session, model, path, asked):
    server = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    assert ask(redis, session, server.url + path, OPENAI_API_KEY=KEY).returncode == 0
    path, headers, _ = server.requests[0]
    assert path == asked and headers["authorization"] == f"Bearer {KEY}" and headers["api-key"] == KEY


@pytest.mark.parametrize("status, words", [(422, "extra fields not permitted"), (400, "Unknown parameter: stream_options")])
def test_stream_options_are_left_out_where_they_are_refused(redis, session, model, status, words):
    def answer(on, _):
        refused = "stream_options" in server.requests[-1][2]
        on.whole(status, json.dumps({"detail": words})) if refused else on.whole(200, WHOLE, Content_Type="text/event-stream")

    server = model(answer)
    assert ask(redis, session, server.url).returncode == 0
    assert Told(redis, session).text == "Hello world" and len(server.requests) == 2


def test_other_refusals_are_asked_once(redis, session, model):
    server = model(lambda on, _: on.whole(400, json.dumps({"error": {"message": "too long"}})))
    assert ask(redis, session, server.url).returncode == 64
    assert Told(redis, session).data["message"] == "too long" and len(server.requests) == 1


@pytest.mark.parametrize("coding, encode", [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_content_codings_are_undone(redis, session, model, coding, encode):
    server = model(lambda on, _: on.whole(200, encode(WHOLE.encode()), Content_Type="text/event-stream", Content_Encoding=coding))
    assert ask(redis, session, server.url).returncode == 0
    assert Told(redis, session).text == "Hello world" and coding in server.requests[0][1]["accept-encoding"]


def test_compressed_tokens_come_as_they_are_written(redis, session, model):
    seen = threading.Event()

    def answer(on, _):
        on.begin(**{"Content-Encoding": "gzip"})
        packer = zlib.compressobj(wbits=31)
        on.tell(packer.compress(chunk("Hel").encode()) + packer.flush(zlib.Z_SYNC_FLUSH))
        seen.wait(30)
        on.tell(packer.compress((chunk("lo", "stop") + DONE).encode()) + packer.flush())

    server = model(answer)
    process = Process("/tmp", f"publish-{session}", [BATON, "publish", session, "--redis", redis.url, "--response", "r1", "--openai", server.url, "--prompt", "x"])
    wait_for(lambda: Told(redis, session).text == "Hel", 30)
    seen.set()
    assert process.wait(30) == 0
    assert Told(redis, session).text == "Hello"


def test_an_unknown_coding_is_named(redis, session, model):
    server = model(lambda on, _: on.whole(200, b"\x1b\x03\x00", Content_Type="text/event-stream", Content_Encoding="br"))
    assert ask(redis, session, server.url).returncode == 69
    assert "br" in Told(redis, session).data["message"]


def test_the_same_server_may_redirect(redis, session, model):
    def answer(on, _):
        if on.path.startswith("/old"):
            return on.whole(308, Location="/new/chat/completions")
        on.whole(200, WHOLE, Content_Type="text/event-stream")

    server = model(answer)
    assert ask(redis, session, server.url + "/old").returncode == 0
    assert [path for path, _, _ in server.requests] == ["/old/chat/completions", "/new/chat/completions"]
    assert server.requests[1][2]["messages"]


@pytest.mark.parametrize("status", [301, 302, 303, 307])
def test_nobody_else_is_shown_the_key(redis, session, model, status):
    other = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"), lambda on: on.whole(200))
    server = model(lambda on, _: on.whole(status, Location=f"{other.url}/sign-in?state=s3cret"))
    done, told = ask(redis, session, server.url, OPENAI_API_KEY=KEY), Told(redis, session)
    assert done.returncode == 69 and not other.requests
    assert told.end == "error" and "/sign-in" in told.data["message"] and "s3cret" not in told.data["message"]


def test_a_redirect_in_a_circle_ends(redis, session, model):
    server = model(lambda on, _: on.whole(307, Location="/v1/chat/completions"))
    assert ask(redis, session, server.url).returncode == 69
    assert Told(redis, session).end == "error" and len(server.requests) < 10


# MARK: Retry-After


@pytest.mark.parametrize("after", ["0", "1", "date"])
def test_retry_after_is_obeyed_before_the_first_text(redis, session, model, after):
    times = []

    def answer(on, n):
        times.append(time.monotonic())
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1)) if after == "date" else after
        if n < 3:
            return on.whole(429, json.dumps({"error": {"message": "slow down"}}), Retry_After=value)
        on.whole(200, WHOLE, Content_Type="text/event-stream")

    server = model(answer)
    done, told = ask(redis, session, server.url), Told(redis, session)
    assert done.returncode == 0 and told.text == "Hello world" and len(server.requests) == 3
    assert b"slow down" in done.stderr
    if after == "1":
        assert times[1] - times[0] >= 0.99


def test_a_server_that_is_busy_for_an_hour_is_not_waited_for(redis, session, model):
    server = model(lambda on, _: on.whole(503, "busy", Retry_After="3600"))
    assert ask(redis, session, server.url).returncode == 69
    assert Told(redis, session).data == {"reason": "model_error", "status": 503, "message": "busy"}


def test_after_text_nothing_is_asked_again(redis, session, model):
    def answer(on, _):
        on.begin(**{"Retry-After": "0"})
        on.tell(chunk("Hel"), 'data: {"error": {"message": "slow down", "code": 429}}\n\n')

    server = model(answer)
    assert ask(redis, session, server.url).returncode == 69
    assert Told(redis, session).text == "Hel" and len(server.requests) == 1


def test_a_wait_is_ended_by_a_signal(redis, session, model, tmp_path):
    server = model(lambda on, _: on.whole(503, "busy", Retry_After="300"))
    process = Process(tmp_path, "publish", [BATON, "publish", session, "--redis", redis.url, "--response", "r1", "--openai", server.url, "--prompt", "x"])
    wait_for(lambda: "asked again" in process.logged(), 30)
    process.signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert Told(redis, session).end == "cancelled"


# MARK: secrets


@pytest.mark.parametrize("key", [KEY + "\n", " " + KEY + "\r\n"])
def test_a_key_with_a_newline_works(redis, session, model, key):
    server = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    done = ask(redis, session, server.url, OPENAI_API_KEY=key)
    assert done.returncode == 0, done.stderr
    assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [KEY + "\nx", KEY + "\x00"[:0] + "é", KEY + "\x01"])
def test_a_key_that_can_not_be_sent_is_not_shown(redis, session, model, key):
    server = model(lambda on, _: on.whole(200, WHOLE))
    done = ask(redis, session, server.url, OPENAI_API_KEY=key)
    assert done.returncode == 78 and b"OPENAI_API_KEY" in done.stderr and KEY.encode() not in done.stderr
    assert not server.requests


def test_a_token_with_a_newline_works(redis, gateway, session):
    done = run(["--url", gateway.url, "--token", "abc\n"], session, input=b"x\n")
    assert done.returncode == 0, done.stderr
    for command in (["publish", session, "--token", KEY + "\nx"], ["attach", session, "--token", KEY + "\nx"]):
        done = subprocess.run([BATON, *command, "--url", gateway.url], capture_output=True, input=b"x\n", timeout=60)
        assert done.returncode == 78 and KEY.encode() not in done.stderr + done.stdout


@pytest.mark.parametrize("address", ["http://user:PASS@127.0.0.1:{port}/x?key=PASS", "PASS@127.0.0.1", "http://u:PASS@/x"])
def test_addresses_are_masked(redis, session, address):
    address = address.format(port=free_port())
    for done in (ask(redis, session, address), run(["--url", address], session, input=b"", seconds=90) if "port" in address else None):
        if done:
            assert done.returncode and b"PASS" not in done.stderr, done.stderr
    assert "PASS" not in json.dumps(Told(redis, session).all)


def test_credentials_of_an_address_are_sent(redis, session, model):
    server = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    assert ask(redis, session, server.url.replace("//", "//me:pa%40ss@"), OPENAI_API_KEY="").returncode == 0
    assert server.requests[0][1]["authorization"] == "Basic bWU6cGFAc3M="


def test_a_servers_words_are_shown_on_a_terminal(redis, session, model):
    server = model(lambda on, _: on.whole(404, b"no \x1b[31mmodel\x1b]0;x\x07"))
    shown = on_a_terminal("publish", session, "--redis", redis.url, "--openai", server.url, "--prompt", "x")
    assert b"model" in shown and b"\x1b]" not in shown and b"\x1b[31m" not in shown


# MARK: begun before


@pytest.mark.parametrize("over", ["redis", "url"])
def test_killed_and_started_again(redis, gateway, session, model, tmp_path, over):
    """The one that was killed in mid-answer ends with error, and another one stands in its place."""
    words = [f"w{n} " for n in range(40)]

    def answer(on, n):
        on.begin()
        on.tell(*map(chunk, words[:21]))
        if n == 1:
            on.until_gone()
        on.tell(*map(chunk, words[21:]), chunk(None, "stop"), DONE)

    server = model(answer)
    where = ["--redis", redis.url] if over == "redis" else ["--url", gateway.url]
    command = [BATON, "publish", session, *where, "--response", "r1", "--openai", server.url, "--prompt", "x"]
    process = Process(tmp_path, "publish", command)
    wait_for(lambda: "w20 " in Told(redis, session).text, 30)
    process.kill()
    with (tmp_path / "out").open("wb") as out:
        device = Process(tmp_path, "attach", [BATON, "attach", session, "--url", gateway.url, "--until", "end", "--json"], stdout=out)
        wait_for(lambda: '"live"' in (tmp_path / "out").read_text(), 30)
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert device.wait(30) == 0
    old = Told(redis, session)
    assert old.text == "".join(words[:21]) and old.end == "error" and old.data["reason"] == "superseded"
    new = Told(redis, session, old.data["by"])
    assert new.text == "".join(words) and new.end == "end"
    assert json.loads(new.entries[0]["data"]) == {"supersedes": "r1"}
    assert old.data["by"].encode() in done.stderr
    # A device that left at an end has seen all of the new one.
    assert '"event":"end"' in (tmp_path / "out").read_text()


def test_a_killed_publisher_behind_a_gateway_is_missed(redis, gateway, session, model, tmp_path, attach):
    """While the model is silent somebody is there; killed it has 15 s to come back, as one that writes to Redis itself."""

    def answer(on, n):
        on.begin()
        on.tell(chunk("Hel"))
        on.until_gone()

    server = model(answer)
    device = attach(gateway, session)
    command = [BATON, "publish", session, "--url", gateway.url, "--response", "r1", "--openai", server.url, "--prompt", "x"]
    process = Process(tmp_path, "publish", command)
    records = set()

    def renewed():
        records.add(redis.client.hget(f"{key(session)}:producers", "r1"))
        return len(records) > 5

    wait_for(renewed, 60)
    assert Told(redis, session).end is None
    process.kill()
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "error", 60, "its end")
    assert json.loads(device.entries[-1]["data"]) == {"reason": "producer_lost"} and device.view.text == "Hel"


@pytest.mark.parametrize("over", ["redis", "url"])
@pytest.mark.parametrize("end", ["end", "error", "cancelled"])
def test_what_has_ended_is_not_asked_for(redis, gateway, session, model, over, end):
    if over == "redis":
        redis.add(session, event="start", response="r1")
        redis.add_tokens(session, ["x"], "r1")
        redis.add(session, event=end, response="r1")
    else:
        lines = [{"response": "r1", "n": 1, "data": "x"}, {"response": "r1", "event": end}]
        body = "".join(json.dumps(line) + "\n" for line in lines)
        assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1", body, {"Content-Type": "application/x-ndjson"}).status == 201
    server = model(lambda on, _: on.whole(200, WHOLE))
    where = ["--redis", redis.url] if over == "redis" else ["--url", gateway.url]
    done = run([*where, "--response", "r1"], session, "--openai", server.url, "--prompt", "x")
    assert done.returncode == 69 and b"ended" in done.stderr and not server.requests
    assert Told(redis, session).text == "x"


def test_standard_input_goes_on(redis, gateway, session):
    redis.add(session, event="start", response="r1")
    redis.add_tokens(session, ["a\n"], "r1")
    assert run(["--url", gateway.url, "--response", "r1"], session, input=b"b\n").returncode == 0
    assert Told(redis, session).text == "a\nb\n"


# MARK: cancels and signals


@pytest.mark.parametrize("over", ["redis", "url"])
def test_a_cancel_from_a_device_stops_the_model(redis, gateway, session, model, attach, tmp_path, over):
    def answer(on, _):
        on.begin()
        on.tell(chunk("Hello "))
        on.until_gone()

    server = model(answer)
    where = ["--redis", redis.url] if over == "redis" else ["--url", gateway.url]
    process = Process(tmp_path, "publish", [BATON, "publish", session, *where, "--response", "r1", "--openai", server.url, "--prompt", "x"])
    wait_for(lambda: Told(redis, session).text, 30)
    device = attach(gateway, session).until_live()
    device.send({"type": "cancel", "key": "k", "response": "r1"})
    device.until_type("accepted")
    assert process.wait(20) == 0, process.logged()
    told = Told(redis, session)
    assert told.end == "cancelled" and told.data == {"reason": "cancel"}
    assert server.gone.wait(20), "the model runs on"


def test_a_second_signal_ends_it_at_once(redis, session, tmp_path):
    """While Redis does not answer, the first one waits for it."""
    process = Process(tmp_path, "publish", [BATON, "publish", session, "--redis", redis.url, "--response", "r1"], stdin=subprocess.PIPE)
    process.process.stdin.write(b"a\n")
    process.process.stdin.flush()
    wait_for(lambda: Told(redis, session).text, 30)
    redis.pause()
    try:
        process.signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.signal(signal.SIGTERM)
        assert process.wait(5) != 0
    finally:
        redis.resume()


# MARK: prompts


def test_a_prompt_is_read_from_where_no_list_of_processes_shows_it(redis, session, model, tmp_path):
    server = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    asked = "Wörds " * 50_000
    (tmp_path / "prompt").write_text(asked)
    for n, (arguments, input) in enumerate([(["--prompt", "-"], asked.encode()), (["--prompt-file", tmp_path / "prompt"], b"")]):
        done = run(["--redis", redis.url, "--response", f"r{n}"], session, "--openai", server.url, *arguments, input=input)
        assert done.returncode == 0, done.stderr
        assert server.requests[-1][2]["messages"][-1]["content"] == asked
    for arguments in (["--prompt", "x", "--prompt-file", "y"], ["--prompt-file", "/nonexistent"]):
        assert run(["--redis", redis.url], session, "--openai", server.url, *arguments).returncode == 64


# MARK: proxies and certificates


def test_a_proxy_is_used(redis, session, model):
    proxy = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    address = proxy.url.replace("//", "//me:pass@")
    assert ask(redis, session, "http://model.example:81/v1", HTTP_PROXY=address, NO_PROXY="other.example").returncode == 0
    path, headers, _ = proxy.requests[0]
    assert path == "http://model.example:81/v1/chat/completions" and headers["host"] == "model.example:81"
    assert headers["proxy-authorization"] == "Basic bWU6cGFzcw=="


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", "127.0.0.0/8", "example.com, 127.0.0.1:{port}"])
def test_a_proxy_has_exceptions(redis, session, model, exception):
    server = model(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    proxy = f"http://127.0.0.1:{free_port()}"
    done = ask(redis, session, server.url, http_proxy=proxy, no_proxy=exception.format(port=server.port))
    assert done.returncode == 0, done.stderr
    assert ask(redis, session + "x", server.url, http_proxy=proxy, no_proxy="example.com").returncode == 69


def test_https_goes_through_a_tunnel(redis, session):
    """The proxy is asked to CONNECT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard = []

        def serve():
            connection, _ = listener.accept()
            heard.append(connection.recv(4096))
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        done = ask(redis, session, "https://model.example", HTTPS_PROXY=f"127.0.0.1:{listener.getsockname()[1]}")
    assert done.returncode == 69 and heard and heard[0].startswith(b"CONNECT model.example:443 ")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A private CA's certificate, which is its own server's, and an https server with it."""
    import ssl

    folder = tmp_path_factory.mktemp("ca")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)  # fmt: skip
    server = Server(lambda on, _: on.whole(200, WHOLE, Content_Type="text/event-stream"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
    yield f"https://localhost:{server.port}", folder / "cert.pem"
    server.close()


@pytest.mark.parametrize("how", ["SSL_CERT_FILE", "--ca-file"])
def test_a_private_authority_is_trusted(redis, session, authority, how):
    url, certificate = authority
    arguments, environment = (["--ca-file", certificate], {}) if how == "--ca-file" else ([], {how: str(certificate)})
    done = ask(redis, session, url, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert Told(redis, session).text == "Hello world"


def test_an_unknown_authority_is_not(redis, session, authority):
    done = ask(redis, session, authority[0])
    assert done.returncode == 69 and b"CERTIFICATE" in done.stderr.upper(), done.stderr
    assert ask(redis, session + "x", authority[0], "--ca-file", "/nonexistent").returncode == 78


# MARK: controls over HTTP


class Controls:
    """The event stream of a response's controls, read in a thread."""

    def __init__(self, gateway, session, response, last=None):
        self.socket = socket.create_connection(("127.0.0.1", gateway.port))
        header = f"Last-Event-ID: {last}\r\n" if last else ""
        self.socket.sendall(f"GET /v1/sessions/{session}/responses/{response}/controls HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{header}\r\n".encode())
        self.raw, self.isOver = b"", False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while more := self.socket.recv(65536):
            self.raw += more
        self.isOver = True

    @property
    def messages(self):
        return [json.loads(line[6:]) for line in self.raw.decode().splitlines() if line.startswith("data: ")]


def test_a_producer_over_http_hears_people(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()

    def say(**frame):
        device.send(frame)
        accepted = lambda _: [one for one in device.frames if one.get("type") == "accepted" and one["key"] == frame["key"]]
        return device.until(accepted, what="accepted")[0]["inboxId"]

    say(type="input", key="k0", data="before")
    early = say(type="cancel", key="k1", response="r1")
    say(type="cancel", key="k2", response="r2")
    redis.add(session, event="start", response="r1")
    redis.add_tokens(session, ["x"], "r1")
    controls = Controls(gateway, session, "r1")
    wait_for(lambda: controls.messages, 20)
    said = say(type="input", key="k3", data="Shorter\n")
    wait_for(lambda: len(controls.messages) == 2, 20)
    assert [(one["event"], one["id"]) for one in controls.messages] == [("cancel", early), ("input", said)]
    assert controls.messages[1]["data"] == "Shorter\n" and controls.messages[1]["key"] == "k3"
    assert b"text/event-stream" in controls.raw
    later = Controls(gateway, session, "r1", last=early)
    wait_for(lambda: later.messages, 20)
    assert [one["id"] for one in later.messages] == [said]
    redis.add(session, event="end", response="r1")
    line = json.dumps({"response": "r1", "event": "end"})
    assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1", line, {"Content-Type": "application/x-ndjson"}).status in (201, 409)
    wait_for(lambda: controls.raw.endswith(b"0\r\n\r\n"), 20)
    assert controls.messages[-1]["event"] == "end"


def test_controls_need_the_scope_publish(redis, new_gateway, session, tmp_path):
    (tmp_path / "secret").write_text("x" * 40)
    locked = new_gateway(redis.url, "gw-locked-controls", "--auth-secret-file", tmp_path / "secret")
    path = f"/v1/sessions/{session}/responses/r1/controls"
    assert locked.get(path).status == 401

    def token(scope):
        told = subprocess.run([BATON, "token", "--secret-file", tmp_path / "secret", "--subject", "a", "--sessions", "*", "--scope", scope],
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        return {"Authorization": f"Bearer {told.stdout.strip()}"}

    assert locked.get(path, **token("read,input,cancel,delete")).status == 403
    redis.add_tokens(session, ["x"], "r1")
    redis.add(session, event="end", response="r1")


def test_a_gateway_that_goes_does_not_wait_for_controls(redis, new_gateway, session):
    going = new_gateway(redis.url, "gw-going", "--drain-delay", "0s", "--drain-time", "1s")
    controls = Controls(going, session, "r1")
    wait_for(lambda: b"controls" in controls.raw, 20)
    going.terminate()
    wait_for(lambda: controls.isOver, 20)
    assert not controls.raw.endswith(b"0\r\n\r\n"), "a cut that can be told from the end"
    assert going.process.wait(20) == 0


# MARK: baton dev


@pytest.mark.parametrize("answer, told", [
    ({"data": [{"id": "text-embedding-3"}, {"id": "bge-reranker"}, {"id": "llama"}]}, "llama"),
    ({"object": "list", "data": []}, "no models"), ({"data": [{"id": "text-embedding-3"}]}, "text-embedding-3"), ("nonsense", "list of models"),
    (401, "OPENAI_API_KEY"), (500, "500"), (404, "default"), (None, "does not answer"),
])  # fmt: skip
def test_dev_says_what_is_wrong_with_the_models(model, tmp_path, answer, told):
    def get(on):
        if isinstance(answer, int):
            return on.whole(answer, json.dumps({"error": {"message": "no"}}))
        on.whole(200, json.dumps(answer), Content_Type="application/json")

    url = model(lambda on, _: on.whole(200, WHOLE), get).url if answer is not None else f"http://127.0.0.1:{free_port()}"
    state = dev_state(tmp_path, "--openai", url)
    assert told in (state["model"] or state["modelTrouble"])


def test_dev_asks_the_model_that_it_is_told(model, tmp_path):
    server = model(lambda on, _: on.whole(200, WHOLE), lambda on: on.whole(200, json.dumps({"data": [{"id": "a"}, {"id": "b"}]})))
    assert dev_state(tmp_path, "--openai", server.url, "--model", "b")["model"] == "b"


def dev_state(tmp_path, *arguments):
    import urllib.request

    process = Process(tmp_path, "dev", [BATON, "dev", "--listen", "127.0.0.1:0", "--gateways", "1", *arguments])
    try:
        url = wait_for(lambda: re.search(r"listening on (http://\S+)", process.logged()), 40)[1]
        return json.loads(urllib.request.urlopen(f"{url}/dev/state", timeout=20).read())
    finally:
        process.signal(signal.SIGTERM)
        process.wait(20)
