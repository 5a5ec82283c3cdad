"""What an answer costs on each wire: CPU of the gateway for each delta that is delivered, and that is taken in.

    .venv/bin/python Tests/EndToEnd/wires.py
    … --readers 50 --deltas 1500 --rate 300 --runs 3     the load, and of how many runs the median is taken

Serving: one session, its deltas appended one by one to Redis, and so many readers on one wire. Taking in: one answer, written by HTTP, or
relayed from a model server or a backend, and nobody who reads it. The gateway's CPU time is its own (/proc), over the measured
time; ratios are against the native frames of the same run.
"""

import argparse
import json
import os
import pathlib
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from support.process import wait_for  # noqa: E402
from support.servers import Gateway, Redis, key  # noqa: E402

WORD = "token "
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: baton.v1\r\n"


def cpu(pid):
    """Seconds that a process has had."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Readers:
    """Connections that ask for the same thing, and count the deltas that they are sent by a mark that each has."""

    def __init__(self, port, count, head, mark):
        self.mark, self.seen, self.rest = mark, {}, {}
        self.selector = selectors.DefaultSelector()
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(f"GET {head[0]} HTTP/1.1\r\nHost: localhost\r\n{head[1]}\r\n".encode())
            one.setblocking(False)
            self.selector.register(one, selectors.EVENT_READ)
            self.seen[one], self.rest[one] = 0, b""

    def read(self, seconds):
        for ready, _ in self.selector.select(seconds):
            one = ready.fileobj
            data = one.recv(1 << 18)
            assert data, f"a reader was cut off: {self.rest[one][-300:]}"
            data = self.rest[one] + data
            self.seen[one] += data.count(self.mark)
            self.rest[one] = data[-len(self.mark) + 1 :]

    def until(self, deltas, limit=120):
        deadline = time.monotonic() + limit
        while min(self.seen.values()) < deltas:
            assert time.monotonic() < deadline, f"{min(self.seen.values())} of {deltas} deltas came"
            self.read(1)

    def close(self):
        for one in self.seen:
            one.close()


def native(session):
    return (f"/v1/sessions/{session}?rollup=off", UPGRADE), b'"event":"token"'


def event_stream(session):
    return (f"/v1/sessions/{session}?rollup=off", "Accept: text/event-stream\r\n"), b'"event":"token"'


def responses(session):
    return (f"/v1/responses/r1~{session}?stream=true", ""), b"event: response.output_text.delta"


def ui(session):
    return (f"/v1/ai-sdk/{session}/stream", ""), b'"type":"text-delta"'


SERVED = {"native frames": native, "native event stream": event_stream, "OpenAI Responses": responses, "AI SDK": ui}


def serve(redis, gateway, wire, options, session):
    redis.add(session, event="start", response="r1")
    redis.add(session, response="r1", n=1, data=WORD)
    readers = Readers(gateway.port, options.readers, *wire(session))
    readers.until(1)
    before = cpu(gateway.process.pid)

    def write():
        began = time.monotonic()
        for n in range(2, options.deltas + 2):
            redis.client.xadd(key(session), {"response": "r1", "n": n, "data": WORD})
            time.sleep(max(0, began + n / options.rate - time.monotonic()))

    writing = threading.Thread(target=write)
    writing.start()
    readers.until(options.deltas + 1)
    used = cpu(gateway.process.pid) - before
    writing.join()
    readers.close()
    return used / options.readers / options.deltas * 1e6


def lines(deltas):
    """An answer as a producer posts it."""
    yield {"event": "start", "response": "r1"}
    for n in range(1, deltas + 1):
        yield {"response": "r1", "n": n, "data": WORD}
    yield {"event": "end", "response": "r1"}


def post(port, path, headers, chunks, rate):
    """A body that is written at a rate; the answer's status."""
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{headers}\r\n".encode())
        began = time.monotonic()
        for number, chunk in enumerate(chunks):
            one.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            time.sleep(max(0, began + number / rate - time.monotonic()))
        one.sendall(b"0\r\n\r\n")
        return one.makefile("rb").readline().split()[1].decode()


class Upstream:
    """Answers whatever is asked by `chunks`, at a rate."""

    def __init__(self, chunks, rate):
        self.chunks, self.rate = chunks, rate
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            one, _ = self.listener.accept()
            with one:
                reading = one.makefile("rb")
                head = [line.lower() for line in iter(reading.readline, b"\r\n")]
                reading.read(next(int(line[15:]) for line in head if line.startswith(b"content-length:")))
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
                began = time.monotonic()
                for number, chunk in enumerate(self.chunks):
                    one.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    time.sleep(max(0, began + number / self.rate - time.monotonic()))
                one.sendall(b"0\r\n\r\n")


def said(*events):
    return [f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n".encode() for one in events]


def chat(deltas):
    def chunk(delta, finish=None):
        return {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    return said(*(chunk({"content": WORD}) for _ in range(deltas)), chunk({}, "stop"), "[DONE]")


def responses_events(deltas):
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return said(
        {"type": "response.created", "response": {"id": "up_1", "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": {"type": "output_text", "text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": WORD, "logprobs": []} for _ in range(deltas)),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "up_1", "status": "completed", "output": [item]}},
    )  # fmt: skip


def ui_chunks(deltas):
    return said(
        {"type": "start", "messageId": "m1"}, {"type": "start-step"}, {"type": "text-start", "id": "t"},
        *({"type": "text-delta", "id": "t", "delta": WORD} for _ in range(deltas)),
        {"type": "text-end", "id": "t"}, {"type": "finish-step"}, {"type": "finish"}, "[DONE]",
    )  # fmt: skip


JSON = "Content-Type: application/json\r\n"
TAKEN = {
    "native NDJSON": None,
    "OpenAI Responses": ("--openai", responses_events, "/v1/responses", {"model": "m", "input": "hi", "background": True}),
    "OpenAI chat": ("--openai", chat, "/v1/chat/completions", {"model": "m", "messages": [], "stream": True}),
    "AI SDK": ("--ai-sdk", ui_chunks, "/v1/ai-sdk", {"messages": [{"id": "q1", "role": "user", "parts": []}], "trigger": "submit-message"}),
    "an opaque backend": ("--relay", lambda deltas: said(*({"token": WORD} for _ in range(deltas))), "/agent", {}),
}


def take(folder, redis, wire, options, session):
    upstream = wire and Upstream(wire[1](options.deltas), options.rate)
    address = upstream and f"http://127.0.0.1:{upstream.port}"
    more = [wire[0], f"{wire[2]}={address}" if wire[0] == "--relay" else address] if wire else []
    gateway = Gateway(folder, redis.url, f"taking-{session}", *more)
    try:
        before = cpu(gateway.process.pid)
        if wire is None:
            body = (json.dumps(line).encode() + b"\n" for line in lines(options.deltas))
            status = post(gateway.port, f"/v1/sessions/{session}?epoch=1", "Content-Type: application/x-ndjson\r\n", body, options.rate)
            assert status == "201", status
        else:
            question = json.dumps({**wire[3], "id": session}).encode()
            with socket.create_connection(("127.0.0.1", gateway.port)) as one:
                one.sendall(f"POST {wire[2]} HTTP/1.1\r\nHost: localhost\r\nBaton-Session: {session}\r\n{JSON}Content-Length: {len(question)}\r\n\r\n".encode() + question)
                assert one.recv(65536).startswith(b"HTTP/1.1 20"), "the question was refused"
        # The reader of the question's answer has gone; the answer goes on.
        wait_for(lambda: any(fields.get(b"event") == b"end" for _, fields in redis.client.xrevrange(key(session), count=1)), 120, f"the end of {session}")
        return (cpu(gateway.process.pid) - before) / options.deltas * 1e6
    finally:
        gateway.kill()


def table(title, figures):
    base = statistics.median(next(iter(figures.values())))
    print(f"\n{title}\n{'wire':<24}{'µs a delta':>12}{'ratio':>8}")
    for name, runs in figures.items():
        middle = statistics.median(runs)
        print(f"{name:<24}{middle:>12.1f}{middle / base:>8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--deltas", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    served, taken = {name: [] for name in SERVED}, {name: [] for name in TAKEN}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        redis = Redis(folder)
        idle = Upstream([], 1)
        gateway = Gateway(folder, redis.url, "serving", "--openai", f"http://127.0.0.1:{idle.port}", "--ai-sdk", f"http://127.0.0.1:{idle.port}")
        try:
            for run in range(options.runs):
                for number, (name, wire) in enumerate(SERVED.items()):
                    served[name].append(serve(redis, gateway, wire, options, f"served-{run}-{number}"))
                for number, (name, wire) in enumerate(TAKEN.items()):
                    taken[name].append(take(folder, redis, wire, options, f"taken-{run}-{number}"))
        finally:
            gateway.kill()
            redis.kill()
    table(f"Serving a delta to each of {options.readers} readers", served)
    table("Taking a delta in", taken)


if __name__ == "__main__":
    main()
