"""Section 8: what a node puts together in memory (bodies, lines, events in pieces) has one budget, and nobody is kept out by who leaves it unfinished."""

import contextlib
import json
import select
import threading
import time

import pytest
from support.process import wait_for
from support.raw import Raw
from support.servers import Gateway, key
from support.tokens import bearer, token
from test_attacks import HOST, answered, cpu, exceeded, json_post, unnoticed, upload
from test_relay import Upstream

PIECE = 250_000


@pytest.fixture(scope="module")
def upstream():
    return Upstream([])


def start(folder, redis, upstream, name, *options):
    url = f"http://127.0.0.1:{upstream.port}"
    return Gateway(folder, redis.url, name, "--openai", f"{url}/v1", "--ai-sdk", f"{url}/api/chat", "--relay", f"/agent={url}/agent", *options,
                   env={"OPENAI_API_KEY": "k"})  # fmt: skip


@pytest.fixture(scope="module")
def tight(tmp_path_factory, redis, upstream):
    gateway = start(tmp_path_factory.mktemp("tight"), redis, upstream, "gw-tight", "--gather-bytes", "1MiB")
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def asking(tmp_path_factory, redis, upstream, secret):
    gateway = start(tmp_path_factory.mktemp("asking"), redis, upstream, "gw-asking", "--auth-secret-file", secret, "--max-devices-per-subject", "2")
    yield gateway
    gateway.kill()


def endless(gateway, redis, session, wire, event, count):
    """A response whose one event never comes whole."""
    lines = [{"response": "resp_0123456789abcdef01234567", "event": "start", "data": json.dumps({"wire": wire})}]
    lines += [{"response": lines[0]["response"], "n": n, "event": event, "more": True, "data": "x" * PIECE} for n in range(1, count + 1)]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    answer = gateway.request("POST", f"/v1/sessions/{session}?epoch=1&lease=keep", body, {"Content-Type": "application/x-ndjson"})
    assert answer.status == 201, answer.body
    return lines[0]["response"]


def get(gateway, path):
    return Raw(gateway).send(f"GET {path} HTTP/1.1\r\n{HOST}\r\n")


@pytest.mark.parametrize("wire, event, path, words", [
    ("ai-sdk", "ui", "/v1/ai-sdk/{session}/stream", ['"type":"error"', "no memory", "[DONE]", "\r\n0\r\n\r\n"]),
    ("openai", "openai", "/v1/responses/{response}~{session}?stream=true", ['"type":"error"', "no memory"]),
    ("sse", "sse", "/agent?session={session}&response={response}", []),
])  # fmt: skip
def test_an_event_that_never_ends(redis, tight, attach, session, wire, event, path, words):
    response = endless(tight, redis, session, wire, event, 8)
    before = tight.metric("baton_limits_exceeded_total", limit="gather-bytes")
    with unnoticed(redis, tight, attach, session):
        held = [get(tight, path.format(session=session, response=response)) for _ in range(12)]
        for raw in held:
            raw.socket.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                raw.until_closed() if not words or "\r\n0" not in words[-1] else raw.until("\r\n0\r\n\r\n")
            told = raw.got.decode()
            assert told.startswith("HTTP/1.1 200 ") and all(word in told for word in words), told[-500:]
            raw.socket.close()
    assert tight.metric("baton_limits_exceeded_total", limit="gather-bytes") >= before + 12


def test_a_body_that_does_not_come_to_its_end_makes_room(redis, tight, attach, session):
    with unnoticed(redis, tight, attach, session):
        held = [json_post(tight, session, 900_000).send("x" * 400_000) for _ in range(4)]
        answers = wait_for(lambda: len(ready := select.select([raw.socket for raw in held], [], [], 0.1)[0]) >= 2 and ready, 30, "two of them make room")
        for raw in held:
            if raw.socket in answers:
                assert answered(raw)[0] == 503 and "Retry-After" in raw.got.decode() and "short-of-memory" in raw.until("short-of-memory")
        # Those that are small need no room.
        assert tight.request("POST", f"/v1/sessions/{session}", '{"data":"x"}', {"Content-Type": "application/json"}).status == 201
        for raw in held:
            raw.socket.close()
    exceeded(tight, "gather-bytes")


def test_a_line_and_an_event_that_do_not_come_to_their_end_make_room(redis, tight, session):
    line = upload(tight, session).send(f"{400_000:x}\r\n" + '{"response":"r","n":1,"data":"' + "x" * (400_000 - 30) + "\r\n")
    event = Raw(tight).send(f"POST /v1/sessions/{session}?response=u HTTP/1.1\r\n{HOST}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                            f"{400_000:x}\r\ndata: {'x' * (400_000 - 6)}\r\n")  # fmt: skip
    wait_for(lambda: redis.stream(session), 20, "the message has begun")
    others = [json_post(tight, session, 900_000).send("x" * 400_000) for _ in range(3)]
    for raw in (line, event):
        assert answered(raw, 30)[0] == 503 and "short-of-memory" in raw.until("short-of-memory")
    for raw in [line, event, *others]:
        raw.socket.close()
    assert [dict(fields)[b"event"] for _, fields in redis.stream(session)] == [b"start", b"error"]


def test_what_is_read_costs_what_it_weighs(tight, upstream):
    """Half a million numbers, a regular expression for each of which took 26 s."""
    upstream.events, before = [], cpu(tight)
    body = '{"model":"m","input":[' + "0," * 450_000 + "0]}"
    assert tight.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}, seconds=60).status == 200
    assert tight.request("POST", "/v1/responses", body, {"Content-Type": "application/json"}, seconds=60).status in (200, 404)
    assert cpu(tight) - before < 8


def test_an_event_of_many_lines_costs_what_it_weighs(tight, session):
    """Each was put behind a copy of all before it."""
    before = cpu(tight)
    upload = tight.request("POST", f"/v1/sessions/{session}?response=r", "data:x\n" * 500_000 + "\n", {"Content-Type": "text/event-stream"}, seconds=60)
    assert upload.status == 201
    assert cpu(tight) - before < 8


@pytest.fixture(scope="module")
def roomy(tmp_path_factory, redis, upstream):
    gateway = start(tmp_path_factory.mktemp("roomy"), redis, upstream, "gw-roomy", "--max-body-bytes", "8MiB")
    yield gateway
    gateway.kill()


def test_an_answer_of_many_parts_costs_what_it_weighs(roomy, redis, session):
    """Each was put behind a copy of all before it, and each item looked through all deltas."""
    response = "resp_0123456789abcdef01234567"
    told = [{"type": "response.created", "response": {"id": response}}, {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}}]
    told += [{"type": "response.content_part.added", "output_index": 0, "part": {"type": "output_text"}}] * 30_000
    told += [{"type": "response.output_text.delta", "output_index": 0, "content_index": n % 4096, "delta": "x"} for n in range(6000)]
    told += [{"type": "response.output_item.added", "output_index": 1 + n % 4000, "item": {"type": "message"}} for n in range(30_000)]
    lines = [{"response": response, "event": "start", "data": '{"wire":"openai"}'}]
    lines += [{"response": response, "n": n, "event": "openai", "data": json.dumps({"sequence_number": n - 1, **one})} for n, one in enumerate(told, 1)]
    pipeline = redis.client.pipeline(transaction=False)
    for line in lines:
        pipeline.xadd(key(session), {"event": line["event"], "response": response, "data": line["data"], **({"n": line["n"]} if "n" in line else {})})
    pipeline.hset(f"{key(session)}:producers", response, f"1 {len(told)} open w.1 1-0 {int(time.time() * 1000)}")
    pipeline.execute()
    before = cpu(roomy)
    assert roomy.request("GET", f"/v1/responses/{response}~{session}", seconds=60).status == 200
    assert cpu(roomy) - before < 4


@contextlib.contextmanager
def light(gateway, megabytes=150):
    """What is read within it takes no more than that at any time."""
    before, peak, over = gateway.process.rss(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, gateway.process.rss())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
    assert peak - before < megabytes << 20


# Two million values, in less than the 8 MiB that an event or a body may have.
MANY = "[" + "0," * 2_000_000 + "0]"
CHUNK = 'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'


def test_an_event_of_too_many_values_is_left_out(redis, roomy, upstream, session):
    """Each takes ten times its bytes while it is read."""
    ask, more = {"Content-Type": "application/json", "Baton-Session": session}, '"model":"m","stream":true'
    with light(roomy):
        body = f'data: {{"type":"data-x","data":{MANY}}}\n\ndata: {{"type":"finish"}}\n\ndata: [DONE]\n\n'
        told = roomy.request("POST", f"/v1/sessions/{session}?response=r", body, {"Content-Type": "text/event-stream"}, seconds=60)
        assert told.json["state"] == "end"
        upstream.events = [CHUNK % "one", f'data: {{"choices":[],"x":{MANY}}}\n\n', CHUNK % "two", "data: [DONE]\n\n"]
        told = roomy.request("POST", "/v1/chat/completions", f'{{{more},"messages":[]}}', ask, seconds=60)
        assert told.status == 200 and b'"one"' in told.body and b'"two"' in told.body and len(told.body) < 10_000
        delta = 'data: {"type":"response.output_text.delta","item_id":"i","delta":"%s"}\n\n'
        upstream.events = ['data: {"type":"response.created","response":{"id":"x"}}\n\n', delta % "three",
                           f'data: {{"type":"response.x","x":{MANY}}}\n\n', delta % "four",
                           'data: {"type":"response.completed","response":{"id":"x","status":"completed"}}\n\n']  # fmt: skip
        told = roomy.request("POST", "/v1/responses", f'{{{more},"input":"x"}}', ask, seconds=60)
        assert told.status == 200 and b'"three"' in told.body and b'"four"' in told.body and len(told.body) < 10_000
    assert len(redis.stream(session)) < 30


@pytest.mark.parametrize("path, body", [
    ("/v1/responses", '{"model":"m","input":%s}'), ("/v1/responses", '{"model":"m","stream":true,"input":%s}'),
    ("/v1/chat/completions", '{"model":"m","messages":%s}'), ("/v1/chat/completions", '{"model":"m","stream":true,"messages":%s}'),
    ("/v1/ai-sdk", '{"id":"s","messages":%s}'),
])  # fmt: skip
def test_a_question_of_too_many_values_is_a_400(roomy, upstream, path, body):
    asked = len(upstream.requests)
    with light(roomy):
        told = roomy.request("POST", path, body % MANY, {"Content-Type": "application/json"}, seconds=60)
    assert told.status == 400
    words = told.json["detail"] if path == "/v1/ai-sdk" else told.json["error"]["message"]
    assert "million" in words and len(upstream.requests) == asked


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/ai-sdk", "/agent", "/v1/embeddings"])
def test_who_may_not_ask_is_not_listened_to(asking, path):
    raw = Raw(asking).send(f"POST {path} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n")
    assert answered(raw)[0] == 401
    raw.socket.close()


def test_readers_of_relayed_answers_are_devices_of_their_subject(redis, asking, upstream, session, attach):
    upstream.events, upstream.paced = ["data: one\n\n", "data: two\n\n"], True
    mine, others = bearer(token(sub=f"ada-{session}")), bearer(token(sub=f"eve-{session}"))
    asked = len(upstream.requests)

    def ask(who, path="/agent", body="{}"):
        head = "".join(f"{name}: {value}\r\n" for name, value in {**who, "Baton-Session": session, "Content-Type": "application/json"}.items())
        return Raw(asking).send(f"POST {path} HTTP/1.1\r\n{HOST}{head}Content-Length: {len(body)}\r\n\r\n{body}")

    first = ask(mine)
    assert answered(first)[0] == 200
    response = [line.split(": ")[1] for line in first.got.decode().splitlines() if line.lower().startswith("baton-response")][0]
    query = f"?session={session}&response={response}"
    head = "".join(f"{name}: {value}\r\n" for name, value in mine.items())
    second = Raw(asking).send(f"GET /agent{query} HTTP/1.1\r\n{HOST}{head}\r\n")
    assert answered(second)[0] == 200
    for path, body in [("/agent", "{}"), ("/v1/responses", '{"model":"m","input":"x","stream":true}'), ("/v1/responses", '{"model":"m","input":"x"}'),
                       ("/v1/chat/completions", '{"model":"m","messages":[],"stream":true}'),
                       ("/v1/ai-sdk", json.dumps({"id": session, "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]}))]:  # fmt: skip
        refused = ask(mine, path, body)
        assert answered(refused)[0] == 429, path
        assert "too" in refused.until("subject") and "retry-after" in refused.got.decode().lower()
    assert len(upstream.requests) == asked + 1, "where it is refused nobody is asked"
    for path in (f"/agent{query}", f"/v1/sessions/{session}?wait=5s&after=0"):
        expected = 429 if "agent" in path else 200
        assert asking.request("GET", path, headers=mine).status == expected, path
    asking.upgrade(f"/v1/sessions/{session}", mine).problem(429)
    third = Raw(asking).send(f"GET /agent{query} HTTP/1.1\r\n{HOST}" + "".join(f"{name}: {value}\r\n" for name, value in others.items()) + "\r\n")
    assert answered(third)[0] == 200, "others have their own"
    second.socket.close()

    def again():
        raw = Raw(asking).send(f"GET /agent{query} HTTP/1.1\r\n{HOST}{head}\r\n")
        if answered(raw)[0] == 200:
            return raw
        raw.socket.close()

    fourth = wait_for(again, 20, "the place is given back")
    assert asking.metric("baton_limits_exceeded_total", limit="max-devices-per-subject") >= 6
    for raw in (first, third, fourth):
        raw.socket.close()
    upstream.paced = False
