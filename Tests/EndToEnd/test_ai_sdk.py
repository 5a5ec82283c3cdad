"""The AI SDK's wire: a backend's UI message streams are relayed into sessions, and resumed on any node."""

import concurrent.futures
import contextlib
import json
import threading
import typing

import httpx
import pydantic
import pytest
from pydantic_ai.ui.vercel_ai import response_types
from support.process import REPOSITORY, wait_for
from support.servers import gateways
from support.tokens import SECRET, token
from test_descriptions import Answers, operations_of
from test_relay import WORDS, Upstream, expired, refusing, sparse

KINDS = [kind for name, kind in vars(response_types).items() if name.endswith("Chunk") and name not in ("BaseChunk", "DoneChunk")]
CHUNK = pydantic.TypeAdapter(typing.Union[tuple(KINDS)])
DONE = "data: [DONE]\n\n"


def sse(*chunks):
    return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), DONE]


def text(words=WORDS, id="t1"):
    return [{"type": "text-start", "id": id}, *({"type": "text-delta", "id": id, "delta": word} for word in words), {"type": "text-end", "id": id}]


def answer(words=WORDS, **start):
    return [{"type": "start", **start}, {"type": "start-step"}, *text(words), {"type": "finish-step"}, {"type": "finish", "finishReason": "stop"}]


def rich():
    """Text, reasoning, a tool with its input in pieces, a source, data, and metadata."""
    call = {"toolCallId": "call_1"}
    return [
        {"type": "start", "messageId": "m-1", "messageMetadata": {"model": "m"}},
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "r1"},
        {"type": "reasoning-delta", "id": "r1", "delta": "hm, "},
        {"type": "reasoning-delta", "id": "r1", "delta": "a sum", "providerMetadata": {"p": {"signature": "s"}}},
        {"type": "reasoning-end", "id": "r1"},
        {"type": "tool-input-start", **call, "toolName": "add"},
        {"type": "tool-input-delta", **call, "inputTextDelta": '{"a":'},
        {"type": "tool-input-delta", **call, "inputTextDelta": "1}"},
        {"type": "tool-input-available", **call, "toolName": "add", "input": {"a": 1}},
        {"type": "tool-output-available", **call, "output": {"sum": 1, "note": "é🎻"}},
        {"type": "finish-step"},
        {"type": "start-step"},
        {"type": "source-url", "sourceId": "s1", "url": "https://example.com/"},
        {"type": "data-weather", "id": "w1", "data": {"degrees": 21.50}},
        *text(id="odd id/"),
        *text(["A ", "second."], "t2"),
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop", "messageMetadata": {"tokens": 7}},
    ]  # fmt: skip


def failing():
    return [*answer()[:5], {"type": "error", "errorText": "no more"}]


class Message:
    """A message as the AI SDK's client puts it together; what that breaks off at is an AssertionError."""

    def __init__(self, chunks=()):
        self.id, self.parts, self.metadata, self.end = None, [], {}, None
        self.open, self.inputs = {}, {}
        for chunk in chunks:
            self.take(chunk)

    def take(self, chunk):
        CHUNK.validate_python(chunk)
        type = chunk["type"]
        kind, _, deed = type.rpartition("-")
        self.metadata.update(chunk.get("messageMetadata") or {})
        if type == "start":
            assert self.id is None, "a second start"
            self.id = chunk["messageId"]
        elif kind in ("text", "reasoning"):
            key = (kind, chunk["id"])
            if deed == "start":
                assert key not in self.open
                self.open[key] = {"type": kind, "text": ""}
                self.parts.append(self.open[key])
            elif deed == "delta":
                self.open[key]["text"] += chunk["delta"]
            else:
                del self.open[key]
        elif kind == "tool-input":
            call = chunk["toolCallId"]
            if deed == "start":
                self.inputs[call] = ""
            elif deed == "delta":
                self.inputs[call] += chunk["inputTextDelta"]
            else:
                self.parts.append({"type": f"tool-{chunk['toolName']}", "toolCallId": call, "input": chunk["input"]})
        elif kind == "tool-output" or type == "tool-approval-request":
            part = next(part for part in self.parts if part.get("toolCallId") == chunk["toolCallId"])
            part.update({name: value for name, value in chunk.items() if name != "type"})
        elif type in ("finish", "abort", "error"):
            assert self.end is None or type == "finish"
            self.end = self.end or type
        elif type == "finish-step":
            assert not self.open, "a part was not ended"
        elif type not in ("message-metadata", "start-step"):
            self.parts.append(chunk)
        return self

    @property
    def text(self):
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    def __eq__(self, other):
        return (self.id, self.parts, self.metadata, self.end) == (other.id, other.parts, other.metadata, other.end)

    def __repr__(self):
        return f"Message({self.id}, {self.parts}, {self.metadata}, {self.end})"


class Stream:
    """The answer to a request, chunk by chunk."""

    def __init__(self, response):
        self.response, self.done, self.chunks = response, False, []
        assert response.status_code == 200, (response.status_code, response.read())
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1" and response.headers["content-type"].startswith("text/event-stream")
        self.lines = response.iter_lines()

    def __iter__(self):
        return self

    def __next__(self):
        for line in self.lines:
            if line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                assert not self.done
                self.chunks.append(json.loads(line[6:]))
                return self.chunks[-1]
        raise StopIteration

    def rest(self):
        """All of it; it must have come to its own end."""
        list(self)
        assert self.done, self.chunks[-3:]
        return self.chunks

    @property
    def response_name(self):
        return self.response.headers["baton-response"]


def person(text="hi", id="u1"):
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


def body(session, *messages, trigger="submit-message", **more):
    return {"id": session, "messages": list(messages) or [person()], "trigger": trigger, **more}


@contextlib.contextmanager
def post(gateway, session, *messages, headers=None, **more):
    with httpx.stream("POST", f"{gateway.url}/v1/ai-sdk", json=body(session, *messages, **more), headers=headers, timeout=60) as response:
        yield Stream(response)


def asked(gateway, session, *messages, **more):
    with post(gateway, session, *messages, **more) as stream:
        return stream.rest()


@contextlib.contextmanager
def resumed(gateway, session, headers=None):
    with httpx.stream("GET", f"{gateway.url}/v1/ai-sdk/{session}/stream", timeout=60, headers=headers) as response:
        yield Stream(response)


def resume(gateway, session):
    with resumed(gateway, session) as stream:
        return stream.rest()


def nothing(gateway, session):
    return gateway.get(f"/v1/ai-sdk/{session}/stream").status == 204


def stop(gateway, session):
    assert gateway.request("POST", f"/v1/ai-sdk/{session}/stop").status == 204


def relayed(upstream, folder, redis, *options, **more):
    url = f"http://127.0.0.1:{upstream.port}"
    return gateways(folder, redis, "ui", "--ai-sdk", f"{url}/api/chat?v=1", "--openai", f"{url}/v1", *options, **more)


@pytest.fixture(scope="module")
def upstream():
    return Upstream([])


@pytest.fixture(scope="module")
def relays(upstream, tmp_path_factory, redis):
    with relayed(upstream, tmp_path_factory.mktemp("ui"), redis) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
def afresh(upstream):
    upstream.events, upstream.paced, upstream.go = sse(*answer()), False, threading.Semaphore(0)
    upstream.requests.clear()
    upstream.gone.clear()


def entries(redis, session):
    return [{name.decode(): value.decode() for name, value in fields} for _, fields in redis.stream(session)]


# Asking and resuming


@pytest.mark.parametrize("chunks", [answer(), rich(), failing()], ids=["text", "rich", "error"])
def test_a_message_is_the_backends_however_it_is_read(relays, upstream, session, chunks):
    upstream.events = sse(*chunks)
    with post(relays[0], session) as stream:
        told = stream.rest()
        name = stream.response_name
    chunks[0].setdefault("messageId", name)
    whole = Message(chunks)
    assert Message(told) == whole and Message(resume(relays[1], session)) == whole
    path, _, sent = upstream.requests[0]
    assert path == "/api/chat?v=1" and sent == body(session)
    with post(relays[1], session) as again:
        assert Message(again.rest()) == whole and again.response_name == name
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("events", [answer(), rich(), failing()], ids=["text", "rich", "error"])
def test_broken_off_after_each_chunk_and_resumed_on_the_other_node(relays, upstream, session, events):
    upstream.events, upstream.paced = sse(*events), True

    def broken(place):
        name, node = f"{session}-{place}", place % 2
        with post(relays[node], name) as stream:
            for _ in range(place):
                upstream.go.release()
                next(stream)
        seen = list(stream.chunks)
        with resumed(relays[1 - node], name) as stream:
            assert next(stream)["messageId"] == seen[0]["messageId"]
            upstream.go.release(len(events) + 1 - place)
            return Message(stream.rest()), stream.response_name

    for place in range(1, len(events) + 1):
        message, name = broken(place)
        assert message == Message([{"messageId": name, **events[0]}, *events[1:]])
    assert len(upstream.requests) == len(events)


def as_far(stream, events):
    """Reads until a message is that of these events."""
    while Message(stream.chunks) != Message(events):
        next(stream)
    return stream


def test_gateways_are_killed_after_each_chunk(upstream, tmp_path, redis, session):
    """Who reads through one that dies reads the whole on another; what it relayed itself is as far as it was known, and an error."""
    events = rich()
    upstream.events, upstream.paced = sse(*events), True
    with relayed(upstream, tmp_path, redis) as (living, dying), contextlib.ExitStack() as open, concurrent.futures.ThreadPoolExecutor(40) as pool:
        gone, readers, asking = [], [], []
        for place in range(1, len(events) + 1):
            for gateway in (living, dying):
                upstream.go = threading.Semaphore(place)
                stream = as_far(open.enter_context(post(gateway, f"{session}-{gateway.node}-{place}")), events[:place])
                if gateway is living:
                    asking.append((upstream.go, stream))
                    gone.append(as_far(open.enter_context(resumed(dying, f"{session}-{living.node}-{place}")), events[:place]))
                else:
                    gone.append(stream)
                    readers.append(as_far(open.enter_context(resumed(living, f"{session}-{dying.node}-{place}")), events[:place]))
        dying.kill()
        for stream in gone:
            with pytest.raises(httpx.HTTPError):
                list(stream)
            assert not stream.done
        for go, _ in asking:
            go.release(len(events))
        whole = Message(events)
        assert all(Message(resume(living, f"{session}-{living.node}-{place}")) == whole for place in range(1, len(events) + 1))
        assert all(Message(stream.rest()) == whole for _, stream in asking)
        for place, chunks in enumerate(pool.map(Stream.rest, readers), 1):
            assert Message(chunks) == Message([*events[:place], *([] if place == len(events) else [{"type": "error", "errorText": ""}])]), place
        # It is not asked for again.
        assert Message(asked(living, f"{session}-{dying.node}-3")).end == "error" and len(upstream.requests) == 2 * len(events)


def test_many_readers_of_one_message(relays, upstream, session):
    upstream.paced = True
    with post(relays[0], session) as stream, concurrent.futures.ThreadPoolExecutor(20) as pool:
        upstream.go.release(4)
        for _ in range(4):
            next(stream)
        readers = [pool.submit(resume, relays[number % 2], session) for number in range(20)]
        upstream.go.release(40)
        whole = Message(stream.rest())
        assert all(Message(reader.result()) == whole for reader in readers)


def test_nothing_to_resume(relays, tmp_path, upstream, redis, session):
    assert nothing(relays[0], session)
    redis.add(session, data="no response's")
    assert nothing(relays[0], session)
    asked(relays[0], session)
    assert not nothing(relays[1], session)
    with relayed(upstream, tmp_path, redis, "--ai-sdk-grace", "0s", count=1) as (gateway,):
        assert nothing(gateway, session)


def test_the_person_s_words_are_there_for_other_devices(relays, upstream, session, redis, attach):
    device = attach(relays[1], session).until_live()
    chunks = asked(relays[0], session, person("What is\nBaton?"))
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end", 20, "the end")
    assert device.view.text == "".join(WORDS) and (device.entries[0]["event"], device.entries[0]["data"]) == ("input", "What is\nBaton?")
    # To regenerate writes no second question.
    upstream.events = sse(*answer(["another"]))
    again = asked(relays[1], session, person("What is\nBaton?"), trigger="regenerate-message", messageId=chunks[0]["messageId"])
    assert Message(again).text == "another" and Message(resume(relays[0], session)).text == "another"
    assert [entry.get("event") for entry in entries(redis, session)].count("input") == 1
    assert Message(asked(relays[0], session, person("edited"))).text == "another" and len(upstream.requests) == 3


def test_the_same_question_at_the_same_time_is_asked_once(relays, upstream, session):
    upstream.paced = True
    with concurrent.futures.ThreadPoolExecutor() as pool:
        each = [pool.submit(asked, relays[number % 2], session) for number in range(4)]
        upstream.go.release(40)
        told = [Message(one.result()) for one in each]
    assert all(one == told[0] for one in told) and told[0].text == "".join(WORDS) and len(upstream.requests) == 1


def test_a_key_is_one_answer(relays, upstream, session):
    headers = {"Idempotency-Key": "k1"}
    for gateway in relays:
        assert Message(asked(gateway, session, trigger="regenerate-message", headers=headers)).text == "".join(WORDS)
    assert len(upstream.requests) == 1
    other = httpx.post(f"{relays[0].url}/v1/ai-sdk", json=body(session, person("else")), headers=headers)
    assert other.status_code == 409 and "key-conflict" in other.text


def test_the_last_message_alone(relays, upstream, session, redis):
    sent = {"id": session, "message": person("alone"), "model": "m"}
    for gateway in relays:
        told = httpx.post(f"{gateway.url}/v1/ai-sdk", json=sent, timeout=60)
        assert told.status_code == 200 and told.text.endswith(DONE)
    assert [entry.get("data") for entry in entries(redis, session) if entry.get("event") == "input"] == ["alone"]
    assert [request[2] for request in upstream.requests] == [sent]


def test_a_large_chunk_comes_whole(relays, upstream, session):
    call = {"toolCallId": "c"}
    output = {"deep": "é🎻" * 150_000}
    upstream.events = sse(
        *answer()[:2], {"type": "tool-input-available", **call, "toolName": "t", "input": {}},
        {"type": "tool-output-available", **call, "output": output}, *text(["x" * 300_000]), *answer()[-2:])  # fmt: skip
    for chunks in (asked(relays[0], session), resume(relays[1], session)):
        message = Message(chunks)
        assert message.parts[0]["output"] == output and message.text == "x" * 300_000


# Stopping


def test_stop_from_any_node_ends_the_backends_request(relays, upstream, session):
    upstream.paced = True
    with post(relays[0], session) as stream, resumed_when_begun(relays[1], session) as other:
        upstream.go.release(4)
        for _ in range(4):
            next(stream)
        stop(relays[1], session)
        assert upstream.gone.wait(20)
        assert Message(stream.rest()).end == "abort" and Message(other.rest()) == Message(stream.chunks)
    stop(relays[0], session)
    assert Message(resume(relays[0], session)).end == "abort"


@contextlib.contextmanager
def resumed_when_begun(gateway, session):
    wait_for(lambda: gateway.get(f"/v1/sessions/{session}/responses").json["responses"], 20, "it has begun")
    with resumed(gateway, session) as stream:
        yield stream


def test_stopped_after_each_chunk(relays, upstream, session):
    events = rich()
    upstream.events, upstream.paced = sse(*events), True
    for place in range(1, len(events)):
        name, node = f"{session}-{place}", place % 2
        upstream.go = threading.Semaphore(place)
        with post(relays[node], name) as stream:
            as_far(stream, events[:place])
            stop(relays[1 - node], name)
            stopped = Message([*events[:place], {"type": "abort"}])
            assert Message(stream.rest()) == stopped and Message(resume(relays[1 - node], name)) == stopped, place


@contextlib.contextmanager
def held(upstream):
    """The backend says nothing to whoever asks it meanwhile, until the event is set."""
    go = threading.Event()
    handler = upstream.server.RequestHandlerClass
    begin, handler.begin = handler.begin, lambda self, **headers: (go.wait(20), begin(self, **headers))
    try:
        yield go
    finally:
        handler.begin = begin


def test_stop_before_the_backend_has_said_anything(relays, upstream, session):
    upstream.paced = True
    with held(upstream) as go, concurrent.futures.ThreadPoolExecutor() as pool:
        told = pool.submit(asked, relays[0], session)
        wait_for(lambda: upstream.requests, 20, "the backend is asked")
        stop(relays[1], session)
        go.set()
        upstream.go.release()
        assert Message(told.result(60)).end == "abort" and upstream.gone.wait(20)


def test_resumed_before_the_backend_has_said_anything(relays, upstream, session):
    """A page that is reloaded at once finds its answer, also where a message has ended just before."""
    asked(relays[0], session, person("before", "u0"))
    with held(upstream) as go, concurrent.futures.ThreadPoolExecutor() as pool:
        told = pool.submit(asked, relays[0], session)
        wait_for(lambda: len(upstream.requests) == 2, 20, "the backend is asked")
        again = pool.submit(resume, relays[1], session)
        with pytest.raises(concurrent.futures.TimeoutError):
            again.result(0.5)
        go.set()
        assert Message(again.result(60)) == Message(told.result(60))


def test_what_was_refused_is_not_waited_for(relays, upstream, session):
    with refusing(upstream, 500, "no"):
        assert httpx.post(f"{relays[0].url}/v1/ai-sdk", json=body(session)).status_code == 500
    assert nothing(relays[1], session)


def test_who_goes_away_ends_nothing(relays, upstream, session):
    upstream.paced = True
    with post(relays[0], session) as stream:
        upstream.go.release(3)
        for _ in range(3):
            next(stream)
    upstream.go.release(40)
    assert Message(resume(relays[1], session)).text == "".join(WORDS) and not upstream.gone.is_set()


# Turns


def approval():
    call = {"toolCallId": "call_1"}
    first = [
        {"type": "start", "messageMetadata": {"a": 1}}, {"type": "start-step"}, *text(["Shall I?"]),
        {"type": "tool-input-available", **call, "toolName": "pay", "input": {"sum": 3}},
        {"type": "tool-approval-request", "approvalId": "ap_1", **call}, {"type": "finish-step"}, {"type": "finish"},
    ]  # fmt: skip
    second = [
        {"type": "start", "messageMetadata": {"b": 2}}, {"type": "tool-output-available", **call, "output": "paid"},
        {"type": "start-step"}, *text(["Done."]), {"type": "finish-step"}, {"type": "finish"},
    ]  # fmt: skip
    return first, second


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_message_that_goes_on_after_an_approval_is_one_turn(relays, upstream, session, named):
    first, second = approval()
    if named:
        first[0]["messageId"] = second[0]["messageId"] = "m-1"
    upstream.events = sse(*answer(["Before."], **({"messageId": "m-0"} if named else {})))
    asked(relays[0], session, person("before", "u0"))
    upstream.events = sse(*first)
    message = Message(asked(relays[0], session))
    assert message.parts[1]["approvalId"] == "ap_1" and message == Message(resume(relays[1], session))
    upstream.events, upstream.paced = sse(*second), True
    continued = {"id": message.id, "role": "assistant", "parts": [{"type": "tool-pay", "state": "approval-responded", "toolCallId": "call_1"}]}
    with post(relays[1], session, person(), continued) as stream:
        upstream.go.release(2)
        assert next(stream)["messageId"] == message.id
        with resumed(relays[0], session) as other:
            upstream.go.release(40)
            told = Message(other.rest())
        assert stream.rest()[0]["type"] == "start"
    assert told.id == message.id and told.text == "Shall I?Done." and told.parts[1]["output"] == "paid" and told.metadata == {"a": 1, "b": 2}
    assert told == Message(resume(relays[1], session))


def test_what_only_the_client_has_found_out_is_in_the_turn(relays, upstream, session):
    call = {"toolCallId": "call_1"}
    upstream.events = sse(
        {"type": "start"}, {"type": "start-step"}, {"type": "tool-input-available", **call, "toolName": "place", "input": {}},
        {"type": "finish-step"}, {"type": "finish"})  # fmt: skip
    message = Message(asked(relays[0], session))
    upstream.events = sse(*answer(["There."]))
    part = {"type": "tool-place", **call, "state": "output-available", "input": {}, "output": {"lat": 48.5}}
    continued = {"id": message.id, "role": "assistant", "parts": [{"type": "step-start"}, part]}
    asked(relays[1], session, person(), continued)
    told = Message(resume(relays[0], session))
    assert (told.id, told.parts[0]["output"], told.text) == (message.id, {"lat": 48.5}, "There.")
    asked(relays[1], session, person(), continued)
    assert len(upstream.requests) == 2


def test_a_message_of_many_entries_is_found(relays, upstream, session, redis):
    """More than a page of history lies behind its beginning, and more before it."""
    redis.add_tokens(session, ["x"] * 1500, "r0")
    redis.add(session, event="end", response="r0")
    redis.add(session, event="start", response="r1")
    redis.add_tokens(session, ["y"] * 2500, "r1")
    assert Message(partial(relays[0], session)).text == "y" * 2500


def partial(gateway, session, count=2500):
    """What there is so far of a message that goes on."""
    chunks, size = [], 0
    with resumed(gateway, session) as stream:
        while size < count:
            chunks.append(next(stream))
            size += len(chunks[-1].get("delta", ""))
    return chunks


# Responses from elsewhere


CASES = json.loads((REPOSITORY / "Tests/Conformance/ui/messages.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_chunks_are_those_of_the_cases(relays, session, redis, case):
    for entry in case["entries"]:
        redis.add(session, *(part for name, value in entry.items() for part in (name, "1" if value is True else str(value))))
    assert resume(relays[0], session) == case["chunks"]
    place = relays[0].request("GET", f"/v1/ai-sdk/{session}/stream", headers={"Accept": "application/json"})
    assert place.json == {"responses": case.get("responses", ["r1"]), "offset": "0"}


def test_a_plain_producers_response(relays, session, redis):
    redis.add(session, data="Hel", response="r1")
    with resumed(relays[0], session) as stream:
        assert [next(stream)["type"] for _ in range(4)] == ["start", "start-step", "text-start", "text-delta"]
        redis.add(session, data="not shown", response="r2", event="input")
        redis.add(session, data="lo", response="r1")
        redis.add(session, event="end", response="r1")
        message = Message(stream.rest())
    assert (message.id, message.text, message.end) == ("r1", "Hello", "finish")


@pytest.mark.parametrize("event, data, end", [("error", '{"reason":"model_error","message":"no"}', "error"), ("cancelled", "", "abort")])
def test_a_plain_producers_ends(relays, session, redis, event, data, end):
    redis.add(session, data="Hel", response="r1", n=1)
    redis.add(session, data="Hel", response="r1", n=1)
    redis.add(session, event=event, response="r1", data=data)
    message = Message(chunks := resume(relays[0], session))
    assert (message.text, message.end) == ("Hel", end)
    if event == "error":
        assert chunks[-1]["errorText"] == "no"


def test_an_answer_from_openais_wire(relays, upstream, session):
    upstream.events = sparse()
    sent = {"model": "m", "input": "hi", "stream": True}
    assert httpx.post(f"{relays[0].url}/v1/responses", json=sent, headers={"Baton-Session": session}).status_code == 200
    message = Message(resume(relays[1], session))
    assert (message.text, message.end) == ("".join(WORDS), "finish")


def test_an_entry_that_is_too_large(relays, session, redis):
    redis.add(session, data="Hel", response="r1")
    redis.add(session, data="x" * 300_000, response="r1")
    chunks = resume(relays[0], session)
    assert Message(chunks).text == "Hel" and "too large" in chunks[-1]["errorText"]


def test_another_history_cuts_the_stream(relays, upstream, session, redis):
    upstream.paced = True
    with post(relays[0], session) as stream:
        upstream.go.release(3)
        for _ in range(3):
            next(stream)
        redis.client.delete(f"baton:{{{session}}}")
        redis.add(session, data="another", response="r9")
        with pytest.raises(httpx.HTTPError):
            list(stream)
        assert not stream.done


# What an app's own route uploads


def upload(gateway, session, response, pieces):
    def told():
        yield from (piece.encode() for piece in pieces)

    return httpx.post(f"{gateway.url}/v1/sessions/{session}?response={response}", content=told(), headers={"Content-Type": "text/event-stream"}, timeout=60)


@pytest.mark.parametrize("chunks", [rich(), failing()], ids=["rich", "error"])
def test_a_stream_is_uploaded(relays, session, chunks):
    done = upload(relays[0], session, "a1", sse(*chunks))
    assert done.status_code == 201 and done.json() == {"response": "a1", "state": "error" if chunks == failing() else "end"}
    assert Message(resume(relays[1], session)) == Message([{"messageId": "a1", **chunks[0]}, *chunks[1:]])
    again = upload(relays[0], session, "a1", sse(*chunks))
    assert again.status_code == 409 and "response-exists" in again.text


def test_an_upload_that_is_cut_or_stopped(relays, session, redis):
    assert upload(relays[0], session, "a1", sse(*answer())[:4]).json()["state"] == "error"
    message = Message(resume(relays[1], session))
    assert message.end == "error" and message.text == WORDS[0]
    go = threading.Event()

    def pieces():
        yield from sse(*answer())[:4]
        while not go.wait(0.05):
            yield ": still there\n\n"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        uploaded = pool.submit(upload, relays[0], session, "a2", pieces())
        try:
            wait_for(lambda: relays[1].get(f"/v1/sessions/{session}/responses?state=open").json["responses"], 20, "it has begun")
            with resumed(relays[1], session) as stream:
                stop(relays[1], session)
                assert Message(stream.rest()).end == "abort"
            wait_for(uploaded.done, 20, "the upload is answered")
        finally:
            go.set()
    assert [entry["event"] for entry in entries(redis, session) if entry.get("event") in ("error", "cancelled")] == ["error", "cancelled"]


# What goes wrong, and who may


def test_what_the_backend_refuses_is_passed_on_and_nothing_is_written(relays, upstream, session, redis):
    for status in (401, 403, 500):
        with refusing(upstream, status, '{"why":"not you"}'):
            refused = httpx.post(f"{relays[0].url}/v1/ai-sdk", json=body(session))
        assert (refused.status_code, refused.json()) == (status, {"why": "not you"})
    assert redis.stream(session) == []
    assert Message(asked(relays[1], session)).text == "".join(WORDS)


def test_the_backend_is_told_who_asks(relays, upstream, session):
    headers = {"Cookie": "sid=1", "Authorization": "Bearer the-apps-own", "Accept-Language": "de", "X-Tenant": "t", "Baton-Other": "no"}
    asked(relays[0], session, headers=headers)
    told = {name.lower(): value for name, value in upstream.requests[0][1].items()}
    assert [told.get(name.lower()) for name in headers] == ["sid=1", "Bearer the-apps-own", "de", "t", None]
    assert "x-conversation-id" not in told and "the-apps-own" not in relays[0].process.logged()


def test_a_backend_that_breaks_off(relays, upstream, session):
    upstream.events = sse(*answer())[:5]
    chunks = asked(relays[0], session)
    assert chunks[-1]["type"] == "error" and Message(chunks).text == "".join(WORDS[:2])


@pytest.mark.parametrize("sent", ["", "[]", "{}", '{"id":"a b","messages":[]}', '{"id":"s"}'])
def test_what_no_usechat_sends(relays, upstream, sent):
    refused = relays[0].request("POST", "/v1/ai-sdk", sent, {"Content-Type": "application/json"})
    refused.problem(400)
    assert upstream.requests == []


def test_what_is_described(relays, upstream, session):
    asks = Answers()
    sent, told = json.dumps(body(session)), {"Content-Type": "application/json"}
    asks(relays[0], "GET", f"/v1/ai-sdk/{session}/stream", 204)
    asks(relays[0], "POST", f"/v1/ai-sdk/{session}/stop", 204)
    asks(relays[0], "POST", "/v1/ai-sdk", 200, body=sent, headers=told)
    asks(relays[0], "GET", f"/v1/ai-sdk/{session}/stream", 200)
    asks(relays[0], "POST", "/v1/ai-sdk", 415, "unsupported-media-type", sent)
    for path in ("", f"/{session}/stream", f"/{session}/stop"):
        asks(relays[0], "OPTIONS", f"/v1/ai-sdk{path}", 204)
    asks(relays[0], "POST", f"/v1/sessions/{session}?response=up", 201, body="".join(sse(*answer())), headers={"Content-Type": "text/event-stream"})
    asks(relays[0], "POST", f"/v1/sessions/{session}?response=up", 409, "response-exists", "", {"Content-Type": "text/event-stream"})
    assert operations_of(lambda tags: "relay" in tags) <= {name for name, _ in asks.seen}


def test_paths_and_methods(relays, gateway, session):
    for method, path, status in [
        ("GET", "/v1/ai-sdk", 405), ("POST", f"/v1/ai-sdk/{session}/stream", 405), ("GET", f"/v1/ai-sdk/{session}/stop", 405),
        ("GET", "/v1/ai-sdk/a%20b/stream", 400), ("GET", f"/v1/ai-sdk/{session}/else", 404), ("GET", f"/v1/ai-sdk/{session}", 404),
    ]:  # fmt: skip
        relays[0].request(method, path).problem(status)
    assert gateway.request("POST", "/v1/ai-sdk", "{}", {"Content-Type": "application/json"}).problem(404)["type"].endswith("no-backend")
    assert nothing(gateway, session)


def test_a_token_decides(upstream, tmp_path, redis, session):
    (tmp_path / "secret").write_bytes(SECRET)
    upstream.paced = True
    with relayed(upstream, tmp_path, redis, "--auth-secret-file", tmp_path / "secret", count=1) as (gateway,):

        def refused(method, path, status, **claims):
            sent = json.dumps(body(session)) if method == "POST" and path == "" else None
            headers = {"Authorization": f"Bearer {token(**claims)}", **({"Content-Type": "application/json"} if sent else {})}
            gateway.request(method, f"/v1/ai-sdk{path}", sent, headers).problem(status)

        refused("POST", "", 403, scope=["read"])
        refused("POST", "", 403, sessions=["another"])
        refused("GET", f"/{session}/stream", 403, scope=["publish"])
        refused("POST", f"/{session}/stop", 403, scope=["read"])
        assert upstream.requests == [] and redis.stream(session) == []
        # Within the minute of leeway a token is let in, and its stream is cut with the next thing that comes.
        short = token(exp=2)
        with post(gateway, session, headers={"Authorization": f"Bearer {short}"}) as stream:
            upstream.go.release(2)
            next(stream)
            wait_for(lambda: expired(short), 20, "the token is over")
            upstream.go.release(40)
            with pytest.raises(httpx.HTTPError):
                list(stream)
        with resumed(gateway, session, {"Authorization": f"Bearer {token()}"}) as stream:
            assert Message(stream.rest()).text == "".join(WORDS)
