"""Section 10.4 and 10.5: many devices, devices that do not read, many sessions at once."""

import asyncio
import random

import pytest
from support.checker import place
from support.crowd import Member, at, live, open_all, read_all

MIB = 1024 * 1024


async def _close(members):
    await asyncio.gather(*(member.close() for member in members))


def test_3000_devices_on_one_node(redis, new_gateway, session):
    """A thousand on one session, ten on each of two hundred others; every device gets exactly its stream."""
    gateway = new_gateway(redis.url, "gw-3000")
    sessions = [session] + [f"{session}-{n}" for n in range(200)]

    async def run():
        members = [Member(gateway.port, session, "rollup=off") for _ in range(1000)]
        members += [Member(gateway.port, one) for one in sessions[1:] for _ in range(10)]
        await open_all(members)
        await read_all(members, live)
        redis.add_tokens(session, [f"w{n} " for n in range(50)], "r")
        for one in sessions[1:]:
            redis.add_tokens(one, [f"{one} {n} " for n in range(5)], "r")
        streams = {one: redis.stream(one) for one in sessions}
        await asyncio.gather(*(member.read(at(streams[member.session][-1][0]), 90) for member in members))
        for member in members:
            member.judge(streams[member.session])
            assert member.view.resets == []
        await _close(members)

    asyncio.run(run())


def test_50_devices_that_stop_reading(redis, new_gateway, session):
    """Others get everything meanwhile, memory stays bounded, and the 50 catch up when they read again."""
    gateway = new_gateway(redis.url, "gw-50", "--max-stall", "10m")
    text = "x" * 1000

    async def run():
        others = await open_all([Member(gateway.port, session) for _ in range(5)])
        await read_all(others, live)
        stalled = await open_all([Member(gateway.port, session, receive_buffer=4096) for _ in range(50)])
        redis.add_tokens(session, [f"w{n} {text}" for n in range(1000)], "r")
        await read_all(others, at(redis.stream(session)[-1][0]))
        before = gateway.process.rss()
        for start in range(1001, 12_001, 1000):
            ids = redis.add_tokens(session, [f"w{n} {text}" for n in range(start, start + 1000)], "r", start)
            await read_all(others, at(ids[-1]))
        grown = gateway.process.rss() - before
        # 11 MB were sent to 55 devices. Each stalled one may hold what its socket and one write hold.
        assert grown < 64 * MIB, f"grew by {grown / MIB:.0f} MiB"
        stream = redis.stream(session)
        for member in others:
            member.judge(stream)
        await asyncio.gather(*(member.resume() for member in stalled))
        await read_all(stalled, lambda member: place(member.view.offset or "0") >= place(stream[-1][0]) and member.view.live, 120)
        for member in stalled:
            member.judge(stream)
            assert member.view.resets == []
        await _close(others + stalled)

    asyncio.run(run())


def test_a_live_device_that_falls_out_of_the_window_is_told_behind(redis, gateway, session):
    async def run():
        slow = Member(gateway.port, session, receive_buffer=4096)
        await slow.open()
        await slow.resume()
        await slow.read(live)
        slow.writer.transport.pause_reading()
        quick = await Member(gateway.port, session).open()
        await quick.read(live)
        for start in range(1, 20_001, 1000):
            ids = redis.add_tokens(session, ["y" * 1000] * 1000, "r", start)
            await quick.read(at(ids[-1]))
        slow.writer.transport.resume_reading()
        await slow.read(lambda member: at(ids[-1])(member) and member.view.live, 60)
        stream = redis.stream(session)
        slow.judge(stream)
        quick.judge(stream)
        assert "behind" in slow.kinds and slow.kinds.count("live") == 2
        assert slow.view.resets == []
        await _close([slow, quick])

    asyncio.run(run())


def test_a_device_that_takes_nothing_is_closed_with_4408(redis, new_gateway, session):
    gateway = new_gateway(redis.url, "gw-stall", "--max-stall", "2s")

    async def run():
        member = await Member(gateway.port, session, receive_buffer=4096).open()
        for start in range(1, 20_001, 1000):
            redis.add_tokens(session, ["z" * 1000] * 1000, "r", start)
        deadline = asyncio.get_running_loop().time() + 40
        while gateway.metric("baton_devices") and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
        assert not gateway.metric("baton_devices"), "the device is still held"
        await _close([member])

    asyncio.run(run())


@pytest.mark.parametrize("count", [400])
def test_hundreds_of_sessions_do_not_mix(redis, gateway, gateway2, session, count):
    """Every entry names its session; each device holds its own and nothing else, to the byte."""
    sessions = [f"{session}-{n}" for n in range(count)]
    order = [one for one in sessions for _ in range(25)]
    random.Random(7).shuffle(order)

    async def run():
        members = [Member(node.port, one, query) for one in sessions for node, query in ((gateway, ""), (gateway2, "rollup=20"))]
        await open_all(members)
        await read_all(members, live)
        written = dict.fromkeys(sessions, 0)
        for start in range(0, len(order), 500):
            pipeline = redis.client.pipeline(transaction=False)
            for one in order[start : start + 500]:
                written[one] += 1
                n = written[one]
                fields = {"data": f"<{one}:{n}>" * random.randint(1, 20), "response": one, "n": n}
                pipeline.xadd(f"baton:{{{one}}}", fields | (redis.after(one) if n == 1 else {}))
            pipeline.execute()
            await asyncio.sleep(0)
        streams = {one: redis.stream(one) for one in sessions}
        await asyncio.gather(*(member.read(at(streams[member.session][-1][0]), 90) for member in members))
        for member in members:
            member.judge(streams[member.session])
            assert member.view.resets == []
            assert f"<{member.session}:25>" in member.view.text
            assert member.view.text.count("<") == member.view.text.count(f"<{member.session}:")
        await _close(members)

    asyncio.run(run())


def test_devices_that_come_and_go_leave_nothing_behind(redis, new_gateway, session):
    """A thousand attaches that are cut: neither descriptors nor memory stay."""
    gateway = new_gateway(redis.url, "gw-churn")
    redis.add_tokens(session, ["x" * 100] * 100, "r")

    async def round():
        members = await open_all([Member(gateway.port, session) for _ in range(250)])
        await read_all(members, live)
        await _close(members)

    async def run():
        await round()
        await gone()
        descriptors, memory = gateway.process.descriptors(), gateway.process.rss()
        for _ in range(4):
            await round()
        await gone()
        assert gateway.process.descriptors() <= descriptors + 5
        assert gateway.process.rss() - memory < 16 * MIB

    async def gone():
        async with asyncio.timeout(20):
            while gateway.metric("baton_devices"):
                await asyncio.sleep(0.05)

    asyncio.run(run())
