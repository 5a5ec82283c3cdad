"""Section 6: server-sent events, in both formats, without our client."""

import json

import pytest
from support.checker import offset
from support.event_stream import EventStream


@pytest.fixture
def listen(gateway):
    streams = []

    def new(session, node=None, **options):
        streams.append(EventStream(node or gateway, session, **options))
        return streams[-1]

    yield new
    for stream in streams:
        stream.close()


def test_the_frames_are_those_of_the_websocket(redis, session, listen):
    redis.add(session, event="start", response="r")
    redis.add_tokens(session, [f"w{n} 🙂\n" for n in range(100)], "r")
    stream = listen(session).until_live()
    stream.until_at(redis.add(session, data="line\r\nbreaks\rof\nall kinds", k="v"))
    stream.judge(redis.stream(session))
    assert all(event["event"] == "message" for event in stream.events)


def test_its_headers(session, listen):
    stream = listen(session)
    assert stream.status == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["cache-control"] == "no-store, no-transform"
    assert stream.headers["x-accel-buffering"] == "no"


def test_retry_is_sent_first(session, listen):
    assert listen(session).until_live().retries


def test_every_id_is_the_devices_offset(redis, session, listen):
    redis.add_tokens(session, ["a", "b"], "r")
    stream = listen(session, rollup="off").until_live()
    ids = [offset(entry) for entry in redis.stream(session)]
    assert [(frame.get("type"), event["id"]) for frame, event in zip(stream.frames, stream.events)] == [
        ("attached", "0"), (None, ids[0]), (None, ids[1]), ("live", ids[1])]  # fmt: skip


def test_last_event_id_resumes(redis, gateway2, session, listen):
    redis.add_tokens(session, [f"w{n} " for n in range(10)], "r")
    first = listen(session, rollup="off").until_live()
    at = first.events[4]["id"]
    again = listen(session, node=gateway2, last_event_id=at).until_live()
    assert again.view.resets == [] and again.view.base == at
    again.judge(redis.stream(session))


def test_the_header_wins_over_the_query(redis, session, listen):
    redis.add_tokens(session, ["a", "b", "c"], "r")
    ids = [offset(entry) for entry in redis.stream(session)]
    stream = listen(session, last_event_id=ids[1], offset=ids[0]).until_live()
    assert stream.view.base == ids[1] and stream.view.resets == []


def test_the_query_resumes_too(redis, session, listen):
    redis.add_tokens(session, ["a", "b", "c"], "r")
    at = offset(redis.stream(session)[0])
    stream = listen(session, offset=at).until_live()
    assert stream.view.text == "bc" and stream.view.resets == []


def test_a_broken_place_is_a_reset(redis, session, listen):
    redis.add_tokens(session, ["a", "b", "c"], "r")
    stream = listen(session, last_event_id="1-0.00000000").until_live()
    assert stream.view.resets == ["trimmed"]
    stream.judge(redis.stream(session))


def test_a_deletion_is_told(redis, session, listen):
    redis.add_tokens(session, ["a", "b", "c"], "r")
    stream = listen(session).until_live()
    redis.client.delete(f"baton:{{{session}}}")
    stream.until(lambda stream: stream.view.resets, what="a reset")
    stream.until(lambda stream: stream.last_id == "0", what="the id of the reset")
    stream.until_at(redis.add(session, data="new"))
    stream.judge(redis.stream(session))


def test_a_giant_is_skipped_and_its_id_resumes(redis, session, listen):
    redis.add(session, data="a")
    redis.add(session, data="x" * 1_000_000)
    at = listen(session).until_live().last_id
    id = redis.add(session, data="b")
    stream = listen(session, last_event_id=at).until_at(id)
    assert stream.view.resets == [] and stream.view.text == "b"


def test_until_end_ends_and_then_is_204(redis, session, listen):
    redis.add_tokens(session, ["a", "b"], "r")
    stream = listen(session, until="end").until_live()
    redis.add(session, event="end", response="r")
    stream.until_ended()
    stream.judge(redis.stream(session))
    assert listen(session, until="end", last_event_id=stream.last_id).status == 204


@pytest.mark.parametrize("query", ["offset=x", "last=0", "offset=0&last=2", "rollup=x", "format=xml"])
def test_a_wrong_parameter_is_400(gateway, session, query):
    answer = gateway.get(f"/v1/sessions/{session}?{query}", Accept="text/event-stream")
    answer.problem(400)


def test_a_wrong_last_event_id_is_400(gateway, session):
    gateway.request("GET", f"/v1/sessions/{session}", headers={"Accept": "text/event-stream", "Last-Event-ID": "x"}).problem(400)


def test_a_drained_stream_ends_with_a_retry(redis, new_gateway, session, listen):
    gateway = new_gateway(redis.url, "gw-sse", "--drain-delay", "0s", "--drain-time", "0s")
    stream = listen(session, node=gateway).until_live()
    redis.add(session, data="x")
    stream.until_at(redis.stream(session)[-1][0])
    gateway.terminate()
    stream.until_ended()
    assert len(stream.retries) == 2
    assert any(frame.get("type") == "draining" for frame in stream.frames)
    assert gateway.process.wait(30) == 0


def test_websocket_and_event_stream_see_the_same(redis, gateway, session, listen, attach):
    stream, device = listen(session).until_live(), attach(gateway, session).until_live()
    ids = redis.add_tokens(session, [f"w{n} " for n in range(500)], "r")
    stream.until_at(ids[-1])
    device.until_at(ids[-1])
    for one in (stream, device):
        one.judge(redis.stream(session))
        assert one.view.text == "".join(f"w{n} " for n in range(500))


def test_plain_text_carries_events_and_data(redis, session, listen):
    redis.add(session, event="start", response="r")
    redis.add_tokens(session, ["one\ntwo", "three"], "r")
    redis.add(session, event="error", response="r", data="{\"reason\":\"x\"}")
    last = redis.add(session, event="end", response="r", data="done")
    stream = listen(session, format="text", rollup="off").until_at(last)
    seen = [(event["event"], event["data"]) for event in stream.events]
    assert seen == [("token", "one\ntwo"), ("token", "three"), ("response-error", "{\"reason\":\"x\"}"), ("end", "done")] or \
        seen == [("start", ""), ("token", "one\ntwo"), ("token", "three"), ("response-error", "{\"reason\":\"x\"}"), ("end", "done")]


def test_plain_texts_ids_resume(redis, session, listen):
    redis.add_tokens(session, ["a", "b", "c"], "r")
    first = listen(session, format="text", rollup="off").until(lambda stream: len(stream.events) == 3 and stream, what="three")
    stream = listen(session, format="text", rollup="off", last_event_id=first.events[0]["id"])
    stream.until(lambda stream: len(stream.events) == 2, what="two")
    assert [event["data"] for event in stream.events] == ["b", "c"]


def test_plain_text_shows_a_reset_and_nothing_else_of_control(redis, session, listen):
    redis.add_tokens(session, ["a"], "r")
    stream = listen(session, format="text", last_event_id="1-0.00000000")
    stream.until(lambda stream: len(stream.events) == 2, what="reset and entry")
    assert stream.events[0]["event"] == "baton.reset" and json.loads(stream.events[0]["data"])["reason"] == "trimmed"
    assert (stream.events[1]["event"], stream.events[1]["data"]) == ("token", "a")


def test_plain_text_has_base64_for_binary_data(redis, session, listen):
    redis.add(session, data=b"\xff\x00")
    stream = listen(session, format="text").until(lambda stream: stream.events and stream, what="an event")
    assert stream.events[0]["data"] == "/wA="


def test_what_has_no_visible_form_is_a_bare_id(redis, session, listen):
    redis.add(session, data="a")
    big = redis.add(session, data="x" * 1_000_000)
    stream = listen(session, format="text").until_at(big)
    assert [event["data"] for event in stream.events] == ["a"]
