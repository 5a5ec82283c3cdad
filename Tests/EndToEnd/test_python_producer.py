"""`baton_stream` as a producer: real Redis servers, lost replies, killed connections, and what people want meanwhile."""

import asyncio
import contextlib
import gc
import json
import os
import random
import subprocess
import sys
import time

import openai
import pytest
import redis.asyncio
import redis.exceptions
from baton_stream import Cancelled, Deleted, Ended, Fenced, Producer, Refused, TooLarge, Unavailable, connect, openai_to_baton, sync
from baton_stream._openai import Completion
from support.lossy import LossyRedis
from support.process import REPOSITORY, free_port, wait_for
from support.servers import key
from support.step import Step
from test_upstreams import Server

WORDS = [f"w{n} " for n in range(1, 101)]


def fields(redis, session):
    """The stream's entries as dicts of str."""
    return [{name.decode(): value.decode() for name, value in pairs} for _, pairs in redis.stream(session)]


def text_of(redis, session):
    return "".join(entry["data"] for entry in fields(redis, session) if "n" in entry and entry.get("event", "token") == "token")


def end_of(redis, session):
    ends = [entry for entry in fields(redis, session) if entry.get("event") in ("end", "error", "cancelled")]
    assert len(ends) == 1, ends
    return ends[0]["event"], json.loads(ends[0].get("data", "{}"))


def cancel(redis, session, response="r"):
    Step(redis.client, session).put("inbox", ["event", "cancel", "response", response], device="phone", subject="ada")


def say(redis, session, text):
    Step(redis.client, session).put("both", ["event", "input", "data", text], device="phone")


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# MARK: an answer


def test_an_answer(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r", data="{\"model\":\"m\"}", retention=3600, max_entries=50) as answer:
            for word in WORDS:
                await answer.delta(word)
            await answer.event("tool", "{}", cost="3")
            await answer.delta("é".encode()[:1])
            await answer.delta("é".encode()[1:])
            await answer.delta("")
            assert answer.n == 103

    asyncio.run(produce())
    told = [{name: value for name, value in pairs if name != b"_after"} for _, pairs in redis.stream(session)]
    assert told[0] == {b"event": b"start", b"response": b"r", b"data": b"{\"model\":\"m\"}"}
    assert told[1][b"n"] == b"1" and told[-1] == {b"event": b"end", b"response": b"r"}
    assert len(told) < 20 and b"joined" in told[2], "deltas travel together"
    assert {b"response": b"r", b"n": b"101", b"event": b"tool", b"data": b"{}", b"cost": b"3"} in told
    assert b"".join(entry[b"data"] for entry in told if b"n" in entry and b"event" not in entry).decode() == "".join(WORDS) + "é"
    assert 3500 < redis.client.ttl(key(session)) <= 3600
    assert redis.client.hget(f"{key(session)}:producers", "/retention") == b"3600000 50 producer"


def test_deltas_within_the_window_travel_as_one_entry(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r", window=30) as answer:
            for word in WORDS[:20]:
                await answer.delta(word)
                await asyncio.sleep(0.005)

    asyncio.run(produce())
    assert [(entry["n"], entry.get("joined")) for entry in fields(redis, session) if "n" in entry] == [("1", None), ("20", "19")]


def test_without_async(redis, session):
    with sync.Producer(redis.url, session, "r") as answer:
        for word in WORDS:
            answer.delta(word)
        answer.event("tool", cost="3")
    assert text_of(redis, session) == "".join(WORDS) and end_of(redis, session) == ("end", {}) and answer.ending == "end" and answer.n == 101


@pytest.mark.parametrize("raised, end, reason", [(ValueError, "error", "producer_error"), (KeyboardInterrupt, "cancelled", "cancelled")])
def test_what_leaves_the_block_is_told(redis, session, raised, end, reason):
    with pytest.raises(raised):
        with sync.Producer(redis.url, session, "r") as answer:
            answer.delta("a")
            raise raised
    assert text_of(redis, session) == "a" and end_of(redis, session) == (end, {"reason": reason})


def test_a_cancelled_task_cancels_the_answer(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r") as answer:
            await answer.delta("a")
            await asyncio.Event().wait()

    async def run():
        task = asyncio.create_task(produce())
        await until(lambda: text_of(redis, session) == "a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert end_of(redis, session) == ("cancelled", {"reason": "cancelled"})


def test_an_end_of_its_own_counts(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r") as answer:
            await answer.end("end", "{\"finish_reason\":\"stop\"}")
            await answer.end("end")
            with pytest.raises(Ended):
                await answer.end("error")
            with pytest.raises(Ended):
                await answer.delta("late")

    asyncio.run(produce())
    assert end_of(redis, session) == ("end", {"finish_reason": "stop"})


def test_one_that_nobody_holds_ends_by_error(redis, session):
    async def produce():
        answer = await Producer(redis.url, session, "r").open()
        await answer.delta("a")
        del answer
        gc.collect()
        await until(lambda: len(fields(redis, session)) == 3)

    asyncio.run(produce())
    assert end_of(redis, session) == ("error", {"reason": "producer_lost"})


def test_a_process_that_just_ends_leaves_an_end(redis, session):
    code = f"""
import asyncio, baton_stream
async def main():
    async with baton_stream.Producer("{redis.url}", "{session}", "r") as answer:
        await answer.delta("a")
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "Sources/BatonPython")}
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert end_of(redis, session)[0] == "end"


def test_what_is_no_delta(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r") as answer:
            with pytest.raises(TooLarge):
                await answer.event("image", "x" * 300_000)
            for wrong in ("end", "a b", ""):
                with pytest.raises(ValueError):
                    await answer.event(wrong)
            with pytest.raises(ValueError):
                await answer.event("tool", n="3")
            await answer.delta("🙂é" * 60_000)

    asyncio.run(produce())
    entries = fields(redis, session)
    assert text_of(redis, session) == "🙂é" * 60_000 and max(len(entry.get("data", "").encode()) for entry in entries) <= 128 * 1024


@pytest.mark.parametrize("session, response", [("a b", "r"), ("..", "r"), ("s", "r/1")])
def test_names(session, response):
    with pytest.raises(ValueError):
        Producer("redis://127.0.0.1", session, response)


@pytest.mark.parametrize("url", ["http://h", "redis+nothing://h", "unix+cluster:///p", "nonsense"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError):
        connect(url)


def test_a_client_may_be_shared(redis, session):
    async def produce():
        client = redis_asyncio(redis, decode_responses=True)
        answers = [Producer(client, session, f"r{n}") for n in range(20)]
        async with contextlib.AsyncExitStack() as stack:
            for answer in answers:
                await stack.enter_async_context(answer)
            await asyncio.gather(*(answer.delta(answer.response) for answer in answers))
        for answer in answers:
            await answer.aclose()
        assert await client.ping()
        await client.aclose()

    asyncio.run(produce())
    assert sorted(entry["data"] for entry in fields(redis, session) if "n" in entry) == sorted(f"r{n}" for n in range(20))


def redis_asyncio(server, **options):
    return redis.asyncio.Redis(port=server.port, **options)


# MARK: who else writes


def test_a_newer_producer_takes_over(redis, session):
    async def produce():
        old = await Producer(redis.url, session, "r").open()
        await old.delta("a")
        async with Producer(redis.url, session, "r") as new:
            assert new.n == 1
            await new.delta("b")
            with pytest.raises(Fenced):
                await old.delta("zombie")
                await old.end()
        with pytest.raises(Ended):
            await Producer(redis.url, session, "r").open()

    asyncio.run(produce())
    assert text_of(redis, session) == "ab" and end_of(redis, session)[0] == "end"


def test_a_session_that_is_deleted(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r") as answer:
            await answer.delta("a")
            await until(lambda: text_of(redis, session))
            Step(redis.client, session).delete()
            await answer.delta("b")
            await answer.end()

    with pytest.raises(Deleted):
        asyncio.run(produce())
    assert fields(redis, session) == []


def test_a_key_of_another_type(redis, session):
    redis.client.set(key(session), "x")
    with pytest.raises(Refused):
        asyncio.run(Producer(redis.url, session, "r").open())


def test_a_user_without_rights(new_redis, session):
    server = new_redis()
    server.client.acl_setuser("p", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-xadd"])
    with pytest.raises(Refused):
        asyncio.run(Producer(server.url.replace("//", "//p:p@"), session, "r").open())
    with pytest.raises(Refused) as raised:
        asyncio.run(Producer(server.url.replace("//", "//p:s3cret@"), session, "r").open())
    assert "s3cret" not in str(raised.value)


def test_the_articles_rights_are_enough(new_redis, session):
    """Those that an operator is told to give: neither SCRIPT LOAD nor HELLO."""
    server = new_redis()
    article = (REPOSITORY / "Sources/BatonGateway/BatonGateway.docc/RunningBaton.md").read_text()
    rule = article.split("redis-cli ACL SETUSER baton-producer")[1].split("```")[0].replace("\\\n", " ").replace("'", "").split()
    server.client.execute_command("ACL", "SETUSER", "baton-producer", *rule)
    with sync.Producer(server.url.replace("//", "//baton-producer:producer-password@"), session, "r") as answer:
        answer.delta("a")
        cancel(server, session)
        wait_for(lambda: answer.is_cancelled)
    assert end_of(server, session) == ("cancelled", {"reason": "cancel"})


# MARK: what Redis does to it


class Flaky:
    """A client that loses every third reply after the command was done."""

    def __init__(self, client, dice):
        self.client, self.dice = client, dice

    def __getattr__(self, name):
        return getattr(self.client, name)

    async def evalsha(self, *arguments):
        reply = await self.client.evalsha(*arguments)
        if self.dice.random() < 0.3:
            raise redis.exceptions.ConnectionError("the reply is lost")
        return reply


class Losing(redis.asyncio.Redis):
    """As redis-py under Python 3.11, whose `wait_for` loses a cancellation that comes together with the reply."""

    holds, held = False, 0

    async def execute_command(self, *arguments, **options):
        reply = await super().execute_command(*arguments, **options)
        if self.holds:
            self.held += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return reply


def test_a_cancellation_that_the_client_loses_counts(redis, session):
    async def produce():
        client = Losing(port=redis.port)
        answer = await Producer(client, session, "r").open()
        client.holds = True
        await answer.delta("a")
        await until(lambda: client.held == 2)  # the append and the look at the inbox
        client.holds = False
        answer._driver._task.cancel()  # as closing does; it cancels the look at the inbox
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        await client.aclose()

    asyncio.run(produce())


@pytest.mark.parametrize("seed", range(10))
def test_one_text_whatever_happens(seed, redis, session):
    """Replies are lost, writers take over, keys vanish together: the stream says what was meant."""
    dice = random.Random(seed)
    meant = [f"{n} " for n in range(1, 200)]

    async def produce():
        client = Flaky(redis_asyncio(redis), dice)
        producer = await Producer(client, session, "r", window=0.001).open()
        zombie = None
        for n, text in enumerate(meant, 1):
            await producer.delta(text)
            event = dice.random()
            if event < 0.02:
                # All of it, or Redis would lose more than the producer still has after a take-over.
                if zombie is None:
                    redis.client.delete(*Step(redis.client, session).keys)
            elif event < 0.04 and zombie is None:
                await until(lambda: producer._driver.writer.items.known == n)
                zombie, producer = producer, await Producer(client, session, "r", window=0.001).open()
                assert producer.n == n
            elif dice.random() < 0.3:
                await asyncio.sleep(0.002)
        await producer.end()
        if zombie:
            with pytest.raises(Fenced):
                await zombie.delta("zombie")
                await zombie.end()
        with pytest.raises(Ended):
            await Producer(client, session, "r").open()
        await client.aclose()

    asyncio.run(produce())
    assert text_of(redis, session) == "".join(meant) and end_of(redis, session)[0] == "end"


@pytest.mark.parametrize("whose", ["redis-py's own retries", "ours"])
def test_a_lost_reply_doubles_nothing(redis, session, whose):
    calls = iter(range(1, 1000))
    lossy = LossyRedis(redis, lambda said: b"EVALSHA" in said and next(calls) % 3 == 2)

    async def produce():
        client = lossy.url if whose == "ours" else redis_asyncio(lossy)
        async with Producer(client, session, "r", window=0.001) as answer:
            for word in WORDS[:20]:
                await answer.delta(word)
                await asyncio.sleep(0.01)

        if whose != "ours":
            await answer.aclose()
            await client.aclose()

    asyncio.run(produce())
    assert lossy.lost and text_of(redis, session) == "".join(WORDS[:20]) and end_of(redis, session)[0] == "end"


def test_a_connection_that_is_cut(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r") as answer:
            for word in WORDS:
                await answer.delta(word)
                if word in ("w20 ", "w50 "):
                    redis.client.client_kill_filter(_type="normal", skipme=True)
                await asyncio.sleep(0.002)

    asyncio.run(produce())
    assert text_of(redis, session) == "".join(WORDS) and end_of(redis, session)[0] == "end"


def test_a_server_that_forgets_is_told_again(new_redis, session):
    """A restart without a disk: all of the answer is appended again, also what it lost just after the end."""
    server = new_redis()

    async def produce():
        async with Producer(server.url, session, "r") as answer:
            for word in WORDS[:50]:
                await answer.delta(word)
            await until(lambda: text_of(server, session) == "".join(WORDS[:50]))
            server.kill()
            server.start()
            for word in WORDS[50:]:
                await answer.delta(word)
        assert text_of(server, session) == "".join(WORDS)
        server.client.flushall()
        await until(lambda: len(fields(server, session)) > 2 and end_of(server, session)[0] == "end")
        assert text_of(server, session) == "".join(WORDS)
        await answer.aclose()

    asyncio.run(produce())


def test_what_is_kept_is_bounded(redis, session):
    """What was lost beyond it stays lost; the numbers say so."""
    words = [f"{n:03} {'x' * 100} " for n in range(1, 101)]

    async def produce():
        async with Producer(redis.url, session, "r", kept_bytes=5000) as answer:
            for word in words[:99]:
                await answer.delta(word)
            items = answer._driver.writer.items
            await until(lambda: items.known == 99)
            assert items._bytes <= 5000
            redis.client.delete(*Step(redis.client, session).keys)
            await answer.delta(words[99])

    asyncio.run(produce())
    text = text_of(redis, session)
    assert "".join(words).endswith(text) and 2000 < len(text) <= 5000 and end_of(redis, session)[0] == "end"
    numbered = [entry for entry in fields(redis, session) if "n" in entry]
    assert numbered[-1]["n"] == "100" and int(numbered[0]["n"]) - int(numbered[0].get("joined", 1)) + 1 == int(text[:3])


def test_a_server_that_hangs_longer_than_the_time_out(new_redis, session):
    """redis-py gives a reply 5 s."""
    server = new_redis()

    async def produce():
        async with Producer(server.url, session, "r", window=0.001) as answer:
            await answer.delta("a")
            await until(lambda: text_of(server, session) == "a")
            server.pause()
            await answer.delta("b")
            await asyncio.sleep(6)  # the time-out's length is the point
            server.resume()
            await answer.delta("c")

    asyncio.run(produce())
    assert text_of(server, session) == "abc"


def test_a_server_that_stays_away(session):
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(Unavailable):
        asyncio.run(Producer(url, session, "r", open_patience=0.2).open())


def test_patience_ends(new_redis, session):
    server = new_redis()

    async def produce():
        async with Producer(server.url, session, "r", patience=0.3) as answer:
            server.kill()
            await answer.delta("a")
            await answer.end()

    with pytest.raises(Unavailable):
        asyncio.run(produce())


def test_a_full_buffer_waits(new_redis, session):
    server = new_redis()

    async def produce():
        async with Producer(server.url, session, "r", kept_bytes=100_000) as answer:
            server.pause()
            sent = 0

            async def send():
                nonlocal sent
                for _ in range(10):
                    await answer.delta("x" * 50_000)
                    sent += 1

            sending = asyncio.create_task(send())
            await asyncio.sleep(0.3)  # nothing tells that it waits
            assert sent <= 3
            server.resume()
            await sending

    asyncio.run(produce())
    assert len(text_of(server, session)) == 500_000


def test_the_lease_is_renewed_while_the_model_thinks(redis, gateway, session, attach):
    """For longer than the 15 s after which a gateway takes a producer for dead."""
    device = attach(gateway, session).until_live()

    def token():
        return redis.client.hget(f"{key(session)}:producers", "r").split()[3]

    with sync.Producer(redis.url, session, "r") as answer:
        first = token()
        time.sleep(16)
        assert token() not in (first, b"-") and token().split(b".")[0] == first.split(b".")[0]
        answer.delta("late")
    device.until(lambda device: device.view.text == "late")
    assert end_of(redis, session)[0] == "end"


# MARK: what people want


def test_a_cancel_stops_the_block(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r") as answer:
            await answer.delta("a")
            cancel(redis, session, "other")
            cancel(redis, session)
            began = time.monotonic()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert time.monotonic() - began < 5
                await answer.delta(" (stopped)")
                raise
        assert answer.is_cancelled and answer.ending == "cancelled" and asyncio.current_task().cancelling() == 0

    asyncio.run(produce())
    assert text_of(redis, session) == "a (stopped)" and end_of(redis, session) == ("cancelled", {"reason": "cancel"})


def test_a_cancel_may_come_first(redis, session):
    cancel(redis, session)

    async def produce():
        async with Producer(redis.url, session, "r"):
            await asyncio.Event().wait()

    asyncio.run(produce())
    assert end_of(redis, session)[0] == "cancelled"


def test_a_cancel_from_outside_is_no_devices(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r"):
            cancel(redis, session)
            asyncio.current_task().cancel()
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(produce())
    assert end_of(redis, session)[0] == "cancelled"


def test_a_cancel_from_outside_beside_a_devices_is_not_swallowed(redis, session):
    async def produce():
        async with Producer(redis.url, session, "r"):
            cancel(redis, session)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                asyncio.current_task().cancel()
                await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(produce())
    assert end_of(redis, session)[0] == "cancelled"


def test_without_async_the_next_delta_is_told(redis, session):
    with sync.Producer(redis.url, session, "r") as answer:
        answer.delta("a")
        cancel(redis, session)
        wait_for(lambda: answer.is_cancelled)
        with pytest.raises(Cancelled):
            answer.delta("b")
        answer.delta(" (stopped)")
        raise Cancelled
    assert text_of(redis, session) == "a (stopped)" and end_of(redis, session) == ("cancelled", {"reason": "cancel"})


def test_messages(redis, session):
    say(redis, session, "before")

    async def produce():
        answer = await Producer(redis.url, session, "r").open()
        for n in range(200):
            say(redis, session, f"m{n}")
        heard = []
        async for message in answer.messages():
            heard.append(message)
            if len(heard) == 1:
                cancel(redis, session)
                await until(lambda: answer.is_cancelled)
            if message.data == "m199":
                await answer.end("cancelled")
        return heard

    heard = asyncio.run(produce())
    assert [message.data for message in heard if message.kind == "input"] == [f"m{n}" for n in range(200)]
    (stop,) = [n for n, message in enumerate(heard) if message.kind == "cancel"]
    assert stop <= 1 and heard[stop].device == "phone" and heard[stop].subject == "ada"


def test_messages_without_async(redis, gateway, session):
    with sync.Producer(redis.url, session, "r") as answer:
        with sync.attach(gateway.url, session, device="phone") as chat:
            id = chat.input("Shorter, please.")
            message = next(answer.messages())
        assert (message.kind, message.data, message.id, message.device) == ("input", "Shorter, please.", id, "phone")


# MARK: a model's answer


def chunk(text=None, finish=None, **more):
    return {"choices": [{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}], **more}


ANSWERS = json.loads((REPOSITORY / "Tests/Conformance/upstream/answers.json").read_text())["cases"]


def events_of(case):
    """The events of an answer's body, where a strict reader (openai-python's) finds one JSON text in each."""
    body = case["body"]
    lines = [line for line in body.split("\n") if line] if isinstance(body, str) else []
    if case["status"] != 200 or not lines or not all(line.startswith("data:") for line in lines):
        return None
    texts = [line[5:].strip() for line in lines]
    try:
        return [text if text == "[DONE]" else json.loads(text) for text in texts if text]
    except ValueError:
        return None


READABLE = [case for case in ANSWERS if events_of(case) is not None]


def test_there_are_answers():
    assert len(READABLE) >= 20


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case["name"])
def test_what_servers_answer(case):
    completion = Completion()
    text = "".join(completion.received(event) for event in events_of(case)) + completion.rest()
    end, data = completion.end()
    want = case["want"]
    assert text == want["text"] and end in want["end"], data
    for name in ("reason", "message", "finish_reason", "not_shown"):
        if name in want:
            assert json.loads(data)[name] == want[name]


class Stream:
    """As openai-python's: an iterator with `close`."""

    def __init__(self, chunks, error=None, then=None):
        self.chunks, self.error, self.then, self.closed = iter(chunks), error, then, False

    def __iter__(self):
        yield from self.chunks
        if self.then:
            self.then()
        if self.error:
            raise self.error

    def close(self):
        self.closed = True


class AsyncStream(Stream):
    async def __aiter__(self):
        for chunk in self.chunks:
            yield chunk
        if self.then:
            await self.then()
        if self.error:
            raise self.error

    async def close(self):
        self.closed = True


@pytest.mark.parametrize("kind", ["sync", "async", "dicts"])
def test_a_stream_is_published(redis, session, kind):
    chunks = [chunk("Hello "), chunk("world"), chunk(None, "stop"), {"choices": [], "usage": {"total_tokens": 5}}]
    if kind == "sync":
        stream = Stream(chunks)
        assert sync.openai_to_baton(stream, sync.Producer(redis.url, session, "r")) == "end"
    else:
        stream = AsyncStream(chunks) if kind == "async" else Stream(chunks)
        assert asyncio.run(openai_to_baton(stream, Producer(redis.url, session, "r"))) == "end"
    assert text_of(redis, session) == "Hello world" and stream.closed
    assert end_of(redis, session) == ("end", {"finish_reason": "stop", "usage": {"total_tokens": 5}})


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("chunks, raises, end", [
    ([chunk("a")], None, ("error", {"reason": "model_cut"})),
    ([chunk("a")], ConnectionError("gone"), ("error", {"reason": "model_cut", "message": "ConnectionError"})),
    ([chunk("a", "stop")], ConnectionError("gone"), ("end", {"finish_reason": "stop"})),
    ([chunk("a", "error")], None, ("error", {"finish_reason": "error", "reason": "model_error"})),
    ([chunk("a"), {"error": {"message": "too long"}}], None, ("error", {"message": "too long", "reason": "model_error"})),
    ([chunk("a"), "[DONE]"], None, ("end", {})),
])  # fmt: skip
def test_what_is_no_whole_answer(redis, session, is_async, chunks, raises, end):
    expected = pytest.raises(type(raises)) if raises and end[0] != "end" else contextlib.nullcontext()
    with expected:
        if is_async:
            asyncio.run(openai_to_baton(AsyncStream(chunks, raises), Producer(redis.url, session, "r")))
        else:
            sync.openai_to_baton(Stream(chunks, raises), sync.Producer(redis.url, session, "r"))
    assert text_of(redis, session) == "a" and end_of(redis, session) == end


def test_a_cancel_closes_the_stream(redis, session):
    async def forever():
        cancel(redis, session)
        await asyncio.Event().wait()

    stream = AsyncStream([chunk("a")], then=forever)
    assert asyncio.run(openai_to_baton(stream, Producer(redis.url, session, "r"))) == "cancelled"
    assert stream.closed and text_of(redis, session) == "a" and end_of(redis, session) == ("cancelled", {"reason": "cancel"})


def test_a_cancel_closes_the_stream_without_async(redis, session):
    def chunks():
        yield chunk("a")
        cancel(redis, session)
        while True:
            time.sleep(0.01)
            yield chunk("x")

    stream = Stream(chunks())
    assert sync.openai_to_baton(stream, sync.Producer(redis.url, session, "r")) == "cancelled"
    assert stream.closed and end_of(redis, session) == ("cancelled", {"reason": "cancel"})


# MARK: the same by the openai package itself

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "stream": True}


@pytest.fixture
def model():
    servers = []

    def new(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield new
    for server in servers:
        server.close()


def event(value):
    return f"data: {json.dumps(value)}\n\n"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("events, end", [
    ([chunk("Hello", "stop")], ("end", {"finish_reason": "stop"})),
    ([chunk("Hello")], ("error", {"reason": "model_cut"})),
    ([chunk("Hello"), {"error": {"message": "out of memory"}}], ("error", {"message": "out of memory", "reason": "model_error"})),
    ([chunk("Hello"), chunk(None, "length"), {"choices": [], "usage": {"total_tokens": 3}}], ("end", {"finish_reason": "length", "usage": {"total_tokens": 3}})),
])  # fmt: skip
def test_what_openai_makes_of_it(redis, session, model, is_async, events, end):
    server = model(lambda on, _: (on.begin(), on.tell(*map(event, events))))
    options = {"base_url": server.url, "api_key": "none", "max_retries": 0}

    async def publish():
        async with openai.AsyncOpenAI(**options) as client:
            await openai_to_baton(await client.chat.completions.create(**REQUEST), Producer(redis.url, session, "r"))

    with contextlib.suppress(openai.APIError):
        if is_async:
            asyncio.run(publish())
        else:
            sync.openai_to_baton(openai.OpenAI(**options).chat.completions.create(**REQUEST), sync.Producer(redis.url, session, "r"))
    assert text_of(redis, session) == "Hello"
    how, data = end_of(redis, session)
    assert (how, {name: data[name] for name in end[1]}) == end and set(data) <= {*end[1], "usage"}


def test_a_cancel_reaches_the_model(redis, session, model):
    def answer(on, _):
        on.begin()
        on.tell(event(chunk("Hello")))
        cancel(redis, session)
        on.until_gone()

    server = model(answer)

    async def publish():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return await openai_to_baton(await client.chat.completions.create(**REQUEST), Producer(redis.url, session, "r"))

    assert asyncio.run(publish()) == "cancelled" and server.gone.wait(10)
    assert end_of(redis, session) == ("cancelled", {"reason": "cancel"})
