"""`--relay PATH=URL`: a backend's event stream, of whatever kind, outlives its connection; an agent of AG-UI's among them."""

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import threading

import httpx
import pydantic
import pytest
import uvicorn
from ag_ui.core import Event
from pydantic_ai import Agent
from pydantic_ai.models.function import DeltaToolCall, FunctionModel
from pydantic_ai.ui.ag_ui import AGUIAdapter
from starlette.applications import Starlette
from starlette.routing import Route
from support.process import wait_for
from support.servers import gateways
from support.tokens import SECRET, token
from test_relay import Upstream

# Each with its name, id and data; None where it has none.
EVENTS = [
    ("metadata", "1", '{"run_id": 1.50}'),
    (None, None, "plain"),
    (None, None, "two\n  lines"),
    ("values", "a/b é", "é🎻\u2028 \x0b is no line end"),
    ("empty", None, ""),
    ("end", None, None),
    (None, "alone", None),
    ("large", "l", "é🎻" * 60_000),
    ("last", None, "[DONE]"),
]


def written(name, id, data):
    lines = [f"event: {name}"] * (name is not None) + [f"id: {id}"] * (id is not None)
    return "\n".join([*lines, *(f"data: {line}" for line in ([] if data is None else data.split("\n")))]) + "\n\n"


class Backend(Upstream):
    """It ends its stream as HTTP wants it, or breaks off, or refuses."""

    def fresh(self):
        self.events, self.paced, self.go, self.whole, self.refusal = [written(*event) for event in EVENTS], False, threading.Semaphore(0), True, None
        self.requests.clear()
        self.gone.clear()

    def answer(self, handler, number):
        handler.close_connection = True
        if self.refusal:
            status, body = self.refusal
            return handler.whole(status, body, Content_Type="application/json")
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        go, paced, whole = self.go, self.paced, self.whole

        def tell(text):
            handler.tell(b"%x\r\n%b\r\n" % (len(text.encode()), text.encode()))

        for event in self.events:
            while paced and not go.acquire(timeout=0.05):
                tell(": a comment\nretry: 1\n\n")
            tell(event)
        if whole:
            handler.tell("0\r\n\r\n")


class Stream:
    """The answer to a request, event by event."""

    def __init__(self, response):
        assert response.status_code == 200, (response.status_code, response.read())
        assert response.headers["content-type"].startswith("text/event-stream")
        self.session, self.response = response.headers["baton-session"], response.headers["baton-response"]
        self.bytes, self.rest, self.events = response.iter_raw(), b"", []

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            while b"\n\n" not in self.rest:
                self.rest += next(self.bytes)
            block, self.rest = self.rest.split(b"\n\n", 1)
            lines = [line.split(": ", 1) for line in block.decode().split("\n")]
            if lines != [[":"]]:
                named = {field: [value for name, value in lines if name == field] for field in ("event", "id", "data")}
                assert all(name in named for name, _ in lines)
                data = "\n".join(named["data"]) if named["data"] else None
                self.events.append((*(named["event"] or [None]), *named["id"], data))
                return self.events[-1]

    @property
    def last(self):
        return self.events[-1][1] if self.events else None


def as_sent(events):
    """Without the ids that the backend did not give."""
    return [(name, sent[1] and id, data) for (name, id, data), sent in zip(events, EVENTS, strict=True)]


@contextlib.contextmanager
def post(gateway, session=None, path="/agent", body="{}", **headers):
    headers = {"Content-Type": "application/json", **({"Baton-Session": session} if session else {}), **headers}
    with httpx.stream("POST", f"{gateway.url}{path}", content=body, headers=headers, timeout=60) as response:
        yield Stream(response)


@contextlib.contextmanager
def resumed(gateway, stream, last=None, path="/agent"):
    headers = {} if last is None else {"Last-Event-ID": last}
    query = {"session": stream.session, "response": stream.response}
    with httpx.stream("GET", f"{gateway.url}{path}", params=query, headers={name: value.encode() for name, value in headers.items()}, timeout=60) as response:
        yield Stream(response)


def whole(gateway, stream, path="/agent"):
    with resumed(gateway, stream, path=path) as again:
        return list(again)


def ended(gateway, stream, last):
    path = f"/agent?session={stream.session}&response={stream.response}"
    return gateway.get(path, **{"Last-Event-ID": last}).status == 204


def entries(redis, session):
    return [{name.decode(): value.decode() for name, value in fields} for _, fields in redis.stream(session)]


def as_far(stream, count):
    while len(stream.events) < count:
        next(stream)
    return stream


def relayed(port, folder, redis, *options, **more):
    url = f"http://127.0.0.1:{port}"
    return gateways(folder, redis, "sse", "--relay", f"/agent={url}/run?v=1", "--relay", f"/app/other={url}/other", *options, **more)


@pytest.fixture(scope="module")
def backend():
    return Backend([])


@pytest.fixture(scope="module")
def relays(backend, tmp_path_factory, redis):
    with relayed(backend.port, tmp_path_factory.mktemp("sse"), redis) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
def afresh(backend):
    backend.fresh()


# Asking and resuming


def test_events_are_as_they_came(relays, backend, session, redis, attach):
    device = attach(relays[1], session).until_live()
    with post(relays[0], session, body='{"input": [1.50]}') as stream:
        told = list(stream)
    assert as_sent(told) == EVENTS and whole(relays[1], stream) == told
    assert backend.requests[0][0] == "/run?v=1" and backend.requests[0][2] == {"input": [1.5]}
    kept = entries(redis, session)
    assert kept[0]["event"] == "start" and json.loads(kept[0]["data"])["wire"] == "sse" and kept[-1]["event"] == "end"
    assert (kept[1]["event"], kept[1]["sse-event"], kept[1]["sse-id"], kept[1]["data"]) == ("sse", "metadata", "1", '{"run_id": 1.50}')
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end", 20, "the end")
    assert device.view.text == "" and device.entries[1]["fields"] == {"sse-event": "metadata", "sse-id": "1"}


def test_broken_off_after_each_event_and_resumed_on_the_other_node(relays, backend, session):
    backend.paced = True

    def broken(place):
        backend.go = threading.Semaphore(place)
        node = place % 2
        with post(relays[node], f"{session}-{place}") as stream:
            as_far(stream, place)
        with resumed(relays[1 - node], stream, stream.last) as rest:
            backend.go.release(len(EVENTS))
            list(rest)
        return stream, rest

    for place in range(len(EVENTS)):
        stream, rest = broken(place)
        told = stream.events + rest.events
        assert as_sent(told) == EVENTS, place
        for gateway in relays:
            assert whole(gateway, stream) == told, place
        assert ended(relays[place % 2], stream, rest.last)
    assert len(backend.requests) == len(EVENTS) and not backend.gone.is_set()


def test_without_a_session_it_has_one_of_its_own(relays):
    with post(relays[0]) as stream:
        told = list(stream)
    assert stream.session == stream.response and stream.response.startswith("run_")
    again = httpx.get(f"{relays[1].url}/agent", headers={"Baton-Session": stream.session})
    assert again.headers["baton-response"] == stream.response
    assert list(Stream(httpx.Response(200, headers=again.headers, stream=httpx.ByteStream(again.content)))) == told


def test_many_readers(relays, backend, session):
    backend.paced = True
    with post(relays[0], session) as stream, concurrent.futures.ThreadPoolExecutor(20) as pool:
        backend.go.release(3)
        as_far(stream, 3)
        readers = [pool.submit(whole, relays[number % 2], stream) for number in range(20)]
        backend.go.release(20)
        told = list(stream)
        assert as_sent(stream.events) == EVENTS and told == stream.events[3:]
        assert all(reader.result() == stream.events for reader in readers)


def test_the_same_key_asks_once(relays, backend, session):
    backend.paced = True

    def once(gateway, **headers):
        with post(gateway, session, **{"Idempotency-Key": "k", **headers}) as stream:
            list(stream)
        return stream

    with concurrent.futures.ThreadPoolExecutor() as pool:
        each = [pool.submit(once, relays[number % 2]) for number in range(4)]
        backend.go.release(20)
        streams = [one.result() for one in each]
    assert all((one.response, one.events) == (streams[0].response, streams[0].events) for one in streams)
    # A client that repeats its request by itself goes on where it was.
    again = once(relays[1], **{"Last-Event-ID": streams[0].events[2][1]})
    assert again.events == streams[0].events[3:] and as_sent(streams[0].events) == EVENTS and len(backend.requests) == 1
    for path, body, status in [("/agent", "[]", 409), ("/app/other", "[]", 200)]:
        backend.go.release(20)
        headers = {"Content-Type": "application/json", "Baton-Session": session, "Idempotency-Key": "k"}
        told = httpx.post(f"{relays[0].url}{path}", content=body, headers=headers, timeout=60)
        assert told.status_code == status
    assert told.headers["baton-response"] != again.response and backend.requests[1][0] == "/other"


def test_an_id_that_came_twice_loses_nothing(relays, backend, session):
    backend.events = [written(None, id, data) for id, data in [("x", "1"), ("x", "2"), ("y", "3")]]
    with post(relays[0], session) as stream:
        assert [event[1:] for event in stream] == [("x", "1"), ("x", "2"), ("y", "3")]
    with resumed(relays[1], stream, "x") as rest:
        assert [data for _, _, data in rest] == ["2", "3"]


# Stopping, and what goes wrong


def test_a_third_device_stops_it(relays, backend, session, attach):
    backend.paced = True
    device = attach(relays[1], session).until_live()
    with post(relays[0], session) as stream, resumed(relays[1], stream) as other:
        backend.go.release(3)
        as_far(stream, 3), as_far(other, 3)
        device.send({"type": "cancel", "key": "c", "response": stream.response})
        assert backend.gone.wait(20)
        assert list(stream) == list(other) == []
    assert stream.events == other.events
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "cancelled", 20, "cancelled")
    assert whole(relays[0], stream) == stream.events and ended(relays[0], stream, stream.last)


def test_stopped_over_http_before_its_first_event(relays, backend, session, redis):
    backend.paced = True
    with post(relays[0], session) as stream:
        assert relays[1].request("POST", f"/v1/sessions/{session}/responses/{stream.response}/cancel").status == 202
        assert list(stream) == [] and backend.gone.wait(20)
    assert [entry["event"] for entry in entries(redis, session)] == ["start", "cancelled"]


def cut(stream):
    with pytest.raises(httpx.RemoteProtocolError):
        list(stream)
    return stream.events


def test_a_backend_that_breaks_off_is_an_error_and_a_cut(relays, backend, session, redis):
    backend.whole = False
    with post(relays[0], session) as stream:
        assert as_sent(cut(stream)) == EVENTS
    with resumed(relays[1], stream, stream.events[3][1]) as rest:
        assert cut(rest) == stream.events[4:]
    last = entries(redis, session)[-1]
    assert last["event"] == "error" and json.loads(last["data"])["reason"] == "upstream_cut"
    assert ended(relays[1], stream, stream.last)


def test_a_killed_gateway_is_an_error(backend, tmp_path, redis, session):
    backend.paced = True
    with relayed(backend.port, tmp_path, redis) as (dying, living):
        with post(dying, session) as stream, resumed(living, stream) as other:
            backend.go.release(3)
            as_far(stream, 3), as_far(other, 3)
            dying.kill()
            assert len(cut(stream)) == 3 and cut(other) == stream.events
        last = entries(redis, session)[-1]
        assert last["event"] == "error" and json.loads(last["data"])["reason"] == "producer_lost"
        assert ended(living, stream, stream.last)


def test_who_reads_through_a_killed_gateway_goes_on_at_another(backend, tmp_path, redis, session):
    backend.paced = True
    with relayed(backend.port, tmp_path, redis) as (living, dying):
        with post(living, session) as asking, resumed(dying, asking) as stream:
            backend.go.release(3)
            as_far(stream, 3)
            dying.kill()
            cut(stream)
            with resumed(living, asking, stream.last) as rest:
                backend.go.release(20)
                assert as_sent(stream.events + list(rest)) == EVENTS
            list(asking)
        assert asking.events == stream.events + rest.events


def test_what_the_backend_refuses_is_passed_on_and_nothing_is_written(relays, backend, session, redis):
    for status in (200, 401, 403, 500):
        backend.refusal = (status, '{"why":"not you"}')
        refused = relays[0].request("POST", "/agent", "{}", {"Baton-Session": session, "Idempotency-Key": "k"})
        assert (refused.status, refused.json) == (status, {"why": "not you"})
    assert redis.stream(session) == [] and len(backend.requests) == 4
    backend.refusal = None
    with post(relays[1], session, **{"Idempotency-Key": "k"}) as stream:
        assert as_sent(stream) == EVENTS


def test_the_backend_is_told_who_asks(relays, backend, session):
    headers = {"Cookie": "sid=1", "Authorization": "Bearer the-apps-own", "Accept-Language": "de", "X-Tenant": "t", "Content-Type": "application/json; v=2"}
    with post(relays[0], session, **headers) as stream:
        list(stream)
    told = {name.lower(): value for name, value in backend.requests[0][1].items()}
    assert [told.get(name.lower()) for name in headers] == list(headers.values()) and "baton-session" not in told
    assert "the-apps-own" not in relays[0].process.logged()


def test_what_is_wrong(relays, backend, session):
    with post(relays[0], session) as stream:
        list(stream)
    known = f"/agent?session={session}&response={stream.response}"
    for method, path, status, name in [
        ("PUT", "/agent", 405, "method-not-allowed"), ("GET", "/agent", 400, "bad-session"), ("GET", "/agent?session=a%20b", 400, "bad-session"),
        ("GET", f"/agent?session={session}&response=r9", 404, "no-such-response"), ("GET", f"/agent?session={session}&response=a%20b", 400, "bad-response"),
        ("GET", f"{known}&lastEventId=nothing", 404, "no-such-event"), ("POST", "/agent/more", 404, "no-such-path"),
    ]:  # fmt: skip
        assert relays[1].request(method, path).problem(status)["type"].endswith(name), path
    assert relays[0].request("POST", "/agent", "{}", {"Baton-Session": "a b"}).problem(400)["type"].endswith("bad-session")
    assert relays[0].get(f"/agent?session={session}-none").status == 204 and len(backend.requests) == 1
    page = {"Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
    assert relays[0].request("OPTIONS", "/agent", headers=page).headers["allow"] == "GET, POST, OPTIONS"


def test_a_token_decides(backend, tmp_path, redis, session):
    (tmp_path / "secret").write_bytes(SECRET)
    with relayed(backend.port, tmp_path, redis, "--auth-secret-file", tmp_path / "secret", count=1) as (gateway,):
        for method, claims in [("POST", {"scope": ["read"]}), ("POST", {"sessions": ["another"]}), ("GET", {"scope": ["publish"]})]:
            bearer = {"Authorization": f"Bearer {token(**claims)}", "Baton-Session": session}
            gateway.request(method, "/agent", "{}" if method == "POST" else None, bearer).problem(403)
        gateway.request("POST", "/agent", "{}", {"Authorization": f"Bearer {token(sessions=['another'])}"}).problem(403)
        assert backend.requests == []
        with post(gateway, session, Authorization=f"Bearer {token()}") as stream:
            assert as_sent(stream) == EVENTS


def test_tenants_have_their_own(backend, tmp_path, redis, session):
    (tmp_path / "secret").write_bytes(SECRET)
    with relayed(backend.port, tmp_path, redis, "--auth-secret-file", tmp_path / "secret", "--tenant-claim", "tenant", count=1) as (gateway,):
        a, b = ({"Authorization": f"Bearer {token(tenant=tenant)}", "Idempotency-Key": session} for tenant in "ab")
        for name in (session, None):
            with post(gateway, name, **a) as stream:
                told = list(stream)
            path = f"/agent?session={stream.session}&response={stream.response}"
            assert gateway.get(path, **a).status == 200
            assert gateway.get(path, **b).problem(404)["type"].endswith("no-such-response")
            with post(gateway, name, **b) as own:
                assert as_sent(own) == EVENTS and own.response == stream.response
            assert [id for _, id, _ in own.events] != [id for _, id, _ in told]
    assert len(backend.requests) == 4


# AG-UI


class Agents:
    """pydantic-ai's agent with a tool, over AG-UI; its model says the second word of its answer once it is let."""

    def __init__(self):
        self.go, self.runs = threading.Event(), 0
        agent = Agent(FunctionModel(stream_function=self.said))

        @agent.tool_plain
        def add(a: int, b: int) -> int:
            return a + b

        async def run(request):
            self.runs += 1
            return await AGUIAdapter.dispatch_request(request, agent=agent)

        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route("/run", run, methods=["POST"])]), log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started, 20, "the agent listens")

    async def said(self, messages, info):
        if len(messages) == 1:
            yield {0: DeltaToolCall(name="add", json_args='{"a": 1, ', tool_call_id="call_1")}
            yield {0: DeltaToolCall(json_args='"b": 2}')}
            return
        yield "The sum "
        while not self.go.is_set():
            await asyncio.sleep(0.01)
        yield "is "
        yield "3: é🎻"

    def kill(self):
        self.go.set()
        self.server.should_exit = True
        self.thread.join(20)


def asked(thread):
    message = {"id": "m1", "role": "user", "content": "1 and 2?"}
    return json.dumps({"threadId": thread, "runId": "run-1", "state": {}, "messages": [message], "tools": [], "context": [], "forwardedProps": {}})


def test_an_agent_of_ag_ui_goes_on_after_each_lost_connection(tmp_path, redis, session):
    events = pydantic.TypeAdapter(Event)
    agents = Agents()
    try:
        with relayed(agents.port, tmp_path, redis) as relays:
            place, told = 0, None
            while told is None or place < len(told):
                agents.go.clear()
                name, node = f"{session}-{place}", place % 2
                with post(relays[node], name, body=asked(name)) as stream:
                    while len(stream.events) < place:
                        event = json.loads(next(stream)[2])
                        if event["type"] == "TEXT_MESSAGE_CONTENT":
                            agents.go.set()
                agents.go.set()
                with resumed(relays[1 - node], stream, stream.last) as rest:
                    list(rest)
                told = [json.loads(data) for _, _, data in stream.events + rest.events]
                for event in told:
                    events.validate_python(event)
                types = [event["type"] for event in told]
                assert types[0] == "RUN_STARTED" and types[-1] == "RUN_FINISHED" and types.count("RUN_STARTED") == 1, place
                assert told[0]["threadId"] == name
                assert "".join(event["delta"] for event in told if event["type"] == "TEXT_MESSAGE_CONTENT") == "The sum is 3: é🎻"
                assert json.loads("".join(event["delta"] for event in told if event["type"] == "TOOL_CALL_ARGS")) == {"a": 1, "b": 2}
                assert [event["content"] for event in told if event["type"] == "TOOL_CALL_RESULT"] == ["3"]
                assert whole(relays[node], stream) == stream.events + rest.events
                place += 1
            assert agents.runs == place > 8
            # What the agent itself refuses is its own word.
            assert relays[0].request("POST", "/agent", "{}", {"Content-Type": "application/json"}).status == 422
    finally:
        agents.kill()
