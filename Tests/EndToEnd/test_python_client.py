"""`baton_stream` as a device: real gateways and a real Redis, and gateways that behave badly."""

import asyncio
import contextlib
import json
import logging
import os
import ssl
import subprocess
import sys
import threading

import pytest
import websockets
from baton_stream import (
    Attached, Attachment, Entry, Error, FileStore, Live, Producer, Rejected, Reset, Skipped, State, SubmissionError, Transcript, attach, sync,
)  # fmt: skip
from baton_stream._events import event_of
from support.process import REPOSITORY, free_port, wait_for
from support.tokens import SECRET, token

WORDS = [f"w{n} " for n in range(1, 201)]


def tokens(redis, session, texts=WORDS, start=1, response="r"):
    redis.add_tokens(session, texts, response, start)


async def all_of(attachment, events=None):
    """Every event until the end."""
    events = [] if events is None else events
    async for event in attachment:
        events.append(event)
    return events


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Entry) and event.event == "token")


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# MARK: reading


def test_an_answer_to_its_end(redis, gateway, session):
    redis.add(session, event="start", response="r")
    tokens(redis, session)
    redis.add(session, "data", b"\xff", "extra", "x", "extra", b"\xfe", event="tool", response="r", n="201")
    redis.add(session, event="end", response="r", data="{}")
    chat = attach(gateway.url, session, until="end")
    events = asyncio.run(all_of(chat))
    kinds = [event.event for event in events if isinstance(event, Entry) and event.event != "token"]
    assert text_of(events) == "".join(WORDS) and kinds == ["start", "tool", "end"]
    (tool,) = [event for event in events if isinstance(event, Entry) and event.event == "tool"]
    assert tool.data == b"\xff" and tool.fields == {"extra": [b"x", b"\xfe"]} and tool.n == 201
    assert chat.text("r") == "".join(WORDS) and chat.responses["r"].state == "end" and chat.state == "ended"
    assert [type(event) for event in events[:2]] == [State, Attached] and any(isinstance(event, Live) for event in events)
    assert events[1].node == "gw-1" and events[1].features == ("input", "cancel")


def test_without_async(redis, gateway, session):
    tokens(redis, session)
    redis.add(session, event="end", response="r")
    with sync.attach([gateway.url], session, until="end", rollup="off") as chat:
        events = list(chat)
    assert text_of(events) == "".join(WORDS) == chat.text("r")
    assert sum(isinstance(event, Entry) for event in events) == 201


@pytest.mark.parametrize("options, wanted", [
    ({"last": 5}, "w199 w200 x"), ({"offset": "$"}, ""), ({"response": "other"}, "x"), ({"rollup": 100}, "".join(WORDS) + "x"),
])  # fmt: skip
def test_where_to_begin(redis, gateway, session, options, wanted):
    tokens(redis, session)
    redis.add(session, event="end", response="r")
    tokens(redis, session, ["x"], response="other")
    redis.add(session, event="end", response="other")

    async def read():
        events = []
        async for event in attach(gateway.url, session, **options):
            events.append(event)
            if isinstance(event, Live):
                break
        return events

    assert text_of(asyncio.run(read())) == wanted


@pytest.mark.parametrize("urls, session, options", [
    ("http://h", "a b", {}), ("http://h", "..", {}), ("ftp://h", "s", {}), ("http://", "s", {}), ([], "s", {}), ("http://h?x=1", "s", {}),
    ("http://u:secret@h", "s", {}), ("http://h", "s", {"offset": "0", "last": 3}), ("http://h", "s", {"token": "a\nb"}),
])  # fmt: skip
def test_what_can_not_be_attached_to(urls, session, options):
    with pytest.raises(ValueError) as raised:
        attach(urls, session, **options)
    assert "secret" not in str(raised.value)


def test_one_loop_at_a_time(gateway, session):
    async def twice():
        async with attach(gateway.url, session) as chat:
            reading = asyncio.create_task(all_of(chat))
            await until(lambda: chat.state == "live")
            with pytest.raises(RuntimeError):
                await all_of(chat)
            await chat.aclose()
            await reading

    asyncio.run(twice())


# MARK: faults


def test_a_gateway_that_is_killed_in_mid_answer(redis, new_gateway, session):
    """One gateway is killed, and another one answers; then the first one's port again."""
    gateways = [new_gateway(redis.url, f"gw-{number}") for number in (1, 2)]

    async def read():
        events, chat = [], attach([one.url for one in gateways], session, until="end", rollup="off")
        reading = asyncio.create_task(all_of(chat, events))
        for part in range(0, 200, 50):
            tokens(redis, session, WORDS[part : part + 50], part + 1)
            await until(lambda: text_of(events) == "".join(WORDS[: part + 50]))
            if part == 50:
                gateways[0].kill()
        redis.add(session, event="end", response="r")
        await reading
        return events

    events = asyncio.run(read())
    entries = [event for event in events if isinstance(event, Entry)]
    assert [entry.n for entry in entries[:-1]] == list(range(1, 201)) and not [event for event in events if isinstance(event, Reset)]
    assert [(event.node, event.recovered) for event in events if isinstance(event, Attached)] == [("gw-1", False), ("gw-2", True)]
    assert any(isinstance(event, State) and event.state == "waiting" and event.detail for event in events)


def test_producer_and_device_through_everything(new_redis, new_gateway, session):
    """Gateways die and come back, and Redis drops all its connections, in the middle of one answer."""
    redis = new_redis()
    gateways = [new_gateway(redis.url, f"gw-{number}") for number in (1, 2)]
    urls, words = [one.url for one in gateways], [f"{n} " for n in range(300)]
    cut = lambda: redis.client.client_kill_filter(_type="normal", skipme=True)
    faults = {
        50: gateways[0].kill, 100: cut, 150: lambda: new_gateway(redis.url, "gw-1", listen=gateways[0].address, ready=False),
        200: gateways[1].kill, 250: cut,
    }  # fmt: skip

    async def run():
        events, chat = [], attach(urls, session, response="r", rollup="off")
        reading = asyncio.create_task(all_of(chat, events))
        async with Producer(redis.url, session, "r", window=0.001) as answer:
            for n, word in enumerate(words):
                await answer.delta(word)
                if fault := faults.get(n):
                    await until(lambda: text_of(events) == "".join(words[: n + 1]))
                    await asyncio.to_thread(fault)
        await asyncio.wait_for(reading, 30)
        return events, chat

    events, chat = asyncio.run(run())
    assert text_of(events) == chat.text("r") == "".join(words) and chat.responses["r"].state == "end"
    assert not [event for event in events if isinstance(event, Reset)] and len([event for event in events if isinstance(event, Attached)]) >= 3


def test_a_redis_that_hangs_is_told(new_redis, new_gateway, session):
    redis = new_redis()
    gateway = new_gateway(redis.url)

    async def read():
        async with attach(gateway.url, session) as chat:
            reading = asyncio.create_task(all_of(chat))
            await until(lambda: chat.state == "live")
            redis.pause()
            await until(lambda: chat.state == "stalled")
            redis.resume()
            await until(lambda: chat.state == "live")
            await chat.aclose()
            return await reading

    assert any(event == State("stalled", None) for event in asyncio.run(read()))


def test_a_draining_gateway_is_left_when_it_says(redis, new_gateway, session):
    gateways = [new_gateway(redis.url, f"gw-{number}", "--drain-delay", "0s", "--drain-time", "1s") for number in (1, 2)]
    tokens(redis, session, WORDS[:100])

    async def read():
        events, chat = [], attach([one.url for one in gateways], session, until="end")
        reading = asyncio.create_task(all_of(chat, events))
        await until(lambda: chat.state == "live")
        gateways[0].terminate()
        await until(lambda: [event.node for event in events if isinstance(event, Attached)] == ["gw-1", "gw-2"])
        tokens(redis, session, WORDS[100:], 101)
        redis.add(session, event="end", response="r")
        await reading
        assert chat.text("r") == text_of(events) == "".join(WORDS)

    asyncio.run(read())


def test_a_reset_takes_text_back(redis, gateway, session):
    tokens(redis, session, ["old "])

    async def read():
        async with attach(gateway.url, session) as chat:
            events = []
            reading = asyncio.create_task(all_of(chat, events))
            await until(lambda: chat.text("r") == "old ")
            redis.client.delete(f"baton:{{{session}}}")
            tokens(redis, session, ["new "])
            await until(lambda: chat.text("r") == "new ")
            await chat.aclose()
            await reading
            return [event for event in events if isinstance(event, Reset)]

    resets = asyncio.run(read())
    assert resets and all(reset.from_ == "0" for reset in resets)


def test_an_entry_that_is_too_large_is_skipped(redis, gateway, session):
    redis.add(session, data="x" * 300_000, response="r", n="1")
    redis.add(session, event="end", response="r")
    events = asyncio.run(all_of(attach(gateway.url, session, until="end")))
    (skipped,) = [event for event in events if isinstance(event, Skipped)]
    assert (skipped.reason, skipped.response) == ("too_big", "r") and skipped.bytes > 300_000


def test_nobody_there_is_told(session):
    async def read():
        async for event in attach(f"http://127.0.0.1:{free_port()}", session):
            if isinstance(event, Error):
                return event

    event = asyncio.run(read())
    assert event.code == "unreachable" and "5 attempts" in event.message


# MARK: tokens


@pytest.fixture(scope="module")
def guarded(shared, redis, tmp_path_factory):
    from support.servers import Gateway

    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_bytes(SECRET)
    gateway = Gateway(shared, redis.url, "gw-python", "--auth-secret-file", secret)
    yield gateway
    gateway.kill()


@pytest.mark.parametrize("claims, status", [
    (None, 401), ({"secret": b"another secret, as long as the right one"}, 401), ({"sessions": ["x"]}, 403),
])  # fmt: skip
def test_a_refused_token_is_told(guarded, session, claims, status):
    given = token(**claims) if claims else None  # now: one that was made when the tests were collected is over by then
    with pytest.raises(Rejected) as raised:
        asyncio.run(all_of(attach(guarded.url, session, **({"token": given} if given else {}))))
    assert raised.value.status == status and raised.value.detail
    with pytest.raises(Rejected):
        list(sync.attach(guarded.url, session, **({"token": given} if given else {})))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_is_asked_again(redis, guarded, session, is_async):
    given = iter([token(b"an old key, which is not known any more"), token()])
    redis.add(session, event="end", response="r")

    async def asked():
        return next(given)

    events = asyncio.run(all_of(attach(guarded.url, session, until="end", token=asked if is_async else lambda: next(given))))
    assert State("unauthorized") in [State(event.state) for event in events if isinstance(event, State)]


@pytest.mark.parametrize("before", [[], [token(b"an old key, which is not known any more")]], ids=["at first", "later"])
def test_a_function_without_a_token_ends_it(guarded, session, before):
    given = list(before)

    def asked():
        if not given:
            raise LookupError("signed out")
        return given.pop()

    async def read():
        async with asyncio.timeout(10):
            await all_of(attach(guarded.url, session, token=asked))

    with pytest.raises(LookupError):
        asyncio.run(read())


def test_a_token_is_renewed_in_place(redis, guarded, session):
    given = [token(exp=-45), token()]  # good for 15 s more, by the leeway

    async def read():
        events = []
        async with attach(guarded.url, session, token=lambda: given.pop(0)) as chat:
            reading = asyncio.create_task(all_of(chat, events))
            await until(lambda: not given and chat.state == "live")
            redis.add(session, data="x")
            await until(lambda: text_of(events) == "x")
            await chat.aclose()
            await reading
        return [type(event) for event in events].count(Attached)

    assert asyncio.run(read()) == 1


# MARK: answering back


def test_input_and_cancel(redis, gateway, session):
    async def say():
        async with attach(gateway.url, session, device="d1") as chat:
            ids = [await chat.input("Shorter, please. \ud83d\ude42\ud83d", key="k1"), await chat.input("Shorter, please. 🙂\ufffd", key="k1"), await chat.cancel("r1")]
            with pytest.raises(SubmissionError, match="key_conflict"):
                await chat.input("other", key="k1")
            with pytest.raises(SubmissionError, match="too_big"):
                await chat.input("x" * 70_000)
            return ids

    first, again, cancel = asyncio.run(say())
    inbox = redis.client.xrange(f"baton:{{{session}}}:inbox")
    assert [id.decode() for id, _ in inbox] == [first, cancel] and again == first
    assert inbox[0][1][b"data"].decode() == "Shorter, please. 🙂\ufffd" and inbox[1][1][b"response"] == b"r1"


def test_input_within_the_loop_that_reads(redis, gateway, session):
    """More than what may wait is still to come."""
    tokens(redis, session, ["x" * 50_000] * 40)
    redis.add(session, event="end", response="r")

    async def read():
        size, said = 0, 0
        chat = attach(gateway.url, session, until="end", rollup="off", max_buffer=100_000)
        async for event in chat:
            if isinstance(event, Entry) and event.event == "token":
                size += len(event.data)
                if said < 3:
                    await chat.input("yes", timeout=20)
                    said += 1
        return size, said

    assert asyncio.run(read()) == (2_000_000, 3)


def test_no_answer_is_a_time_out(session):
    async def say():
        chat = attach(f"http://127.0.0.1:{free_port()}", session)
        with pytest.raises(SubmissionError, match="timed_out"):
            await chat.input("x", timeout=0.2)
        waiting = asyncio.create_task(chat.cancel("r"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        late = asyncio.create_task(chat.input("y"))
        await asyncio.sleep(0)
        await chat.aclose()
        with pytest.raises(SubmissionError, match="ended"):
            await late

    asyncio.run(say())


def test_without_async_it_is_answered_too(redis, gateway, session):
    with sync.attach(gateway.url, session) as chat:
        assert chat.input("hello") and chat.cancel("r")
    assert redis.client.xlen(f"baton:{{{session}}}:inbox") == 2


# MARK: ends


def devices(gateway):
    return gateway.metric("baton_devices") or 0


@pytest.mark.parametrize("where", ["waiting for an event", "dealing with one"])
def test_a_cancelled_task_leaves_nothing_behind(redis, new_gateway, session, where):
    gateway = new_gateway(redis.url)
    redis.add(session, data="x")

    async def read(chat):
        async for event in chat:
            if isinstance(event, Live) and where == "dealing with one":
                await asyncio.Event().wait()

    async def run():
        chat = attach(gateway.url, session)
        task = asyncio.create_task(read(chat))
        await until(lambda: chat.state == "live" and chat.offset not in (None, "0"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert chat.state == "ended"

    asyncio.run(run())
    wait_for(lambda: devices(gateway) == 0, 10, "the gateway has no device")


def test_a_task_that_failed_leaves_nothing_behind(redis, new_gateway, session):
    """Though somebody still holds its error."""
    gateway = new_gateway(redis.url)

    async def read(chat):
        async for event in chat:
            if isinstance(event, Live):
                raise ValueError

    async def run():
        chat = attach(gateway.url, session)
        task = asyncio.create_task(read(chat))
        await asyncio.wait([task])
        await until(lambda: chat.state == "ended")
        assert isinstance(task.exception(), ValueError)

    asyncio.run(run())
    wait_for(lambda: devices(gateway) == 0, 10, "the gateway has no device")


def test_leaving_the_loop_closes(redis, new_gateway, session):
    gateway = new_gateway(redis.url)
    redis.add(session, data="x")

    async def run():
        chat = attach(gateway.url, session)
        async for event in chat:
            if isinstance(event, Live):
                break
        await until(lambda: chat.state == "ended")
        async with attach(gateway.url, session) as chat:
            async for event in chat:
                if isinstance(event, Live):
                    break
            await asyncio.sleep(0)
            assert await chat.input("x")
        assert chat.state == "ended"

    asyncio.run(run())
    for event in sync.attach(gateway.url, session):
        if isinstance(event, Live):
            break
    wait_for(lambda: devices(gateway) == 0, 10, "the gateway has no device")


def test_another_thread_may_close(gateway, session):
    chat = sync.attach(gateway.url, session)
    reading = threading.Thread(target=lambda: list(chat))
    reading.start()
    wait_for(lambda: chat.state == "live")
    chat.close()
    reading.join(10)
    assert not reading.is_alive()


PROGRAMS = {
    "a loop that is left": "for event in sync.attach(URL, 's'): break",
    "a loop in its middle": "events = iter(sync.attach(URL, 's')); next(events); next(events)",
    "with, and no end": "chat = sync.attach(URL, 's').__enter__(); chat.input('x')",
    "async, in its middle": "async def main():\n events = aiter(attach(URL, 's')); await anext(events); await anext(events)\nasyncio.run(main())",
    "a producer": "with sync.Producer(REDIS, 's') as answer: answer.delta('x')",
    "a producer without an end": "answer = sync.Producer(REDIS, 's').open(); answer.delta('x')",
    "async, a producer without an end": "async def main():\n answer = await Producer(REDIS, 's').open(); await answer.delta('x')\nasyncio.run(main())",
    "a fork": "for event in sync.attach(URL, 's'): break\npid = os.fork()\nfor event in sync.attach(URL, 's'): break\nif pid: assert os.waitpid(pid, 0)[1] == 0",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_just_ends(redis, gateway, name):
    code = f"import asyncio, os\nfrom baton_stream import Producer, attach, sync\nURL, REDIS = '{gateway.url}', '{redis.url}'\n{PROGRAMS[name]}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "Sources/BatonPython")}
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_logs_hold_neither_token_nor_text(redis, guarded, session, caplog):
    caplog.set_level(logging.DEBUG)
    redis.add(session, event="end", response="r", data="a secret text")
    given = token()
    asyncio.run(all_of(attach(guarded.url, session, until="end", token=given)))
    assert session in caplog.text and given not in caplog.text and "a secret text" not in caplog.text


# MARK: what outlives the process


def test_a_file_keeps_place_and_text(redis, gateway, session, tmp_path):
    tokens(redis, session, WORDS[:100])
    store = FileStore(tmp_path / "chat.json")

    async def some():
        async with attach(gateway.url, session, store=store) as chat:
            async for event in chat:
                if isinstance(event, Live):
                    break

    asyncio.run(some())
    tokens(redis, session, WORDS[100:], 101)
    redis.add(session, event="end", response="r")
    chat = attach(gateway.url, session, store=store, until="end", rollup="off")
    events = asyncio.run(all_of(chat))
    assert text_of(events) == "".join(WORDS[100:]) and chat.text("r") == "".join(WORDS)
    assert store.load()["responses"][0]["state"] == "end" and store.load()["offset"] == chat.offset
    again = asyncio.run(all_of(attach(gateway.url, session, store=store, response="r")))
    assert text_of(again) == ""


def test_a_finished_answer_that_is_another_one_now(redis, gateway, session, tmp_path):
    tokens(redis, session, ["old"])
    redis.add(session, event="end", response="r")
    store = FileStore(tmp_path / "chat.json")
    asyncio.run(all_of(attach(gateway.url, session, store=store, response="r")))
    redis.client.delete(f"baton:{{{session}}}")
    tokens(redis, session, ["new "])

    async def read():
        chat = attach(gateway.url, session, store=store, response="r")
        reading = asyncio.create_task(all_of(chat))
        await until(lambda: chat.state == "live" or chat.state == "ended")
        tokens(redis, session, ["one"], 2)
        redis.add(session, event="end", response="r")
        await reading
        return chat.text("r")

    assert asyncio.run(read()) == "new one"


@pytest.mark.parametrize("kept", ["[]", "{", json.dumps({"offset": "0", "responses": [{"name": "r"}]}), json.dumps({"offset": "1-x"})])
def test_what_was_kept_in_another_form_is_dropped(redis, gateway, session, tmp_path, kept):
    tokens(redis, session)
    redis.add(session, event="end", response="r")
    path = tmp_path / "chat.json"
    path.write_text(kept)
    events = asyncio.run(all_of(attach(gateway.url, session, store=FileStore(path), until="end")))
    assert text_of(events) == "".join(WORDS) and [event.code for event in events if isinstance(event, Error)] == ["store"]
    assert FileStore(path).load()["offset"]


def test_a_refusal_forgets_what_was_kept(guarded, session, tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"offset": "1-1", "responses": [{"name": "r", "text": "secret", "n": 1, "state": "open"}]}))
    chat = attach(guarded.url, session, store=FileStore(path))
    with pytest.raises(Rejected):
        asyncio.run(all_of(chat))
    assert not path.exists() and chat.text("r") == ""


# MARK: gateways that behave badly


@contextlib.asynccontextmanager
async def fake(answer):
    """A gateway of frames: `answer(socket, number of the connection)`."""
    count = 0

    async def handler(socket):
        nonlocal count
        count += 1
        with contextlib.suppress(websockets.ConnectionClosed):
            await answer(socket, count)
            await socket.wait_closed()

    async with websockets.serve(handler, "127.0.0.1", 0, subprotocols=["baton.v1"]) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


ATTACHED = json.dumps({"type": "attached", "offset": "0"})


def test_what_waits_for_a_slow_loop_is_bounded(session):
    sent = 0

    async def answer(socket, _):
        nonlocal sent
        await socket.send(ATTACHED)
        for sent in range(1, 401):
            await socket.send(json.dumps({"id": f"{sent}-0", "data": "x" * 50_000}))
        await socket.close(1000)

    async def run():
        async with fake(answer) as url:
            size = 0
            async for event in (chat := attach(url, session, max_buffer=200_000)):
                if isinstance(event, Entry):
                    size += len(event.data)
                    if event.id == "1-0":
                        before = -1
                        while before != sent:  # until nothing more comes
                            before = sent
                            await asyncio.sleep(0.3)
                    assert chat._bytes < 400_000
            return size

    assert asyncio.run(run()) == 400 * 50_000


@pytest.mark.parametrize("nonsense", ["no JSON", "[" * 100_000, "1" * 5000, b"bytes"], ids=["words", "deep", "long", "binary"])
def test_what_is_no_frame_is_another_attempt(session, nonsense):
    async def answer(socket, number):
        await socket.send(ATTACHED)
        await socket.send(nonsense if number == 1 else json.dumps({"id": "1-1", "event": "end", "response": "r"}))
        if number > 1:
            await socket.close(1000)

    async def run():
        async with fake(answer) as url, asyncio.timeout(10):
            return await all_of(attach(url, session))

    events = asyncio.run(run())
    assert [event.event for event in events if isinstance(event, Entry)] == ["end"]


def test_a_mistake_of_ours_is_told(redis, new_gateway, session, monkeypatch):
    gateway = new_gateway(redis.url)

    def broken(*_):
        raise ZeroDivisionError

    async def run():
        async with attach(gateway.url, session) as chat:
            with pytest.raises(ZeroDivisionError):
                await all_of(chat)
            await asyncio.to_thread(wait_for, lambda: devices(gateway) == 0, 10, "the gateway has no device")

    monkeypatch.setattr(Attachment, "_received", broken)
    asyncio.run(run())


@pytest.mark.parametrize("frame", [
    [], None, 7, {"type": 7}, {"type": "new"}, {}, {"id": 7}, {"type": "live", "offset": 7}, {"type": "draining", "retryAfterMs": "x"}, {"type": "reset"},
    {"type": "skipped", "bytes": 1e999}, {"type": "attached", "pingMs": [], "features": {}}, {"id": "1-1", "n": [], "joined": -1, "data64": "*", "fields": 7},
    {"id": "1-1", "data": "\ud800", "fields": {"a": {"base64": 7}, "b": [[], "x"]}}, {"type": "accepted", "key": []}, {"type": "error"},
    {"id": "1-1", "data": 7}, {"id": "1-1", "event": [], "response": {}}, {"type": "error", "attempts": [], "code": 7},
])  # fmt: skip
def test_any_frame_is_survived(session, frame):
    async def answer(socket, _):
        for text in (ATTACHED, json.dumps(frame), json.dumps({"id": "9-9", "event": "end", "response": "r"})):
            await socket.send(text)
        await socket.close(1000)

    async def run():
        async with fake(answer) as url:
            return await all_of(attach(url, session))

    assert asyncio.run(run())[-1].id == "9-9"


def test_a_frame_beyond_the_limit_is_final(session):
    async def answer(socket, _):
        await socket.send(ATTACHED)
        await socket.send(json.dumps({"id": "1-1", "data": "x" * (17 << 20)}))

    async def run():
        async with fake(answer) as url:
            await all_of(attach(url, session))

    with pytest.raises(Rejected) as raised:
        asyncio.run(run())
    assert raised.value.code == 1009


async def refusing(status, headers, body=b""):
    answer = lambda connection, _: websockets.http11.Response(status, "", websockets.Headers({**headers, "Content-Length": str(len(body))}), body)
    return await websockets.serve(lambda _: None, "127.0.0.1", 0, process_request=answer)


@pytest.mark.parametrize("status, headers, body, detail", [
    (404, {}, b"<html>", "HTTP status 404"), (503, {"Retry-After": "9" * 5000}, b"", "HTTP status 503"), (401, {}, b"{", "HTTP status 401"),
    (403, {"Content-Type": "application/problem+json"}, b"\xff", "HTTP status 403"), (429, {"Retry-After": "soon"}, b"", "HTTP status 429"),
    (503, {"Content-Type": "application/problem+json"}, b'{"type":"urn:baton:problem:draining","detail":"it drains"}', "HTTP status 503: it drains"),
])  # fmt: skip
def test_what_stands_before_a_gateway_is_no_last_word(session, status, headers, body, detail):
    async def run():
        async with await refusing(status, headers, body) as server, asyncio.timeout(10):
            async for event in attach(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session):
                if isinstance(event, State) and event.state == "waiting":
                    return event

    assert asyncio.run(run()).detail == detail


def test_a_certificate_is_checked(session, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=baton",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True)  # fmt: skip
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def answer(socket):
        await socket.send(ATTACHED)
        await socket.close(1000)

    async def run():
        async with websockets.serve(answer, "127.0.0.1", 0, subprotocols=["baton.v1"], ssl=served) as server, asyncio.timeout(10):
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
            assert any(isinstance(event, Attached) for event in await all_of(attach(url, session, ssl=trusting)))
            async for event in attach(url, session):
                if isinstance(event, State) and event.state == "waiting":
                    return event

    assert "certificate" in asyncio.run(run()).detail.lower()


def test_nobody_else_is_shown_the_token(session):
    seen = []

    async def run():
        async def other(socket, _):
            seen.append(socket.request.headers)

        async with fake(other) as target:
            async with await refusing(307, {"Location": f"{target}/v1/sessions/x"}) as server:
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                async for event in attach(url, session, token="secret"):
                    if isinstance(event, State) and event.state == "waiting":
                        return event

    assert "307" in asyncio.run(run()).detail and seen == []


# MARK: the text of responses


def entry(id, text=None, event="token", response="r", n=None, **more):
    return event_of({"id": id, "event": event, "response": response, **({"data": text} if text is not None else {}), **({"n": n} if n else {}), **more})


def test_a_number_is_shown_once():
    shown = Transcript()
    for event in (entry("1-0", "a", n=1), entry("2-0", "a", n=1), entry("3-0", "b", n=2), entry("4-0", "x", response=None), entry("5-0", "x", response=None)):
        shown.apply(event)
    assert shown.text("r") == "ab" and shown.text() == "xx"


def test_a_character_may_be_split():
    shown = Transcript()
    shown.apply(entry("1-0", n=1, data64="8J8="))
    assert shown.text("r") == ""
    shown.apply(entry("2-0", n=2, data64="mYI="))
    assert shown.text("r") == "🙂"
    shown.apply(entry("3-0", n=3, data64="8J8="))
    shown.apply(entry("4-0", event="end"))
    assert shown.text("r") == "🙂\ufffd" and shown.responses["r"].state == "end"


def test_what_a_reset_takes_back():
    shown = Transcript()
    for event in (entry("1-0", "a", n=1), entry("2-0", "b", n=2), entry("3-0", event="end"), entry("4-0", "{\"supersedes\":\"r\"}", event="start", response="s")):
        shown.apply(event)
    assert list(shown.responses) == ["s"]
    assert shown.apply(Reset("diverged", from_="1-0.12345678"))
    assert shown.text("r") == "a" and shown.responses["r"].state == "open" and shown.responses["r"].n == 1 and "s" not in shown.responses
    assert not shown.apply(Reset("diverged", from_="7-0"))
    assert shown.apply(Reset("trimmed")) and shown.responses == {}


def test_what_can_be_taken_back_is_bounded():
    shown = Transcript()
    for n in range(1, 20_001):
        shown.apply(entry(f"{n}-0", "x", n=n))
    assert len(shown._marks) < 10_000 and shown.text("r") == "x" * 20_000
    assert shown.apply(Reset("ahead", from_="19990-0")) and shown.text("r") == "x" * 19_990
    assert not shown.apply(Reset("ahead", from_="5-0"))


def test_a_superseded_response_is_not_shown():
    shown = Transcript()
    shown.apply(entry("1-0", "a", n=1))
    shown.apply(entry("2-0", "{\"supersedes\":\"r\"}", event="start", response="s"))
    shown.apply(entry("3-0", "{\"reason\":\"superseded\",\"by\":\"s\"}", event="error"))
    assert list(shown.responses) == ["s"]
    alone = Transcript()
    alone.apply(entry("3-0", "{\"reason\":\"superseded\",\"by\":\"s\"}", event="error"))
    assert alone.responses == {}
