"""OpenAI's clients before a gateway that relays a model server: what they ask outlives their connections, on any node."""

import base64
import contextlib
import json
import signal
import socket
import threading
import time

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from support.process import wait_for
from support.servers import gateways
from support.tokens import SECRET, token
from test_upstreams import KEY, Server

EVENT = TypeAdapter(ResponseStreamEvent)
WORDS = ["Baton ", "passes ", "the ", "token ", "on", ": \"é🎻\"\n"]


def event(type, **members):
    return f"event: {type}\ndata: {json.dumps({'type': type, **members})}\n\n"


def sparse(words=WORDS):
    """A Responses stream as llama.cpp writes it: without numbers, indexes and most members of a response."""
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": ""}
    text = "".join(words)
    done = {**item, "status": "completed", "content": [{"type": "output_text", "text": text}]}
    usage = {"input_tokens": 3, "output_tokens": len(words)}
    return [
        event("response.created", response={"id": "up_1", "object": "response", "status": "in_progress"}),
        event("response.output_item.added", item=item),
        event("response.content_part.added", item_id="msg_1", part=part),
        *(event("response.output_text.delta", item_id="msg_1", delta=word) for word in words),
        event("response.output_text.done", item_id="msg_1", text=text),
        event("response.content_part.done", item_id="msg_1", part={**part, "text": text}),
        event("response.output_item.done", item=done),
        event("response.completed", response={"id": "up_1", "status": "completed", "output": [done], "usage": usage}),
    ]


def with_tools():
    """Reasoning, a function call, a refusal and an event that nobody knows, as OpenAI writes them."""
    think = {"id": "rs_1", "type": "reasoning", "summary": [], "content": []}
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "add", "arguments": "", "status": "in_progress"}
    return [
        event("response.created", response={"id": "up_1", "status": "in_progress"}),
        event("response.output_item.added", output_index=0, item=think),
        event("response.reasoning_text.delta", item_id="rs_1", output_index=0, content_index=0, delta="hm, "),
        event("response.reasoning_text.delta", item_id="rs_1", output_index=0, content_index=0, delta="a sum"),
        event("response.output_item.done", output_index=0, item=think),
        event("response.output_item.added", output_index=1, item=call),
        event("response.function_call_arguments.delta", item_id="fc_1", output_index=1, delta='{"a":'),
        event("response.function_call_arguments.delta", item_id="fc_1", output_index=1, delta="1}"),
        event("response.function_call_arguments.done", item_id="fc_1", output_index=1, name="add", arguments='{"a":1}'),
        event("response.output_item.done", output_index=1, item={**call, "arguments": '{"a":1}', "status": "completed"}),
        event("response.completed", response={
            "id": "up_1", "status": "completed", "output": [think, {**call, "arguments": '{"a":1}', "status": "completed"}]}),
    ]  # fmt: skip


def chunks(words=WORDS):
    def chunk(delta, finish=None, **more):
        return {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}  # fmt: skip

    return [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words), chunk({}, "stop")]


class Upstream(Server):
    """A model server; it writes `events`, and after each of them waits until `go` lets it on, where it is told to."""

    def __init__(self, events):
        self.go, self.paced, self.events = threading.Semaphore(0), False, events
        models = json.dumps({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]})
        super().__init__(self.answer, lambda handler: handler.whole(200, models, Content_Type="application/json"))

    def answer(self, handler, number):
        handler.begin()
        go, paced = self.go, self.paced
        for one in self.events:
            while paced and not go.acquire(timeout=0.05):
                handler.tell(": wait\n\n")
            handler.tell(one)


def relayed(upstream, folder, redis, *options, env=None, **more):
    return gateways(folder, redis, "relay", "--openai", f"http://127.0.0.1:{upstream.port}", *options, env={"OPENAI_API_KEY": KEY, **(env or {})}, **more)


@pytest.fixture(scope="module")
def upstream():
    return Upstream(sparse())


@pytest.fixture(scope="module")
def relays(upstream, tmp_path_factory, redis):
    with relayed(upstream, tmp_path_factory.mktemp("relay"), redis) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
def afresh(upstream):
    upstream.events, upstream.paced, upstream.go = sparse(), False, threading.Semaphore(0)
    upstream.requests.clear()
    upstream.gone.clear()


def client(gateway, token="none", **options):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=token, max_retries=0, **options)


def step(upstream, stream, count):
    """The next events, each of which is an entry of its own."""
    events = []
    for _ in range(count):
        upstream.go.release()
        events.append(next(stream))
    return events


def ask(gateway, session, headers=None):
    """A response that streams into a session."""
    return client(gateway).responses.create(model="m", input="hi", stream=True, extra_headers={"Baton-Session": session, **(headers or {})})


def events_of(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]


def read(gateway, id, after=None):
    query = "?stream=true" + ("" if after is None else f"&starting_after={after}")
    answer = gateway.get(f"/v1/responses/{id}{query}")
    assert answer.status == 200, answer.body
    return events_of(answer.body.decode())


# Responses


def test_the_official_helper_streams_from_a_server_that_leaves_most_out(relays, session):
    with client(relays[0]).responses.stream(model="m", input="hi", extra_headers={"Baton-Session": session}) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "".join(WORDS) and final.status == "completed" and final.usage.total_tokens == 3 + len(WORDS)
    assert types[0] == "response.created" and types[-1] == "response.completed" and "response.output_text.delta" in types


@pytest.mark.parametrize("events", [sparse, with_tools], ids=["text", "tools"])
def test_every_event_is_one_of_openais_and_resumes_after_each_on_any_node(relays, upstream, session, events):
    upstream.events = events()
    with ask(relays[0], session) as stream:
        id = next(iter(stream)).response.id
    assert id.startswith("resp_") and id.endswith(f"~{session}")
    whole = read(relays[1], id)
    # Deltas that came within 20 ms are one entry, with the last one's number.
    numbers = [one["sequence_number"] for one in whole]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0 and numbers[-1] == len(events()) - 1
    for one in whole:
        EVENT.validate_python(one, strict=False)
    for place, number in enumerate([None, *numbers]):
        assert read(relays[place % 2], id, number) == whole[place:]
    assert len(upstream.requests) == 1


def test_a_device_sees_the_same_answer_at_the_same_time(relays, upstream, session, attach):
    upstream.paced = True
    device = attach(relays[1], session).until_live()
    with ask(relays[0], session) as stream:
        upstream.go.release(5)
        device.until(lambda device: device.view.text == "Baton passes ", 20, "the first words")
        assert relays[0].metric("baton_relays") == 1 and relays[1].metric("baton_relays") == 0
        upstream.go.release(20)
        assert "".join(one.delta for one in stream if one.type == "response.output_text.delta") == "".join(WORDS)
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end", 20, "the end")
    assert device.view.text == "".join(WORDS)


def test_answers_on_one_connection_give_back_what_they_took(upstream, redis, session, tmp_path):
    with relayed(upstream, tmp_path, redis, "--max-devices", "2") as nodes:
        with httpx.Client(base_url=f"http://127.0.0.1:{nodes[0].port}", timeout=30) as connection:
            for number in range(6):
                headers = {"Baton-Session": f"{session}-{number}"}
                asked = connection.post("/v1/responses", json={"model": "m", "input": "hi"}, headers=headers)
                assert asked.status_code == 200, asked.text
                for _ in range(3):
                    answer = connection.get(f"/v1/responses/{asked.json()['id']}?stream=true")
                    assert answer.status_code == 200 and events_of(answer.text)[-1]["type"] == "response.completed"


def test_who_goes_away_ends_nothing_and_comes_back_on_another_node(relays, upstream, session):
    upstream.paced = True
    with ask(relays[0], session) as stream:
        upstream.go.release(4)
        seen = [next(stream) for _ in range(4)]
    upstream.go.release(20)
    rest = read(relays[1], seen[0].response.id, seen[-1].sequence_number)
    assert rest[-1]["type"] == "response.completed" and not upstream.gone.is_set()
    deltas = [one.delta for one in seen if one.type == "response.output_text.delta"]
    assert "".join(deltas + [one["delta"] for one in rest if one["type"] == "response.output_text.delta"]) == "".join(WORDS)


def test_who_says_so_ends_the_answer_by_going_away(relays, upstream, session):
    upstream.paced = True
    with ask(relays[0], session, {"Baton-Detach": "off"}) as stream:
        upstream.go.release(4)
        for _ in range(4):
            next(stream)
    upstream.go.release(1)  # something is written, and does not arrive
    assert upstream.gone.wait(20), "the model's request is closed"


def test_a_cancel_from_any_node_closes_the_models_request(relays, upstream, session, attach):
    upstream.paced = True
    device = attach(relays[0], session).until_live()
    with ask(relays[0], session) as stream:
        upstream.go.release(4)
        seen = [next(stream) for _ in range(4)]
        cancelled = client(relays[1]).responses.cancel(seen[0].response.id)
        assert upstream.gone.wait(20)
        seen += list(stream)
    assert cancelled.status == "cancelled" and seen[-1].response.status == "cancelled"
    assert cancelled.output[0].content[0].text == WORDS[0]
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "cancelled", 20, "cancelled")
    assert client(relays[1]).responses.cancel(seen[0].response.id).status == "cancelled"
    assert client(relays[1]).responses.retrieve(seen[0].response.id).status == "cancelled"


def test_a_cancel_from_a_device_is_a_cancel(relays, upstream, session, attach):
    upstream.paced = True
    device = attach(relays[1], session).until_live()
    with ask(relays[0], session) as stream:
        upstream.go.release(1)
        name = next(iter(stream)).response.id.split("~")[0]
        device.send({"type": "cancel", "key": "k", "response": name})
        assert upstream.gone.wait(20)
        assert list(stream)[-1].response.status == "cancelled"


def test_in_the_background(relays, upstream):
    upstream.paced = True
    queued = client(relays[0]).responses.create(model="m", input="hi", background=True)
    assert queued.status == "queued" and queued.id.startswith("resp_") and "~" not in queued.id
    upstream.go.release(5)
    running = wait_for(lambda: (now := client(relays[1]).responses.retrieve(queued.id)).output and now, 20, "it runs")
    assert running.status == "in_progress"
    upstream.go.release(20)
    done = wait_for(lambda: (now := client(relays[1]).responses.retrieve(queued.id)).status == "completed" and now, 20, "it is done")
    assert done.output_text == "".join(WORDS) and done.id == queued.id
    client(relays[0]).responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError):
        client(relays[1]).responses.retrieve(queued.id)


def test_at_once(relays, session):
    answer = client(relays[0]).responses.create(model="m", input="hi", metadata={"baton_session": session})
    assert answer.output_text == "".join(WORDS) and answer.id.endswith(f"~{session}")


def test_the_same_key_costs_one_generation(relays, upstream, session):
    upstream.paced = True
    texts = []

    def once(gateway):
        with ask(gateway, session, {"Idempotency-Key": "once"}) as stream:
            texts.append([one.model_dump() for one in stream])

    threads = [threading.Thread(target=once, args=(relays[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    upstream.go.release(40)
    for thread in threads:
        thread.join(60)
    assert len(texts) == 4 and all(text == texts[0] for text in texts) and len(upstream.requests) == 1
    second = int(time.time())
    wait_for(lambda: int(time.time()) > second, 5, "another second")
    once(relays[1])
    assert texts[-1] == texts[0] and len(upstream.requests) == 1
    with pytest.raises(openai.ConflictError):
        client(relays[0]).responses.create(
            model="m", input="another", extra_headers={"Baton-Session": session, "Idempotency-Key": "once"})  # fmt: skip


def test_a_large_event_comes_whole(relays, upstream, session):
    large = "é🎻" * 150_000
    upstream.events = sparse()[:1] + [event("response.unknown.thing", data=large)] + sparse()[-1:]
    with ask(relays[0], session) as stream:
        id = next(iter(stream)).response.id
    whole = read(relays[1], id)
    assert whole[1]["data"] == large
    numbers = [one["sequence_number"] for one in whole]
    assert numbers == sorted(set(numbers))
    for place, number in enumerate(numbers):
        assert read(relays[0], id, number) == whole[place + 1 :]


@pytest.mark.parametrize("size", [131_071, 131_072, 131_073, 200_000, 262_145])
def test_numbers_are_the_entries_whatever_their_size(relays, upstream, session, redis, size):
    """Of a long delta and of long events, at the sizes at which they are cut."""
    text = "x" * size
    upstream.events = sparse([text])
    with ask(relays[0], session) as stream:
        seen = [one.model_dump() for one in stream]
    last = {int(dict(pairs)[b"n"]) for _, pairs in redis.stream(session) if b"n" in dict(pairs) and b"more" not in dict(pairs)}
    assert {one["sequence_number"] + 1 for one in seen} == last
    assert "".join(one["delta"] for one in seen if one["type"] == "response.output_text.delta") == text
    whole = read(relays[1], f"{seen[0]['response']['id']}")
    assert [one["sequence_number"] for one in whole] == [one["sequence_number"] for one in seen]


# What goes wrong


def test_what_the_model_refuses_is_passed_on_and_nothing_is_written(relays, upstream, session, redis):
    for status, kind in [(429, openai.RateLimitError), (400, openai.BadRequestError), (500, openai.InternalServerError)]:
        body = json.dumps({"error": {"message": "too many", "type": "t", "param": None, "code": "c"}})
        with refusing(upstream, status, body), pytest.raises(kind) as refused:
            ask(relays[0], session)
        assert refused.value.body["message"] == "too many" and refused.value.response.headers["retry-after"] == "7"
    assert redis.stream(session) == []


@contextlib.contextmanager
def refusing(upstream, status, body):
    events, upstream.events = upstream.events, []
    begin = upstream.server.RequestHandlerClass.begin
    tell = upstream.server.RequestHandlerClass.tell
    upstream.server.RequestHandlerClass.begin = lambda handler, **_: handler.whole(
        status, body, Content_Type="application/json", Retry_After="7")
    upstream.server.RequestHandlerClass.tell = lambda handler, *_: None
    try:
        yield
    finally:
        upstream.events = events
        upstream.server.RequestHandlerClass.begin, upstream.server.RequestHandlerClass.tell = begin, tell


def test_a_refused_key_may_be_tried_again(relays, upstream, session):
    headers = {"Baton-Session": session, "Idempotency-Key": "again"}
    with refusing(upstream, 503, "{}"), pytest.raises(openai.InternalServerError):
        client(relays[0]).responses.create(model="m", input="hi", extra_headers=headers)
    assert client(relays[1]).responses.create(model="m", input="hi", extra_headers=headers).output_text == "".join(WORDS)


def test_an_answer_that_breaks_off_is_failed(relays, upstream, session, redis):
    upstream.events = sparse()[:5]
    with ask(relays[0], session) as stream:
        events = list(stream)
    assert events[-1].type == "response.failed" and events[-1].response.error.code == "server_error"
    last = dict(redis.stream(session)[-1][1])
    assert last[b"event"] == b"error" and json.loads(last[b"data"])["reason"] == "upstream_cut"
    assert client(relays[1]).responses.retrieve(events[0].response.id).status == "failed"


def test_a_killed_relay_is_failed_on_the_other_node(upstream, tmp_path, redis, session):
    upstream.paced = True
    with relayed(upstream, tmp_path, redis) as gateways:
        with ask(gateways[0], session) as stream:
            id = step(upstream, stream, 5)[0].response.id
            gateways[0].kill()
        events = read(gateways[1], id, 2)
        assert events[-1]["type"] == "response.failed" and events[-1]["sequence_number"] == 5
        assert [one["delta"] for one in events[:-1]] == WORDS[:2]
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(WORDS[:2])


def test_a_draining_relay_says_so(upstream, tmp_path, redis, session):
    upstream.paced = True
    with relayed(upstream, tmp_path, redis, "--drain-delay", "0s", "--drain-time", "1s", count=1) as (gateway,):
        with ask(gateway, session) as stream:
            upstream.go.release(1)
            next(iter(stream))
            gateway.process.signal(signal.SIGTERM)
            assert gateway.process.wait(60) == 0
    last = dict(redis.stream(session)[-1][1])
    assert last[b"event"] == b"error" and json.loads(last[b"data"])["reason"] == "relay_drained"


@pytest.mark.parametrize("path, status", [
    ("responses/resp_000000000000000000000000~nobody", 404), ("responses/abc", 404), ("responses/resp_0~x", 404), ("responses/r1~nobody", 404),
    ("responses/r1~nobody?stream=true", 404), ("responses/%20~x", 404), ("responses/~x", 404),
])  # fmt: skip
def test_an_unknown_response_is_a_404_in_openais_words(relays, path, status):
    answer = relays[0].get(f"/v1/{path}")
    assert answer.status == status and set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_what_is_wrong_is_said_in_openais_words(relays, session):
    ask = client(relays[0]).responses.create
    id = ask(model="m", input="hi", extra_headers={"Baton-Session": session}).id
    with pytest.raises(openai.BadRequestError, match="starting_after"):
        client(relays[0]).responses.retrieve(id, stream=True, starting_after="x")
    with pytest.raises(openai.BadRequestError, match="session"):
        ask(model="m", input="hi", extra_headers={"Baton-Session": "a b"})
    with pytest.raises(openai.ConflictError, match="session"):
        client(relays[0]).responses.delete(id)


# What goes on from what


def test_a_response_goes_on_from_another(relays, upstream, session):
    first = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    second = client(relays[1]).responses.create(model="m", input="and?", previous_response_id=first.id)
    # The model server knows it by its own id, and clients by ours; the session is the same.
    assert upstream.requests[-1][2]["previous_response_id"] == "up_1"
    assert second.previous_response_id == first.id and second.id.endswith(f"~{session}")
    assert client(relays[0]).responses.retrieve(second.id).previous_response_id == first.id
    with client(relays[0]).responses.stream(model="m", input="so?", previous_response_id=second.id) as stream:
        events = [event.to_dict() for event in stream]
    assert {event["response"]["previous_response_id"] for event in events if "response" in event} == {second.id}
    for device in (relays[0].get(f"/v1/sessions/{session}?limit=1000").body, json.dumps(read(relays[1], second.id)).encode()):
        assert b"up_1" not in device


def test_a_conversation_that_names_no_session_has_one(relays, upstream):
    first = client(relays[0]).responses.create(model="m", input="hi")
    second = client(relays[1]).responses.create(model="m", input="and?", previous_response_id=first.id)
    third = client(relays[0]).responses.create(model="m", input="so?", previous_response_id=second.id)
    assert second.id.endswith(f"~{first.id}") and third.id.endswith(f"~{first.id}") and third.previous_response_id == second.id
    # It is not the first one's alone any more.
    with pytest.raises(openai.ConflictError):
        client(relays[0]).responses.delete(first.id)


def test_in_mid_answer_and_after_a_cancel_there_is_something_to_go_on_from(relays, upstream, session):
    upstream.paced = True
    with ask(relays[0], session) as stream:
        id = step(upstream, stream, 5)[0].response.id
        assert client(relays[1]).responses.cancel(id).status == "cancelled"
    upstream.paced = False
    assert client(relays[1]).responses.create(model="m", input="and?", previous_response_id=id).status == "completed"
    assert upstream.requests[-1][2]["previous_response_id"] == "up_1"


def test_nothing_is_told_of_what_one_may_not_go_on_from(relays, upstream, session):
    id = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session}).id
    asked, told = len(upstream.requests), set()
    name = id.split("~")[0]
    for previous, headers in [
        (f"resp_{'0' * 24}~{session}", {}), (name, {}), (f"{name}~another", {}), ("resp_1", {}), ("up_1", {}),
        (id, {"Baton-Session": f"{session}-other"}),
    ]:  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            client(relays[1]).responses.create(model="m", input="and?", previous_response_id=previous, extra_headers=headers)
        body = refused.value.body
        assert (body["code"], body["param"], body["type"]) == ("previous_response_not_found", "previous_response_id", "invalid_request_error")
        told.add(body["message"].replace(previous, "ID"))
    assert told == {"Previous response with id 'ID' not found."} and len(upstream.requests) == asked


def test_of_another_session_nothing_is_gone_on_from_whatever_its_name(relays, upstream, redis, session):
    id = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session}).id
    for name in redis.client.keys(f"baton:{{{session}}}*"):
        assert redis.client.copy(name, name.replace(session.encode(), f"{session}-copy".encode()))
    copied = f"{id}-copy"
    assert client(relays[1]).responses.create(model="m", input="and?", previous_response_id=copied).previous_response_id == copied
    asked = len(upstream.requests)
    with pytest.raises(openai.BadRequestError, match="not found"):
        client(relays[1]).responses.create(
            model="m", input="and?", previous_response_id=id, extra_headers={"Baton-Session": f"{session}-copy"})  # fmt: skip
    assert len(upstream.requests) == asked


def test_what_the_model_says_of_it_names_our_id(relays, upstream, session):
    id = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session}).id
    body = json.dumps({"error": {"message": "Previous response with id 'up_1' not found.", "type": "t", "param": "p", "code": "c"}})
    with refusing(upstream, 400, body), pytest.raises(openai.BadRequestError) as refused:
        client(relays[1]).responses.create(model="m", input="and?", previous_response_id=id)
    assert refused.value.body["message"] == f"Previous response with id '{id}' not found."


def test_where_the_model_keeps_nothing_it_is_said(relays, upstream, session, monkeypatch):
    monkeypatch.setattr(upstream.server.RequestHandlerClass, "server_version", "llama.cpp")
    monkeypatch.setattr(upstream.server.RequestHandlerClass, "sys_version", "")
    monkeypatch.setattr(upstream.server.RequestHandlerClass, "do_DELETE", lambda handler: handler.whole(204), raising=False)
    id = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session}).id
    asked = len(upstream.requests)
    for ask in (
        lambda: client(relays[1]).responses.create(model="m", input="and?", previous_response_id=id),
        lambda: client(relays[1]).chat.completions.create(
            model="m", stream=True, messages=[{"role": "user", "content": "x"}], extra_body={"previous_response_id": id}),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match="keeps no responses") as refused:
            ask()
        assert refused.value.body["param"] == "previous_response_id"
    assert len(upstream.requests) == asked


def test_the_models_key_is_the_gateways(relays, upstream):
    client(relays[0], token="a-callers-own").responses.create(model="m", input="hi")
    _, headers, body = upstream.requests[-1]
    assert headers["authorization"] == f"Bearer {KEY}" and "a-callers-own" not in json.dumps(headers)
    assert body["stream"] is True and "background" not in body and "store" not in body
    assert KEY not in relays[0].process.logged() and "a-callers-own" not in relays[0].process.logged()


# Chat completions


def test_chunks_are_relayed_as_they_are(relays, upstream, session, attach):
    upstream.events = [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks()), "data: [DONE]\n\n"]
    device = attach(relays[1], session).until_live()
    headers = {"Baton-Session": session, "Idempotency-Key": "chat"}
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    answers = [httpx.post(f"http://127.0.0.1:{gateway.port}/v1/chat/completions", json=body, headers=headers) for gateway in relays]
    for answer in answers:
        # Deltas that came within 20 ms are one chunk.
        got = events_of(answer.text)
        assert (got[0], got[-1]) == (chunks()[0], chunks()[-1]) and answer.text.endswith("data: [DONE]\n\n")
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got) == "".join(WORDS)
        assert [{**chunk, "choices": None} for chunk in got] == [{**chunks()[1], "choices": None}] * len(got)
        assert answer.headers["baton-session"] == session and answer.headers["baton-response"].startswith("resp_")
    assert len(upstream.requests) == 1
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end", 20, "the end")
    assert device.view.text == "".join(WORDS)
    stream = client(relays[0]).chat.completions.create(model="m", stream=True, messages=body["messages"])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "".join(WORDS)


@pytest.mark.parametrize("path", ["../admin", "%2e%2e/admin", "models/..%2f..%2fadmin", "a%zz", "a%2", "models?a=%", "m|n", "."])
def test_nothing_beside_the_models_api_is_reached(relays, upstream, path):
    with socket.create_connection(("127.0.0.1", relays[0].port), 20) as raw:
        raw.sendall(f"GET /v1/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 4") and upstream.requests == [] and relays[0].process.alive


# What others write


def bare(gateway, redis, session, end):
    for word in WORDS:
        redis.add(session, response="r1", data=word)
    redis.add(session, event=end, response="r1")


def numbered(gateway, redis, session, end):
    """With reasoning beside the text, and a character in two entries."""
    text = "".join(WORDS).encode()
    cut = text.index("🎻".encode()) + 2
    lines = [
        {"event": "start", "data": '{"model":"m7"}'}, {"n": 1, "part": "reasoning:a", "data": "hm"}, {"n": 2, "data": text[:20].decode()},
        {"n": 3, "data64": base64.b64encode(text[20:cut]).decode()}, {"n": 4, "data64": base64.b64encode(text[cut:]).decode()}, {"event": end},
    ]  # fmt: skip
    body = "\n".join(json.dumps({"response": "r1", **line}) for line in lines)
    answer = gateway.request("POST", f"/v1/sessions/{session}?epoch=1", body, {"Content-Type": "application/x-ndjson"})
    assert answer.status == 201, answer.body


@pytest.mark.parametrize("write", [bare, numbered])
@pytest.mark.parametrize("end, last, status", [("end", "completed", "completed"), ("error", "failed", "failed"), ("cancelled", "incomplete", "cancelled")])
def test_what_others_write_is_a_message(relays, upstream, redis, session, write, end, last, status):
    write(relays[0], redis, session, end)
    id, text = f"r1~{session}", "".join(WORDS)
    whole = read(relays[1], id)
    numbers = [one["sequence_number"] for one in whole]
    assert numbers == sorted(set(numbers)) and numbers[:4] == [0, 1, 2, 3] and whole[-1]["type"] == f"response.{last}"
    for one in whole:
        EVENT.validate_python(one, strict=False)
    for place, number in enumerate([None, *numbers]):
        assert read(relays[place % 2], id, number) == whole[place:]
    assert "".join(one["delta"] for one in whole if one["type"] == "response.output_text.delta") == text
    told = client(relays[1]).responses.retrieve(id)
    assert (told.output_text, told.status, told.model) == (text, status, "m7" if write is numbered else "")
    assert told.to_dict() == {**whole[-1]["response"], "error": told.to_dict()["error"], "output": told.to_dict()["output"]}
    if end == "end":
        with client(relays[0]).responses.stream(response_id=id) as stream:
            assert stream.get_final_response().output_text == text
    assert upstream.requests == []


def test_what_others_write_is_followed(relays, redis, session):
    redis.add(session, response="r1", n=1, data=WORDS[0])
    with client(relays[0]).responses.retrieve(f"r1~{session}", stream=True) as stream:
        assert [next(stream).type for _ in range(4)][0] == "response.created" and next(stream).delta == WORDS[0]
        assert client(relays[1]).responses.retrieve(f"r1~{session}").status == "in_progress"
        redis.add(session, response="r1", n=2, data=WORDS[1])
        assert next(stream).delta == WORDS[1]
        redis.add(session, event="end", response="r1")
        assert [one.sequence_number for one in stream] == [6, 7, 8, 9]


def test_chat_completions_are_read_as_a_message_too(relays, upstream, session):
    upstream.events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks()] + ["data: [DONE]\n\n"]
    with client(relays[0]).chat.completions.with_streaming_response.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True, extra_headers={"Baton-Session": session}
    ) as answer:
        response = answer.headers["baton-response"]
        answer.read()
    assert client(relays[1]).responses.retrieve(f"{response}~{session}").output_text == "".join(WORDS)


def test_what_does_not_stream_is_passed_through(relays, upstream):
    assert client(relays[0]).models.list().data[0].id == "m"
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}]}  # fmt: skip
    with refusing(upstream, 200, json.dumps(whole)):
        answer = client(relays[0]).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "ok"


# Who may


def test_a_stream_ends_with_its_token_and_the_answer_does_not(upstream, tmp_path, redis, session):
    (tmp_path / "secret").write_bytes(SECRET)
    upstream.paced = True
    with relayed(upstream, tmp_path, redis, "--auth-secret-file", tmp_path / "secret", count=1) as (gateway,):
        # Within the minute of leeway a token is let in, and its stream is cut with the next thing that comes.
        short = client(gateway, token=token(exp=2))
        stream = short.responses.create(model="m", input="hi", stream=True, extra_headers={"Baton-Session": session, "Baton-Detach": "off"})
        upstream.go.release()
        id = next(stream).response.id
        wait_for(lambda: expired(short.api_key), 20, "the token is over")
        upstream.go.release(3)
        with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
            list(stream)
        upstream.go.release(20)
        done = client(gateway, token=token())
        assert wait_for(lambda: done.responses.retrieve(id).status == "completed", 20, "the answer is whole")
        assert b"cancel" not in b"".join(name + value for _, pairs in redis.client.xrange(f"baton:{{{session}}}:inbox") for name, value in pairs.items())


def expired(jwt):
    claims = json.loads(base64.urlsafe_b64decode(jwt.split(".")[1] + "=="))
    return time.time() >= claims["exp"]


def test_a_token_of_batons_decides(upstream, tmp_path, redis, session):
    (tmp_path / "secret").write_bytes(SECRET)
    with relayed(upstream, tmp_path, redis, "--auth-secret-file", tmp_path / "secret", count=1) as (gateway,):
        headers = {"Baton-Session": session}

        def ask(**claims):
            return client(gateway, token=token(**claims)).responses.create(model="m", input="hi", extra_headers=headers)

        with pytest.raises(openai.AuthenticationError):
            client(gateway, token="wrong").responses.create(model="m", input="hi", extra_headers=headers)
        for claims in ({"scope": ["read"]}, {"sessions": ["another"]}):
            with pytest.raises(openai.PermissionDeniedError):
                ask(**claims)
        with pytest.raises(openai.PermissionDeniedError):
            client(gateway, token=token(sessions=[session])).responses.create(model="m", input="hi")
        assert upstream.requests == [] and redis.stream(session) == []
        id = ask(sessions=[session], scope=["publish", "read"]).id
        reader = client(gateway, token=token(sessions=[session], scope=["read"]))
        assert reader.responses.retrieve(id).output_text == "".join(WORDS)
        for deed in (reader.responses.cancel, reader.responses.delete):
            with pytest.raises(openai.PermissionDeniedError):
                deed(id)
        with pytest.raises(openai.PermissionDeniedError):
            client(gateway, token=token(sessions=["other"])).responses.retrieve(id)
        assert reader.models.list().data and client(gateway, token=token(sessions=["resp_*"])).responses.create(model="m", input="hi").id


def test_numbers_that_no_model_writes(relays, session):
    """Whoever may publish may write them; nobody who reads them is harmed."""
    response, least = "resp_0123456789abcdef01234567", -(1 << 63)
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}
    told = [{"type": "response.created", "response": {"id": response, "status": "in_progress"}},
            {"type": "response.output_item.added", "output_index": 0, "item": item}]  # fmt: skip
    for number in (-1, least, (1 << 63) - 1, 1 << 63, -1.0, 1e300, 0.5):
        told += [{"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": number, "delta": "x"},
                 {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": number, "content_index": 0, "delta": "x"},
                 {"type": "response.output_item.added", "output_index": number, "item": item},
                 {"type": "response.refusal.delta", "output_index": 0, "content_index": number, "delta": "x", "sequence_number": number}]  # fmt: skip
    lines = [{"response": response, "event": "start", "data": json.dumps({"wire": "openai"})}]
    lines += [{"response": response, "n": n, "event": "openai", "data": json.dumps({"sequence_number": n - 1, **one})} for n, one in enumerate(told, 1)]
    parts = [f"text:0.{number}.msg_1" for number in (-1, least, 1 << 63)] + ["text:-1.0.msg_1", "tool:-1.msg_1", "text:..", "text:...", "summary:0.0"]
    lines += [{"response": response, "n": len(told) + n, "part": part, "data": "x"} for n, part in enumerate(parts, 1)]
    lines.append({"response": response, "event": "end"})
    body = "".join(json.dumps(line) + "\n" for line in lines)
    written = relays[0].request("POST", f"/v1/sessions/{session}?epoch=1", body, {"Content-Type": "application/x-ndjson"})
    assert written.status == 201, written.body
    for query in ("", "?stream=true", "?stream=true&starting_after=0", f"?stream=true&starting_after={(1 << 64) - 1}"):
        for relay in relays:
            assert relay.request("GET", f"/v1/responses/{response}~{session}{query}").status == 200, query
    assert all(relay.process.alive for relay in relays)


def test_usage_that_no_int_holds(relays, upstream, session):
    upstream.events = [*sparse()[:-1], event("response.completed", response={"id": "up_1", "status": "completed", "output": [], "usage": {
        "input_tokens": (1 << 63) - 1, "output_tokens": (1 << 63) - 1}})]  # fmt: skip
    client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    assert relays[0].process.alive


@pytest.mark.parametrize("target", ["models?", "?", "?a=b", "??", "models??a", "?@other.example", "models?a=b?c", "", "/", "//other.example/x", "models;a?b", "models?%3F",
                                    "..;/admin", "x" * 8000, "models?" + "a=b&" * 1000])  # fmt: skip
def test_a_target_of_an_odd_form(relays, target):
    """Such as clients write that have no query to append."""
    status = relays[0].request("GET", f"/v1/{target}").status
    assert status == (400 if ".." in target else 200), target
    assert relays[0].request("GET", "/v1/models").status == 200
