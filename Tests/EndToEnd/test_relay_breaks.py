"""An answer of text, reasoning, calls of tools and an error, broken after every event: what each reader puts together is what one
has that was never broken off."""

import concurrent.futures
import contextlib
import json
import threading

import httpx
import openai
import pytest
from baton_stream import Entry, sync
from support.process import wait_for
from support.servers import Gateway
from test_relay import client, event, read, relayed, sparse, with_tools
from test_relay_chat import TOOLS
from test_take_over import Alone

CUT = (httpx.HTTPError, openai.APIConnectionError, openai.InternalServerError)


def rich():
    """Reasoning and a call, then text."""
    tools, text = with_tools(), sparse(["It ", "is ", "3."])
    done = json.loads(text[-2].split("data: ")[1])["item"]
    whole = json.loads(tools[-1].split("data: ")[1])["response"]
    moved = [one.replace('{"type": ', '{"output_index": 2, "type": ') for one in text[1:-1]]
    return [*tools[:-1], *moved, event("response.completed", response={**whole, "output": [*whole["output"], done]})]


def failing():
    error = {"code": "server_error", "message": "out of memory"}
    return [*rich()[:-3], event("response.failed", response={"id": "up_1", "status": "failed", "error": error, "output": []})]


class Held(Alone):
    """It makes as many events of an answer as its `model` names, and the rest once it is let go on."""

    KINDS = {"rich": rich(), "failing": failing(), "chat-only": TOOLS}

    def __init__(self):
        super().__init__()
        self.let = threading.Event()

    def answer(self, handler, number):
        kind, _, held = self.requests[-1][2]["model"].rpartition(" ")
        if kind == "chat-only" and handler.path.endswith("/responses"):
            return handler.whole(404, "{}")
        name, told = handler.headers["X-Conversation-Id"], []
        self.streams[name] = told

        def make():
            for place, one in enumerate(self.KINDS[kind]):
                if place >= int(held):
                    self.let.wait(120)
                told.append(one)
            told.append(None)

        threading.Thread(target=make, daemon=True).start()
        self.follow(handler, name)


def put_together(events):
    """What events say, however their deltas were joined: of each, its number, unless it is a delta; of deltas, their text."""
    told = []
    for one in events:
        one = json.loads(json.dumps(one))
        if one["type"].endswith(".delta"):
            place = (one["type"], one.get("item_id"), one.get("output_index"), one.get("content_index"))
            if told and isinstance(told[-1], tuple) and told[-1][0] == place:
                told[-1] = (place, told[-1][1] + one["delta"], one["sequence_number"])
            else:
                told.append((place, one["delta"], one["sequence_number"]))
        else:
            told.append(one)
    return told


class Reader:
    """Reads a response with the official client, each time on the next of its nodes, from where it was."""

    def __init__(self, nodes, id):
        self.nodes, self.id, self.events, self.breaks = list(nodes), id, [], 0

    def run(self, until=None):
        while True:
            node = self.nodes[self.breaks % len(self.nodes)]
            after = {"starting_after": self.events[-1]["sequence_number"]} if self.events else {}
            try:
                for one in client(node).responses.retrieve(self.id, stream=True, **after):
                    self.events.append(one.to_dict())
                    if until is not None and one.sequence_number >= until:
                        return self.events
                if self.events and self.events[-1]["type"] in ("response.completed", "response.failed"):
                    return self.events
            except CUT:
                pass
            self.breaks += 1
            assert self.breaks < 200, self.events[-1:]
            threading.Event().wait(0.05)


def expected(kind, nodes, redis):
    """An answer that nothing was broken of."""
    upstream, session = Held(), f"unbroken-{kind}"
    upstream.let.set()
    with relayed(upstream, nodes, redis, count=1) as (gateway,):
        asked = client(gateway).responses.create(model=f"{kind} 0", input="hi", stream=True, extra_headers={"Baton-Session": session})
        events = [one.to_dict() for one in asked]
        return normal(events)


def normal(events):
    """Without what each response has of its own."""
    id = events[0]["response"]["id"].split("~")[0]
    text = json.dumps(put_together(events)).replace(events[0]["response"]["id"], "ID").replace(id.removeprefix("resp_"), "HEX")
    created, model = events[0]["response"]["created_at"], events[0]["response"]["model"]
    return json.loads(text.replace(f'"created_at": {created}', '"created_at": 0').replace(json.dumps(model), '"m"'))


@pytest.mark.parametrize("kind", Held.KINDS)
def test_nodes_are_killed_after_each_event(tmp_path, redis, session, kind):
    """First the one that serves the readers, then the one that relays; a third one has what is left."""
    whole = expected(kind, tmp_path, redis)
    upstream = Held()
    events = len(Held.KINDS[kind])
    options = ["--openai", f"http://127.0.0.1:{upstream.port}"]
    relaying, serving, living = (Gateway(tmp_path, redis.url, name, *options) for name in ("relaying", "serving", "living"))
    try:
        places = range(1, events + 1)
        names = [f"{session}-{place}" for place in places]
        ids = [
            client(relaying).responses.create(model=f"{kind} {place}", input="hi", background=True, extra_headers={"Baton-Session": name}).id
            for place, name in zip(places, names)
        ]  # fmt: skip
        with concurrent.futures.ThreadPoolExecutor(3 * events) as pool, letting(upstream):
            readers = [Reader((serving, living), id) for id in ids]
            reading = [pool.submit(reader.run) for reader in readers]
            packages = [pool.submit(by_package, (serving, living), name) for name in names]
            wait_for(lambda: all(reader.events for reader in readers), 60, "all read")
            # As far as each answer is made.
            for id, place in zip(ids, places):
                wait_for(lambda: len(upstream.streams[id.split("~")[0]]) >= place, 60, "it is made")
            serving.kill()
            wait_for(lambda: all(reader.breaks or each.done() for reader, each in zip(readers, reading)), 60, "all were broken off")
            relaying.kill()
            upstream.let.set()
            told = [normal(each.result(120)) for each in reading]
            assert told == [whole] * events
            # It is the same for who comes later, number by number, and the same in the final object.
            for id, reader in zip(ids, readers):
                later = read(living, id)
                assert put_together(later) == put_together(reader.events)
                final, last = client(living).responses.retrieve(id).to_dict(), reader.events[-1]["response"]
                # Of one that has failed there is what had come.
                assert final["output"] if kind == "failing" else final["output"] == last["output"]
                assert {**final, "output": []} == {**last, "output": []}
            for each, name in zip(packages, names):
                ours, there = each.result(120), [
                    {name.decode(): value.decode() for name, value in pairs} for _, pairs in redis.stream(name)]  # fmt: skip
                assert ours == [(one.get("event", "token"), one.get("n"), one.get("data", "")) for one in there if one.get("event") != "input"]
        asked = [path for path, _, _ in upstream.requests if path.endswith("completions" if kind == "chat-only" else "responses")]
        assert len(asked) == events, "no answer was asked for twice"
    finally:
        upstream.let.set()
        for one in (relaying, serving, living):
            one.kill()


@contextlib.contextmanager
def letting(upstream):
    """Whatever fails within it waits for nothing."""
    try:
        yield
    finally:
        upstream.let.set()


def by_package(nodes, session):
    """The entries that our Python package tells of, to the response's end."""
    told = []
    with sync.attach([node.url for node in nodes], session, until="end", rollup="off") as chat:
        for one in chat:
            if isinstance(one, Entry):
                told.append((one.event, None if one.n is None else str(one.n), (one.data or b"").decode()))
    return told


@pytest.mark.parametrize("kind", Held.KINDS)
def test_connections_are_cut_after_each_event(tmp_path, redis, session, kind):
    """And after each event somebody comes back to the other node, while the answer is made."""
    whole = expected(kind, tmp_path, redis)
    upstream = Held()
    with relayed(upstream, tmp_path, redis) as nodes:
        for place in range(1, len(Held.KINDS[kind]) + 1):
            upstream.let.clear()
            id = client(nodes[0]).responses.create(
                model=f"{kind} {place}", input="hi", background=True, extra_headers={"Baton-Session": f"{session}-{place}"}).id  # fmt: skip
            reader = Reader((nodes[0], nodes[1]), id)
            # What is there, is read; then the connection is cut, and another node is asked.
            reader.run(until=0)
            reader.breaks += 1
            upstream.let.set()
            assert normal(reader.run()) == whole
