"""A relay that dies in mid-answer, before a model server that goes on alone, as llama.cpp does: another node goes on."""

import concurrent.futures
import threading
import urllib.parse

import httpx
import openai
import pytest
from support.process import wait_for
from test_relay import WORDS, Upstream, ask, client, read, relayed, sparse
from test_relay_chat import TEXT, TOOLS


class Alone(Upstream):
    """Its answers are made under a name, whoever reads them, up to `allowed` events; the request's `model` says of which kind."""

    def __init__(self):
        super().__init__([])
        self.streams, self.deleted, self.allowed = {}, set(), 1000
        handler = self.server.RequestHandlerClass
        handler.server_version, handler.sys_version = "llama.cpp", ""
        handler.do_GET = lambda handler: self.again(handler)
        handler.do_DELETE = lambda handler: self.delete(handler)

    def answer(self, handler, number):
        body = self.requests[-1][2]
        if body["model"] == "chat-only" and handler.path.endswith("/responses"):
            return handler.whole(404, "{}")
        name, told = handler.headers["X-Conversation-Id"], []
        self.streams[name] = told
        events = {"m": sparse(), "chat-only": TOOLS, "chat": TEXT}[body["model"]]
        threading.Thread(target=self.make, args=(name, told, events), daemon=True).start()
        self.follow(handler, name)

    def make(self, name, told, events):
        for place, one in enumerate(events):
            while place >= self.allowed:
                if name in self.deleted:
                    return
                threading.Event().wait(0.02)
            told.append(one)
        told.append(None)

    def follow(self, handler, name):
        handler.begin()
        told, place = self.streams[name], 0
        while name not in self.deleted:
            if place == len(told):
                handler.tell(": wait\n\n")
                threading.Event().wait(0.02)
            elif told[place] is None:
                return
            else:
                handler.tell(told[place])
                place += 1

    def again(self, handler):
        address = urllib.parse.urlsplit(handler.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        if address.path != "/v1/stream" or query.get("conv_id") not in self.streams or query.get("from") != "0":
            return handler.whole(404, "{}")
        try:
            self.follow(handler, query["conv_id"])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def delete(self, handler):
        self.deleted.add(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(handler.path).query))["conv_id"])
        handler.whole(204)


@pytest.fixture
def upstream():
    return Alone()


def responses(gateway, session, model, seen):
    """Asks, and adds the events that come to `seen` until it breaks off."""
    with client(gateway).responses.create(model=model, input="hi", stream=True, extra_headers={"Baton-Session": session}) as stream:
        try:
            for event in stream:
                seen.append(event.model_dump())
        except (httpx.HTTPError, openai.APIConnectionError):
            pass


def chat(gateway, session, seen):
    body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    try:
        with httpx.stream("POST", f"http://127.0.0.1:{gateway.port}/v1/chat/completions", json=body, headers={"Baton-Session": session}, timeout=60) as answer:
            for piece in answer.iter_text():
                seen.append(piece)
    except httpx.HTTPError:
        pass


def test_another_node_goes_on(upstream, tmp_path, redis, session, attach):
    upstream.allowed = 5
    names = [f"{session}-{kind}" for kind in ("m", "chat-only", "chat")]
    with concurrent.futures.ThreadPoolExecutor() as pool, relayed(upstream, tmp_path, redis) as gateways:
        seen = [[], [], []]
        asked = [
            pool.submit(responses, gateways[0], names[0], "m", seen[0]), pool.submit(responses, gateways[0], names[1], "chat-only", seen[1]),
            pool.submit(chat, gateways[0], names[2], seen[2]),
        ]  # fmt: skip
        wait_for(lambda: all(seen), 30, "something of each answer")
        devices = [attach(gateways[1], name) for name in names]
        for device in devices:
            device.until(lambda device: any("n" in entry for entry in device.entries), 30, "something of the answer")
        gateways[0].kill()
        for each in asked:
            each.result(60)
        upstream.allowed = 1000
        for device in devices:
            device.until(lambda device: device.entries and device.entries[-1]["event"] in ("end", "error"), 90, "the end")
            assert device.entries[-1]["event"] == "end", device.entries[-1]
        assert len(upstream.requests) == 4, "one refusal of a server without Responses; no answer was asked for twice"
        for before in seen[:2]:
            id = before[0]["response"]["id"]
            whole = read(gateways[1], id)
            numbers = [one["sequence_number"] for one in whole]
            assert numbers == sorted(set(numbers)) and whole[-1]["type"] == "response.completed"
            # What the first reader had is the beginning of what is there.
            assert [one["sequence_number"] for one in before] == [number for number in numbers if number <= before[-1]["sequence_number"]]
        assert devices[0].view.text == devices[2].view.text == "".join(WORDS)
        assert client(gateways[1]).responses.retrieve(seen[1][0]["response"]["id"]).output[3].arguments == '{"b":2}'
        assert not upstream.deleted


def test_a_cancel_ends_the_answer_that_goes_on_alone(upstream, tmp_path, redis, session):
    upstream.allowed = 3
    with relayed(upstream, tmp_path, redis, count=1) as (gateway,):
        with ask(gateway, session) as stream:
            id = next(iter(stream)).response.id
            assert client(gateway).responses.cancel(id).status == "cancelled"
            wait_for(lambda: upstream.deleted == {id.split("~")[0]}, 20)


def test_a_whole_answer_is_left_alone(upstream, tmp_path, redis, session):
    with relayed(upstream, tmp_path, redis, count=1) as (gateway,):
        assert client(gateway).responses.create(model="m", input="hi").output_text == "".join(WORDS)
    assert not upstream.deleted
