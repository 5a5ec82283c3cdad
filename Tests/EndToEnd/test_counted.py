"""Counted, not timed: what a gateway asks of Redis."""

import asyncio

import pytest
from support.crowd import Member, at, live, open_all, read_all
from support.process import wait_for

READS = ("xread", "xrange", "xrevrange", "xinfo", "xinfo|stream", "eval", "evalsha", "eval_ro", "evalsha_ro")
MIB = 1024 * 1024


@pytest.fixture
def alone(new_redis, new_gateway):
    """A Redis and a gateway that nobody else uses."""
    redis = new_redis()
    return redis, new_gateway(redis.url)


def connections(redis):
    """Those of others than this client."""
    mine = redis.client.client_id()
    own = {client["addr"] for client in redis.client.client_list() if int(client["id"]) == mine}
    return sum(client["addr"] not in own for client in redis.client.client_list())


async def traffic(redis, gateway, sessions):
    """Devices on so many sessions get five entries each; the connections at the end, devices still attached."""
    members = await open_all([Member(gateway.port, one) for one in sessions])
    await read_all(members, live)
    for one in sessions:
        redis.add_tokens(one, ["a ", "b ", "c ", "d ", "e "], "r")
    last = {one: redis.stream(one)[-1][0] for one in sessions}
    await asyncio.gather(*(member.read(at(last[member.session])) for member in members))
    count = connections(redis)
    for member in members:
        member.judge(redis.stream(member.session))
        await member.close()
    return count


def test_connections_are_the_same_with_10_and_1000_sessions(alone):
    redis, gateway = alone
    few = asyncio.run(traffic(redis, gateway, [f"few-{n}" for n in range(10)]))
    many = asyncio.run(traffic(redis, gateway, [f"many-{n}" for n in range(1000)]))
    assert many == few


async def paced(redis, gateway, session, devices, entries=60):
    """Entries one by one, each awaited by all devices. The reads that Redis counted and the bytes that it sent."""
    members = await open_all([Member(gateway.port, session, "rollup=off") for _ in range(devices)])
    await read_all(members, live)
    calls, sent = redis.calls(*READS), redis.client.info("stats")["total_net_output_bytes"]
    for n in range(1, entries + 1):
        await read_all(members, at(redis.add(session, data="x" * 2000, response="r", n=str(n))))
    calls, sent = redis.calls(*READS) - calls, redis.client.info("stats")["total_net_output_bytes"] - sent
    for member in members:
        await member.close()
    return calls, sent


def test_an_entry_is_read_once_whatever_the_number_of_devices(alone):
    redis, gateway = alone
    calls_of_one, bytes_of_one = asyncio.run(paced(redis, gateway, "one", 1))
    calls_of_many, bytes_of_many = asyncio.run(paced(redis, gateway, "many", 200))
    # Room for a sweep that falls into one of them.
    assert calls_of_many <= calls_of_one * 1.2 + 5, (calls_of_one, calls_of_many)
    assert bytes_of_many <= bytes_of_one * 1.2 + 20_000, (bytes_of_one, bytes_of_many)
    # Each entry once, with at most one overlapping entry each.
    assert bytes_of_one <= 60 * 2 * 2300 + 20_000, bytes_of_one


def test_quiet_sessions_are_not_read(alone):
    redis, gateway = alone

    async def run():
        quiet = [f"quiet-{n}" for n in range(500)]
        for one in quiet:
            redis.add_tokens(one, ["x"])
        members = await open_all([Member(gateway.port, one) for one in quiet])
        await read_all(members, live)
        busy = await Member(gateway.port, "busy", "rollup=off").open()
        await busy.read(live)
        before = redis.calls(*READS)
        for n in range(200):
            await busy.read(at(redis.add("busy", data="x")))
        reads = redis.calls(*READS) - before
        # Two a busy entry at most, and one sweep over the quiet ones.
        assert reads <= 2 * 200 + 2 * 501 + 20, reads
        for member in [*members, busy]:
            await member.close()

    asyncio.run(run())


def test_a_quiet_node_asks_for_nothing(new_redis, new_gateway):
    redis = new_redis()
    gateway = new_gateway(redis.url, "gw-quiet", "--sweep", "10m")

    async def run():
        members = await open_all([Member(gateway.port, f"quiet-{n}") for n in range(300)])
        await read_all(members, live)
        wait_for(lambda: gateway.metric("baton_wakeup", mode="tracking") == 1, 20, "notices are proven")
        before = redis.calls(*READS)
        # Time has to pass for reads to be seen not to happen.
        for _ in range(4):
            assert gateway.get("/healthz").status == 200
            await asyncio.sleep(1)
        assert redis.calls(*READS) - before <= 10
        for member in members:
            await member.close()

    asyncio.run(run())


def test_nothing_per_device_grows_with_what_is_sent(alone):
    redis, gateway = alone

    async def run():
        members = await open_all([Member(gateway.port, "s") for _ in range(60)])
        await read_all(members, live)
        n = 1
        sizes = []
        for _ in range(6):
            for _ in range(10):
                ids = redis.add_tokens("s", ["token "] * 50, "r", n)
                n += 50
                await read_all(members, at(ids[-1]))
            sizes.append(gateway.process.rss())
        assert sizes[-1] - sizes[1] < 6 * MIB, [size // MIB for size in sizes]
        for member in members:
            await member.close()

    asyncio.run(run())


def test_the_key_prefix_is_an_option(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-k", "--key-prefix", "other:")
    device = attach(gateway, session).until_live()
    redis.add(session, data="not ours")
    id = redis.client.xadd(f"other:{{{session}}}", {"data": "ours"}).decode()
    device.until_at(id)
    assert device.text == "ours"
