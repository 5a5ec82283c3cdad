"""OpenAI's Responses before a model server that knows Chat Completions only."""

import json
import threading

import openai
import pytest
from test_relay import EVENT, Upstream, ask, client, read, relayed

WORDS = ["Baton ", "passes ", "the ", "token ", "on", ': "é🎻"\n']
USAGE = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13, "completion_tokens_details": {"reasoning_tokens": 2}}


def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'c', 'object': 'chat.completion.chunk', 'created': 7, 'model': 'm', 'choices': [choice], **more})}\n\n"


def call(index, arguments, **more):
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}, **more}]}


DONE = "data: [DONE]\n\n"
TEXT = [
    chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in WORDS), chunk({}, "stop"),
    f"data: {json.dumps({'id': 'c', 'choices': [], 'usage': USAGE})}\n\n", DONE,
]  # fmt: skip
TOOLS = [
    chunk({"reasoning_content": "hm, "}), chunk({"reasoning_content": "two sums"}), chunk({"content": "I add."}),
    chunk(call(0, "", id="call_a", name="add")), chunk(call(0, '{"a":')), chunk(call(1, "", id="call_b", name="sub")),
    chunk(call(1, '{"b":2}')), chunk(call(0, "1}")), chunk({}, "tool_calls"), DONE,
]  # fmt: skip


class ChatOnly(Upstream):
    """It has no /v1/responses; with `is_strict` it knows no stream_options either."""

    is_strict, fails = False, None

    def answer(self, handler, number):
        body = self.requests[-1][2]
        if not handler.path.endswith("/chat/completions"):
            return handler.whole(404, '{"detail":"Not Found"}', Content_Type="application/json")
        if self.fails:
            return handler.whole(*self.fails, Content_Type="application/json")
        if self.is_strict and "stream_options" in body:
            return handler.whole(422, '{"detail":[{"loc":["body","stream_options"],"msg":"extra"}]}', Content_Type="application/json")
        super().answer(handler, number)


@pytest.fixture(scope="module")
def upstream():
    return ChatOnly(TEXT)


@pytest.fixture(scope="module")
def relays(upstream, tmp_path_factory, redis):
    with relayed(upstream, tmp_path_factory.mktemp("relay"), redis) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
def afresh(upstream):
    upstream.events, upstream.paced, upstream.go = TEXT, False, threading.Semaphore(0)
    upstream.is_strict, upstream.fails = False, None
    upstream.requests.clear()
    upstream.gone.clear()


def test_the_official_helper_streams(relays, upstream, session):
    with client(relays[0]).responses.stream(model="m", input="hi", instructions="Be short.", extra_headers={"Baton-Session": session}) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "".join(WORDS) and final.status == "completed"
    assert (final.usage.input_tokens, final.usage.output_tokens, final.usage.total_tokens) == (7, 6, 13)
    assert final.usage.output_tokens_details.reasoning_tokens == 2
    assert types[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    body = upstream.requests[-1][2]
    assert body["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}]
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True} and "input" not in body


@pytest.mark.parametrize("events", [TEXT, TOOLS], ids=["text", "tools"])
def test_every_event_is_one_of_openais_and_resumes_after_each_on_any_node(relays, upstream, session, events):
    upstream.events = events
    with ask(relays[0], session) as stream:
        id = next(iter(stream)).response.id
    whole = read(relays[1], id)
    numbers = [one["sequence_number"] for one in whole]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    for one in whole:
        EVENT.validate_python(one, strict=False)
    for place, number in enumerate([None, *numbers]):
        assert read(relays[place % 2], id, number) == whole[place:]


def test_reasoning_text_and_calls_are_items(relays, upstream, session):
    upstream.events = TOOLS
    with client(relays[0]).responses.stream(model="m", input="hi", extra_headers={"Baton-Session": session}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    reasoning, message, first, second = final.output
    assert reasoning.content[0].text == "hm, two sums" and message.content[0].text == "I add."
    assert (first.call_id, first.name, first.arguments) == ("call_a", "add", '{"a":1}')
    assert (second.call_id, second.name, second.arguments) == ("call_b", "sub", '{"b":2}')
    again = client(relays[1]).responses.retrieve(final.id).output
    assert [item.id for item in again] == [item.id for item in final.output] and again[3].arguments == '{"b":2}'


@pytest.mark.parametrize("finish, status, reason", [("length", "incomplete", "max_output_tokens"), ("content_filter", "incomplete", "content_filter")])
def test_an_answer_that_was_cut_short_is_incomplete(relays, upstream, session, finish, status, reason):
    upstream.events = [chunk({"content": "a"}), chunk({}, finish), DONE]
    answer = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    assert (answer.status, answer.incomplete_details.reason, answer.output_text) == (status, reason, "a")


@pytest.mark.parametrize("events", [TEXT[:4], [*TEXT[:4], 'data: {"error":{"message":"out of memory"}}\n\n']], ids=["cut", "error"])
def test_an_answer_that_breaks_off_is_failed(relays, upstream, session, events):
    upstream.events = events
    with ask(relays[0], session) as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed" and last.response.error.code == "server_error"
    assert client(relays[1]).responses.retrieve(last.response.id).output[0].content[0].text == "".join(WORDS[:3])


def test_an_end_without_a_mark_is_an_end(relays, upstream, session):
    upstream.events = [chunk({"content": "a"}), chunk({}, "stop")]
    answer = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    assert (answer.status, answer.output_text) == ("completed", "a")


def test_a_server_that_knows_no_usage(relays, upstream, session):
    upstream.is_strict = True
    answer = client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    assert answer.output_text == "".join(WORDS) and "stream_options" not in upstream.requests[-1][2]


def test_what_the_model_refuses_is_passed_on(relays, upstream, session, redis):
    upstream.fails = 400, '{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":"context_length_exceeded"}}'
    with pytest.raises(openai.BadRequestError, match="too long"):
        ask(relays[0], session)
    upstream.fails = 404, '{"error":{"message":"no such model"}}'
    with pytest.raises(openai.NotFoundError):
        ask(relays[0], session)
    assert not redis.stream(session)


def test_a_cancel_closes_the_models_request(relays, upstream, session):
    upstream.paced = True
    with ask(relays[0], session) as stream:
        upstream.go.release(3)
        seen = [next(stream) for _ in range(5)]
        assert client(relays[1]).responses.cancel(seen[0].response.id).status == "cancelled"
        assert upstream.gone.wait(20) and list(stream)[-1].response.status == "cancelled"


def test_a_conversation_is_messages(relays, upstream, session):
    client(relays[0]).responses.create(
        model="m", max_output_tokens=50, temperature=0.5, extra_headers={"Baton-Session": session},
        input=[
            {"role": "developer", "content": "Add."},
            {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}, {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}]},
            {"type": "reasoning", "id": "rs", "summary": []},
            {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "I ", "annotations": []}, {"type": "output_text", "text": "add.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":1}'},
            {"type": "function_call", "call_id": "c2", "name": "add", "arguments": '{"a":2}'},
            {"type": "function_call_output", "call_id": "c1", "output": "2"},
        ],
        tools=[{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}],
        tool_choice={"type": "function", "name": "add"},
        text={"format": {"type": "json_schema", "name": "sum", "schema": {"type": "object"}}},
        reasoning={"effort": "low"}, extra_body={"top_k": 5},
    )  # fmt: skip
    body = upstream.requests[-1][2]

    def called(id, arguments):
        return {"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}}

    assert body["messages"] == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": [
            {"type": "text", "text": "1+1?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}]},
        {"role": "assistant", "content": "I add.", "tool_calls": [called("c1", '{"a":1}'), called("c2", '{"a":2}')]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]  # fmt: skip
    assert body["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "sum", "schema": {"type": "object"}}}
    assert (body["max_tokens"], body["temperature"], body["top_k"], body["reasoning_effort"]) == (50, 0.5, 5, "low")


@pytest.mark.parametrize("asked, word", [
    ({"tools": [{"type": "web_search"}]}, "tools"), ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
    ({"prompt": {"id": "p"}}, "prompt"), ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
])  # fmt: skip
def test_what_chat_completions_can_not_do_is_said(relays, upstream, asked, word):
    client(relays[0]).responses.create(model="m", input="hi")
    upstream.requests.clear()
    with pytest.raises(openai.BadRequestError, match=word):
        client(relays[0]).responses.create(**{"model": "m", "input": "hi", **asked})
    assert not upstream.requests


def test_the_answer_is_text_on_every_device(relays, session, attach):
    device = attach(relays[1], session)
    client(relays[0]).responses.create(model="m", input="hi", extra_headers={"Baton-Session": session})
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end", 20, "the end")
    assert device.view.text == "".join(WORDS)
    assert json.loads(device.entries[-1]["data"])["finish_reason"] == "stop"
