"""`baton publish` as a process: standard input, and a model that answers well, badly or not at all."""

import http.server
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import threading
import time

import pytest

from support.step import Step
from test_append_script import fields, redis_server

BATON = pathlib.Path(os.environ.get("BATON_BUILD", pathlib.Path(__file__).parents[2] / ".build/release")) / "baton"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_server("redis-server", tmp_path_factory.mktemp("redis")) as client:
        yield client


@pytest.fixture
def session():
    return f"p{random.getrandbits(64):x}"


def publish(server, session, *arguments, stdin=b"", **environment):
    path = server.connection_pool.connection_kwargs["path"]
    return subprocess.run(
        [BATON, "publish", session, "--redis", f"unix://{path}", "--response", "r1", *arguments],
        input=stdin, capture_output=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def stream(server, session):
    entries = fields(server, f"baton:{{{session}}}")
    assert all(entry[entry.index("response") + 1] == "r1" for entry in entries)
    return entries


def text(entries):
    return "".join(entry[entry.index("data") + 1] for entry in entries if "n" in entry)


def counted(entries):
    """The numbers that the entries cover, in order."""
    numbers = []
    for entry in entries:
        if "n" in entry:
            last = int(entry[entry.index("n") + 1])
            joined = int(entry[entry.index("joined") + 1]) if "joined" in entry else 1
            numbers += range(last - joined + 1, last + 1)
    return numbers


def ending(entries):
    name, data = entries[-1][entries[-1].index("event") + 1], None
    if "data" in entries[-1]:
        data = json.loads(entries[-1][entries[-1].index("data") + 1])
    return name, data


def test_standard_input(server, session):
    done = publish(server, session, stdin="one\ntwo\n\n🌍 last".encode())
    assert done.returncode == 0, done.stderr
    entries = stream(server, session)
    assert text(entries) == "one\ntwo\n\n🌍 last"
    assert counted(entries) == [1, 2, 3, 4]
    assert entries[0][:2] == ["event", "start"] and ending(entries) == ("end", None)
    assert done.stderr == b"", "progress is for terminals"


def test_nothing_at_all_is_an_answer(server, session):
    assert publish(server, session).returncode == 0
    assert [entry[1] for entry in stream(server, session)] == ["start", "end"]


def test_many_lines(server, session):
    lines = "".join(f"line {n} {'x' * (n % 300)}\n" for n in range(5000))
    assert publish(server, session, stdin=lines.encode()).returncode == 0
    entries = stream(server, session)
    assert text(entries) == lines and counted(entries) == list(range(1, 5001))


class Model(http.server.ThreadingHTTPServer):
    """Answers every request with `pieces`, raw bytes as they are written; asked: the last request."""

    def __init__(self, *pieces, status=200, cut=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pieces, self.status, self.cut, self.asked, self.headers = pieces, status, cut, None, None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.path, self.server.headers = self.path, self.headers
        self.send_response(self.server.status)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in self.server.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        if self.server.cut:
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


def chunk(content=None, finish=None, **more):
    delta = {} if content is None else {"content": content}
    value = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
TAIL = [chunk(finish="stop"), f'data: {json.dumps({"choices": [], "usage": USAGE})}\n\n'.encode(), b"data: [DONE]\n\n"]


def ask(server, session, model, *more, **environment):
    return publish(server, session, "--openai", model.url, "--prompt", "Say hello", "--model", "m1", *more, **environment)


def test_a_models_answer(server, session):
    model = Model(chunk(""), chunk("Hel"), chunk("lo "), chunk("🌍"), *TAIL)
    done = ask(server, session, model, OPENAI_API_KEY="sk-very-secret")
    assert done.returncode == 0, done.stderr
    entries = stream(server, session)
    assert text(entries) == "Hello 🌍" and counted(entries) == [1, 2, 3]
    assert ending(entries) == ("end", {"finish_reason": "stop", "usage": USAGE})
    assert model.path == "/v1/chat/completions" and model.asked["stream"] is True
    assert model.asked["model"] == "m1" and model.asked["messages"][-1]["content"] == "Say hello"
    assert model.headers["authorization"] == "Bearer sk-very-secret"
    assert b"sk-very-secret" not in done.stderr + done.stdout


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_bytes_come_as_they_like(server, session, size):
    """Characters, lines and CRLFs are cut anywhere."""
    raw = b": hello\r\n\r\nretry: 10\r\n" + b"".join([chunk("äö"), chunk("🌍🎉"), chunk("\n")] + TAIL).replace(b"\n", b"\r\n")
    model = Model(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert ask(server, session, model).returncode == 0
    entries = stream(server, session)
    assert text(entries) == "äö🌍🎉\n" and ending(entries)[1]["usage"] == USAGE


def test_no_usage_and_no_done(server, session):
    assert ask(server, session, Model(chunk("a"), chunk(finish="length"))).returncode == 0
    assert ending(stream(server, session)) == ("end", {"finish_reason": "length"})


@pytest.mark.parametrize("cut", [True, False], ids=["connection", "body"])
def test_a_cut_answer_ends_with_error(server, session, cut):
    done = ask(server, session, Model(chunk("Hel"), chunk("lo"), cut=cut))
    assert done.returncode == 69 and done.stderr
    entries = stream(server, session)
    assert text(entries) == "Hello" and ending(entries) == ("error", {"reason": "model_cut"})


def test_everything_that_came_before_a_cut_is_kept(server, session):
    deltas = [f"{n} " for n in range(300)]
    assert ask(server, session, Model(*(chunk(delta) for delta in deltas), cut=True)).returncode == 69
    assert text(stream(server, session)) == "".join(deltas)


def test_a_refusal_ends_with_error(server, session):
    done = ask(server, session, Model(b'{"error":{"message":"no such model"}}', status=404))
    assert done.returncode == 64 and b"no such model" in done.stderr
    assert ending(stream(server, session)) == ("error", {"reason": "model_error", "status": 404, "message": "no such model"})


@pytest.mark.parametrize("bad", [b'data: {"error":{"message":"overloaded"}}\n\n', b"data: nonsense\n\n", b"data: []\n\n"])
def test_an_error_in_the_stream_ends_with_error(server, session, bad):
    done = ask(server, session, Model(chunk("a"), bad, *TAIL))
    assert done.returncode == 69
    entries = stream(server, session)
    name, data = ending(entries)
    assert text(entries) == "a" and name == "error" and data["reason"] == "model_error" and data["message"]


def test_no_model_there(server, session):
    model = Model()
    model.shutdown()
    model.server_close()
    done = ask(server, session, model)
    assert done.returncode == 69 and done.stderr
    assert ending(stream(server, session)) == ("error", {"reason": "model_unreachable"})


def test_no_redis_there(session):
    done = subprocess.run(
        [BATON, "publish", session, "--redis", "unix:///nonexistent/redis.sock"],
        input=b"x\n", capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 69 and done.stderr


def test_usage():
    def status(*arguments):
        return subprocess.run([BATON, "publish", *arguments], input=b"", capture_output=True, timeout=60).returncode

    assert status() == 64
    assert status("no spaces") == 64 and status("..") == 64
    assert status("s", "--response", "a b") == 64
    assert status("s", "--openai", "http://127.0.0.1:1") == 64
    assert status("s", "--prompt", "x") == 64
    assert status("s", "--openai", "127.0.0.1:1", "--prompt", "x") == 64
    assert status("s", "--redis", "redis://h", "--url", "http://h") == 64
    assert status("s", "--redis", "nonsense") == 78
    assert status("s", "--nonsense") == 64


def start(server, session, *arguments, stdin=subprocess.PIPE):
    path = server.connection_pool.connection_kwargs["path"]
    return subprocess.Popen(
        [BATON, "publish", session, "--redis", f"unix://{path}", "--response", "r1", *arguments],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
    return value


class Slow(Model):
    """A model that never finishes; `gone` is set when its asker hangs up."""

    def __init__(self):
        self.gone = threading.Event()
        super().__init__()

    @property
    def pieces(self):
        n = 0
        try:
            while True:
                n += 1
                yield chunk(f"{n} ")
                time.sleep(0.005)
        finally:
            self.gone.set()

    @pieces.setter
    def pieces(self, _):
        pass


def cancel(server, session):
    return Step(server, session).put("inbox", ["event", "cancel", "response", "r1"], device="phone")


def test_a_cancel_stops_the_model(server, session):
    model = Slow()
    process = start(server, session, "--openai", model.url, "--prompt", "x")
    wait_for(lambda: server.xlen(f"baton:{{{session}}}") > 5)
    cancel(server, session)
    began = time.monotonic()
    assert process.wait(20) == 0, process.stderr.read()
    assert time.monotonic() - began < 10
    assert model.gone.wait(10)
    entries = stream(server, session)
    assert ending(entries) == ("cancelled", {"reason": "cancel"})
    assert text(entries) == "".join(f"{n} " for n in range(1, len(counted(entries)) + 1))


def test_a_cancel_may_come_first(server, session):
    cancel(server, session)
    process = start(server, session, "--openai", Slow().url, "--prompt", "x")
    assert process.wait(20) == 0
    assert ending(stream(server, session))[0] == "cancelled"


def test_another_responses_cancel_is_not_ours(server, session):
    Step(server, session).put("inbox", ["event", "cancel", "response", "r2"])
    assert publish(server, session, stdin=b"x\n").returncode == 0
    assert ending(stream(server, session))[0] == "end"


def test_a_signal_cancels(server, session):
    process = start(server, session)
    process.stdin.write(b"one\n")
    process.stdin.flush()
    wait_for(lambda: server.xlen(f"baton:{{{session}}}") == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert ending(stream(server, session)) == ("cancelled", {"reason": "interrupted"})


def test_the_first_delta_goes_at_once_and_a_window_later(server, session):
    process = start(server, session)
    process.stdin.write(b"one\ntwo\nthree\n")
    process.stdin.flush()
    wait_for(lambda: text(stream(server, session)[0:]) == "one\ntwo\nthree\n" if server.exists(f"baton:{{{session}}}") else 0)
    process.stdin.close()
    assert process.wait(20) == 0
    entries = stream(server, session)
    assert len(entries) <= 4 and counted(entries) == [1, 2, 3]


def test_two_writers_at_once(server, session):
    first = start(server, session)
    first.stdin.write(b"a\n")
    first.stdin.flush()
    wait_for(lambda: server.xlen(f"baton:{{{session}}}") == 2)
    second = publish(server, session, stdin=b"b\n")
    assert second.returncode == 0, second.stderr
    first.stdin.write(b"c\n")
    first.stdin.flush()
    assert first.wait(20) == 69
    entries = stream(server, session)
    assert text(entries) == "a\nb\n" and ending(entries)[0] == "end"


def test_a_zombie_is_told(server, session):
    """Frozen, ended by a gateway, thawed."""
    process = start(server, session)
    process.stdin.write(b"a\n")
    process.stdin.flush()
    wait_for(lambda: server.xlen(f"baton:{{{session}}}") == 2)
    process.send_signal(signal.SIGSTOP)
    epoch, _, _, token, *_ = server.hget(f"baton:{{{session}}}:producers", "r1").decode().split()
    assert Step(server, session).expire("r1", epoch, token)[0] == "ok"
    process.send_signal(signal.SIGCONT)
    process.stdin.write(b"b\n")
    process.stdin.flush()
    assert process.wait(20) == 69
    entries = stream(server, session)
    assert text(entries) == "a\n" and ending(entries) == ("error", {"reason": "producer_lost"})


def test_deleted_meanwhile(server, session):
    process = start(server, session)
    process.stdin.write(b"a\n")
    process.stdin.flush()
    wait_for(lambda: server.xlen(f"baton:{{{session}}}") == 2)
    Step(server, session).delete()
    process.stdin.write(b"b\n")
    process.stdin.flush()
    assert process.wait(20) == 69 and b"deleted" in process.stderr.read()
    assert not server.exists(f"baton:{{{session}}}")


def test_the_lease_is_renewed(server, session):
    process = start(server, session)
    key = f"baton:{{{session}}}:producers"
    token = lambda: (server.hget(key, "r1") or b"0 0 0 0 0").split()[3]
    first = wait_for(lambda: server.exists(key) and token())
    wait_for(lambda: token() != first)
    process.stdin.close()
    assert process.wait(20) == 0


@pytest.mark.parametrize("seed", range(3))
def test_redis_restarts_and_loses_everything(tmp_path, session, seed):
    """Killed without persistence under a running answer: it is appended again, whole."""
    dice, words = random.Random(seed), [f"word{n}\n" for n in range(400)]
    process = None
    for life in range(3):
        with redis_server("redis-server", tmp_path) as client:
            process = process or start(client, session)
            for word in words[life * 130 : (life + 1) * 130]:
                process.stdin.write(word.encode())
                process.stdin.flush()
                time.sleep(dice.random() * 0.004)
            if life == 2:
                process.stdin.write("".join(words[390:]).encode())
                process.stdin.close()
                assert process.wait(30) == 0, process.stderr.read()
                entries = stream(client, session)
                assert text(entries) == "".join(words) and counted(entries) == list(range(1, 401))
                assert [entry[1] for entry in entries if entry[0] == "event"] == ["start", "end"]
