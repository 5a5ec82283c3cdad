"""What the article Running Baton says of memory: of a gateway for a device that is live and idle, of Redis for an answer.

    .venv/bin/python Tests/EndToEnd/measure.py
"""

import asyncio
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from support.crowd import Member, live, open_all, read_all
from support.process import BATON
from support.servers import Gateway, Redis

TOKENS = [f"word{n:03} " for n in range(1000)]


def device_bytes(redis, folder, count=3000):
    """Resident memory that each of `count` WebSocket devices of one session adds, once all are live."""
    gateway = Gateway(folder, redis.url, "gw-memory")

    async def run():
        warm = [Member(gateway.port, "memory") for _ in range(100)]
        await open_all(warm)
        await read_all(warm, live)
        before = gateway.process.rss()
        members = [Member(gateway.port, "memory") for _ in range(count)]
        await open_all(members)
        await read_all(members, live)
        return (gateway.process.rss() - before) / count

    try:
        return asyncio.run(run())
    finally:
        gateway.kill()


def bare_answer_bytes(redis):
    """Memory in Redis of an answer of 1,000 tokens, an `XADD` each."""
    redis.client.delete("baton:{bare}")
    for n, token in enumerate(TOKENS, 1):
        redis.client.xadd("baton:{bare}", {"response": "r1", "n": n, "data": token})
    return redis.client.memory_usage("baton:{bare}", samples=0)


def produced_answer_bytes(redis, tokens_per_second=100):
    """The same through the producer library's window of 20 ms, with all keys of the session."""
    redis.client.delete("baton:{window}", "baton:{window}:producers")
    producer = subprocess.Popen([BATON, "publish", "window", "--redis", redis.url], stdin=subprocess.PIPE)
    for token in TOKENS:
        producer.stdin.write(token.encode().rstrip() + b"\n")
        producer.stdin.flush()
        time.sleep(1 / tokens_per_second)
    producer.stdin.close()
    assert producer.wait(30) == 0
    return sum(redis.client.memory_usage(key, samples=0) for key in redis.client.scan_iter("baton:{window}*"))


def main():
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(folder)
        try:
            print(f"a device that is live and idle: {device_bytes(redis, folder) / 1024:.1f} KiB of a gateway")
            print(f"1,000 tokens, an XADD each: {bare_answer_bytes(redis) / 1000:.0f} kB of Redis")
            print(f"1,000 tokens at 100/s in a producer's window: {produced_answer_bytes(redis) / 1000:.0f} kB of Redis")
        finally:
            redis.kill()


if __name__ == "__main__":
    main()
