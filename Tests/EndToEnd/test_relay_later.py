"""Relayed answers hours later, with many readers, and stopped from afar."""

import concurrent.futures
import socket
import statistics
import threading
import time

import httpx
import pytest
from support.aging import age
from support.process import wait_for
from test_ai_sdk import answer, sse
from test_relay import WORDS, Upstream, ask, client, events_of, read, relayed, sparse, with_tools
from test_relay_opaque import Stream, post


@pytest.fixture(scope="module")
def upstream():
    return Upstream(sparse())


@pytest.fixture(scope="module")
def relays(upstream, tmp_path_factory, redis):
    options = ("--ai-sdk", f"{upstream.url}/ui", "--ai-sdk-grace", "7h", "--relay", f"/agent={upstream.url}/agent")
    with relayed(upstream, tmp_path_factory.mktemp("later"), redis, *options) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
def afresh(upstream):
    upstream.events, upstream.paced, upstream.go = sparse(), False, threading.Semaphore(0)
    upstream.requests.clear()


HOURS = 6


def test_a_response_is_resumed_six_hours_later_after_each_event(relays, upstream, session, redis, attach):
    upstream.events = with_tools()
    headers = {"Idempotency-Key": "once"}
    with ask(relays[0], session, headers) as stream:
        before = [event.to_dict() for event in stream]
    id = before[0]["response"]["id"]
    device = attach(relays[0], session)
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end", 20, "all of it")
    frames = [entry for entry in device.entries if entry["event"] != "token"]
    older = age(redis, session, HOURS)
    first = redis.stream(session)[0][0]
    assert int(first.split("-")[0]) < (time.time() - HOURS * 3600 + 600) * 1000
    whole = read(relays[1], id)
    numbers = [one["sequence_number"] for one in whole]
    for place, number in enumerate(numbers):
        assert read(relays[place % 2], id, number) == whole[place + 1 :]
    assert client(relays[1]).responses.retrieve(id).output[1].arguments == '{"a":1}'
    official = client(relays[0]).responses.retrieve(id, stream=True, starting_after=numbers[3])
    assert [event.sequence_number for event in official] == numbers[4:]
    # The same key is still the same answer, and a device goes on after any entry, by its offset with its check.
    with ask(relays[1], session, headers) as stream:
        assert [event.to_dict() for event in stream] == whole
    assert len(upstream.requests) == 1
    for place, frame in enumerate(frames[:-1]):
        place_then, check = frame["id"].split(".")
        again = attach(relays[place % 2], session, offset=f"{older[place_then]}.{check}").until_live()
        assert not again.resets and again.entries[-1]["event"] == "end"
        assert [entry["event"] for entry in again.entries if entry["event"] != "token"] == [entry["event"] for entry in frames[place + 1 :]]


def test_other_wires_six_hours_later(relays, upstream, session, redis):
    upstream.events = sse(*answer())
    question = {"id": session, "trigger": "submit-message", "messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]}
    told = httpx.post(f"{relays[0].url}/v1/ai-sdk", json=question, timeout=60).text
    age(redis, session, HOURS)
    assert httpx.get(f"{relays[1].url}/v1/ai-sdk/{session}/stream", timeout=60).text.endswith("data: [DONE]\n\n")
    assert httpx.post(f"{relays[1].url}/v1/ai-sdk", json=question, timeout=60).text == told and len(upstream.requests) == 1

    other = f"{session}-agent"
    upstream.events = [f"id: {number}\ndata: {word}\n\n" for number, word in enumerate(WORDS[:4])]
    with post(relays[0], other) as stream, pytest.raises((httpx.RemoteProtocolError, StopIteration)):
        while True:
            next(stream)
    age(redis, other, HOURS)
    query = {"session": other, "response": stream.response}
    with httpx.stream("GET", f"{relays[1].url}/agent", params=query, headers={"Last-Event-ID": "1"}, timeout=60) as later:
        rest = Stream(later)
        assert [next(rest)[1:], next(rest)[1:]] == [("2", WORDS[2]), ("3", WORDS[3])]


def test_twenty_readers_of_one_response(relays, upstream, session):
    """On two nodes, each from another place, in mid-answer: each has the same rest."""
    words = [f"word {number} " for number in range(60)]
    upstream.events, upstream.paced = sparse(words), True
    with ask(relays[0], session) as stream, concurrent.futures.ThreadPoolExecutor(20) as pool:
        upstream.go.release(20)
        seen = [next(stream).to_dict() for _ in range(4)]
        id = seen[0]["response"]["id"]

        reading = []

        def follow(number):
            after = None if number < 4 else number
            query = {"stream": "true", **({} if after is None else {"starting_after": after})}
            with httpx.stream("GET", f"{relays[number % 2].url}/v1/responses/{id}", params=query, timeout=60) as answer:
                reading.append(number)
                return after, events_of(answer.read().decode())

        readers = [pool.submit(follow, number) for number in range(20)]
        try:
            wait_for(lambda: len(reading) == 20, 60, "all read")
        finally:
            upstream.go.release(200)
        seen += [event.to_dict() for event in stream]
        for reader in readers:
            after, told = reader.result()
            assert "".join(one["delta"] for one in told if one["type"] == "response.output_text.delta").endswith(words[-1])
            # What is read of a joined delta is all of it.
            assert told == [one for one in seen if after is None or one["sequence_number"] > after]
    assert len(upstream.requests) == 1


class Watching(Upstream):
    """It waits, in mid-answer, for its request to be closed, and says when that was."""

    def __init__(self):
        super().__init__(sparse())
        self.closed = []

    def answer(self, handler, number):
        handler.begin()
        handler.tell(*self.events[:4])
        handler.connection.settimeout(60)
        try:
            handler.connection.recv(1)
        except OSError:
            pass
        self.closed.append(time.monotonic())
        handler.connection.shutdown(socket.SHUT_RDWR)


TURNS = 9


def test_a_stop_from_a_third_device_ends_the_request_within_250_ms(tmp_path, redis, session, attach):
    """Through the other node. How much slower this machine is at the moment is told by appends, which go the same ways."""
    upstream = Watching()
    with relayed(upstream, tmp_path, redis) as nodes:
        stops, trips = [], []
        for turn in range(TURNS):
            name = f"{session}-{turn}"
            with ask(nodes[0], name) as stream:
                id = next(stream).response.id
                reader = attach(nodes[0], name)
                third = attach(nodes[1], name)
                third.until(lambda device: device.view.text, 20, "some text")
                began = time.monotonic()
                nodes[0].request("POST", f"/v1/sessions/{name}", '{"data":"?","event":"x"}', {"Content-Type": "application/json"})
                third.until(lambda device: device.entries[-1]["event"] == "x", 20, "what was appended")
                trips.append(time.monotonic() - began)
                began = time.monotonic()
                third.send({"type": "cancel", "key": "k", "response": id.split("~")[0]})
                wait_for(lambda: len(upstream.closed) > turn, 20, "the request is closed")
                stops.append(upstream.closed[turn] - began)
                reader.until(lambda device: device.entries[-1]["event"] == "cancelled", 20, "it is told")
        # What people want is looked for every 100 ms.
        assert statistics.median(stops) <= 0.25 + 5 * max(trips), (stops, trips)
