"""A relay that dies in mid-answer, or whose node goes away, before a model server that goes on alone: another node goes on."""

import concurrent.futures
import contextlib
import json
import signal
import threading
import urllib.parse

import httpx
import openai
import pytest
from support.process import wait_for
from support.servers import key
from test_relay import WORDS, Upstream, ask, client, read, relayed, sparse
from test_relay_chat import TEXT, TOOLS


class Alone(Upstream):
    """Its answers are made under a name, whoever reads them, up to `allowed` events; the request's `model` says of which kind."""

    def __init__(self):
        super().__init__([])
        self.streams, self.deleted, self.allowed, self.cuts = {}, set(), 1000, []
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
        cut = self.cuts.pop(0) if self.cuts else None
        while name not in self.deleted and place != cut:
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


class Background(Alone):
    """Likewise, as OpenAI's Responses: asked with `background` it goes on, and `GET /responses/{id}?stream=true` has it again."""

    def __init__(self):
        super().__init__()
        handler = self.server.RequestHandlerClass
        handler.server_version = "uvicorn"
        self.answer_alone, self.post = self.answer, handler.do_POST
        handler.do_POST = lambda handler: self.end(handler) if handler.path.endswith("/cancel") else self.post(handler)

    def answer(self, handler, number):
        body = self.requests[-1][2]
        assert body["background"] is True and body["store"] is True and body["stream"] is True
        name, told = f"resp_up_{number}", []
        self.streams[name] = told
        events = [event.replace("up_1", name) for event in sparse()]
        threading.Thread(target=self.make, args=(name, told, events), daemon=True).start()
        self.follow(handler, name)

    def again(self, handler):
        address = urllib.parse.urlsplit(handler.path)
        name = address.path.removeprefix("/v1/responses/")
        if name not in self.streams or address.query != "stream=true":
            return handler.whole(404, "{}")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.follow(handler, name)

    def end(self, handler):
        self.deleted.add(handler.path.removeprefix("/v1/responses/").removesuffix("/cancel"))
        handler.whole(200, "{}")


@pytest.fixture
def upstream():
    return Alone()


@pytest.fixture
def background():
    return Background()


KINDS = pytest.mark.parametrize("kind, options", [(Alone, ()), (Background, ("--openai-background",))], ids=["llama.cpp", "background"])


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


def finished(redis, session):
    last = dict(redis.stream(session)[-1][1])
    return last.get(b"event") in (b"end", b"error", b"cancelled") and last


def is_whole(gateway, before):
    """The answer is the one whose beginning was read."""
    whole = read(gateway, before[0]["response"]["id"])
    numbers = [one["sequence_number"] for one in whole]
    assert numbers == sorted(set(numbers)) and whole[-1]["type"] == "response.completed"
    assert [one["sequence_number"] for one in before] == [number for number in numbers if number <= before[-1]["sequence_number"]]
    assert "".join(one["delta"] for one in whole if one["type"] == "response.output_text.delta") == "".join(WORDS)
    return True


@KINDS
def test_an_answer_that_nobody_follows_is_gone_on_with(tmp_path, redis, session, kind, options):
    upstream = kind()
    upstream.allowed = 5
    with relayed(upstream, tmp_path, redis, *options) as (dying, living):
        seen = []
        asked = threading.Thread(target=responses, args=(dying, session, "m", seen), daemon=True)
        asked.start()
        # The last one that comes is an entry of its own.
        wait_for(lambda: len(seen) >= 4, 30, "something of the answer")
        dying.kill()
        asked.join(60)
        upstream.allowed = 1000
        last = wait_for(lambda: finished(redis, session), 120, "somebody finds out, and goes on")
        assert last[b"event"] == b"end", last
        assert is_whole(living, seen) and not upstream.deleted
        assert len([path for path, _, body in upstream.requests if body]) == 1, "nothing was asked for twice"
        wait_for(lambda: session.encode() not in b" ".join(redis.client.hkeys("baton:{relays}:open")), 20, "it is not watched any more")


@KINDS
def test_a_drain_hands_answers_over(tmp_path, redis, session, attach, kind, options):
    upstream = kind()
    upstream.allowed = 5
    with relayed(upstream, tmp_path, redis, "--drain-delay", "0s", "--drain-time", "1s", *options) as (leaving, staying):
        seen = []
        asked = threading.Thread(target=responses, args=(leaving, session, "m", seen), daemon=True)
        asked.start()
        wait_for(lambda: len(seen) >= 4, 30, "something of the answer")
        device = attach(staying, session).until_live()
        leaving.process.signal(signal.SIGTERM)
        assert leaving.process.wait(60) == 0
        asked.join(60)
        assert not finished(redis, session) and not upstream.deleted
        # Not by its lease, which lasts for 15 s: the other one has taken it, with an epoch of its own.
        record = wait_for(lambda: (told := redis.client.hgetall(key(session) + ":producers")) and [
            value for name, value in told.items() if name.startswith(b"resp_") and value.startswith(b"2 ")], 10, "it is taken over")  # fmt: skip
        assert b" open " in record[0]
        upstream.allowed = 1000
        device.until(lambda device: device.entries[-1]["event"] == "end", 60, "the end")
        assert device.view.text == "".join(WORDS) and is_whole(staying, seen)
        assert redis.client.hlen("baton:{relays}:handed") == 0


def test_what_is_handed_over_waits_for_a_node(background, tmp_path, redis, session):
    """The only node is started again in mid-answer."""
    background.allowed = 5
    seen = []
    options = ("--openai-background", "--drain-delay", "0s", "--drain-time", "0s")
    with relayed(background, tmp_path, redis, *options, count=1) as (leaving,):
        asked = threading.Thread(target=responses, args=(leaving, session, "m", seen), daemon=True)
        asked.start()
        wait_for(lambda: len(seen) >= 4, 30, "something of the answer")
        leaving.process.signal(signal.SIGTERM)
        assert leaving.process.wait(60) == 0
        asked.join(60)
    background.allowed = 1000
    with relayed(background, tmp_path, redis, *options, count=1) as (gateway,):
        assert wait_for(lambda: finished(redis, session), 60, "the end")[b"event"] == b"end" and is_whole(gateway, seen)


def test_a_cancel_reaches_what_is_made_in_the_background(background, tmp_path, redis, session):
    background.allowed = 3
    with relayed(background, tmp_path, redis, "--openai-background", count=1) as (gateway,):
        with ask(gateway, session) as stream:
            id = next(iter(stream)).response.id
            assert client(gateway).responses.cancel(id).status == "cancelled"
            wait_for(lambda: background.deleted == {"resp_up_1"}, 20, "the model server is told")
        # The id there is hidden from who reads.
        assert "resp_up_1" not in gateway.history(session).body.decode() and "resp_up_1" in json.dumps(
            [[value.decode() for _, value in pairs] for _, pairs in redis.stream(session)])  # fmt: skip


def test_what_can_t_be_read_again_ends_by_an_error(background, tmp_path, redis, session):
    background.allowed = 5
    with relayed(background, tmp_path, redis, "--openai-background", "--drain-delay", "0s", "--drain-time", "0s") as (leaving, staying):
        seen = []
        asked = threading.Thread(target=responses, args=(leaving, session, "m", seen), daemon=True)
        asked.start()
        wait_for(lambda: len(seen) >= 4, 30, "something of the answer")
        background.streams.clear()
        leaving.process.signal(signal.SIGTERM)
        last = wait_for(lambda: finished(redis, session), 90, "the end")
        assert json.loads(last[b"data"])["reason"] == "producer_lost"
        assert read(staying, seen[0]["response"]["id"])[-1]["type"] == "response.failed"


@KINDS
def test_an_answer_that_breaks_off_is_read_again(tmp_path, redis, session, kind, options):
    upstream = kind()
    # The connection breaks off at another place each time.
    upstream.cuts = [5, 7, 8]
    with relayed(upstream, tmp_path, redis, *options, count=1) as (gateway,):
        with ask(gateway, session) as stream:
            seen = [event.to_dict() for event in stream]
        assert is_whole(gateway, seen) and upstream.cuts == [] and not upstream.deleted
        assert [one["sequence_number"] for one in seen] == sorted({one["sequence_number"] for one in seen})
        # What brings nothing new is not asked for for ever.
        upstream.cuts = [5, 5, 1000]
        with ask(gateway, f"{session}-2") as stream:
            assert [event.type for event in stream][-1] == "response.failed"
        assert upstream.cuts == [1000] and b"upstream_cut" in finished(redis, f"{session}-2")[b"data"]
        wait_for(lambda: upstream.deleted, 20, "nobody wants the rest")
        # Nor is what is gone there.
        upstream.cuts, upstream.again = [5], lambda handler: handler.whole(404, "{}")
        with ask(gateway, f"{session}-3") as stream:
            assert [event.type for event in stream][-1] == "response.failed"
        assert b"upstream_cut" in finished(redis, f"{session}-3")[b"data"]
        assert len([path for path, _, body in upstream.requests if body]) == 3, "each question was asked once"
