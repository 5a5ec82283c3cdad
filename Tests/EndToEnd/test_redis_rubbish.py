"""A Redis that answers rubbish: types that nobody asked for, lengths that can't be, entries that are none. A gateway stands it, says so in few
and short lines, and goes on with the truth as soon as it is told."""

import contextlib
import json

import pytest
from support.event_stream import EventStream
from support.process import wait_for
from support.rubbish import Rubbish
from support.servers import Gateway, Redis
from test_attacks import rest
from websockets.exceptions import InvalidStatus

# What each is asked for by, besides what a gateway asks by itself.
COMMANDS = [
    "XREAD", "XRANGE", "XREVRANGE", "EVALSHA EVAL", "HGET HMGET HSCAN HLEN", "TYPE TIME PTTL", "EXEC MULTI XINFO", "INFO ROLE CLIENT",
    "PING XADD DEL PEXPIRE HSET",
]  # fmt: skip


@pytest.fixture(scope="module")
def truthful(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("truthful"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def between(truthful):
    between = Rubbish(truthful.port)
    yield between
    between.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, between):
    nodes = {how: Gateway(tmp_path_factory.mktemp("told-rubbish"), between.url, f"gw-{how}", "--wakeup", how, "--sweep", "1s") for how in ("tracking", "poll")}
    yield nodes
    for node in nodes.values():
        node.kill()


@pytest.mark.parametrize("how, of", [*(("tracking", of) for of in COMMANDS), ("poll", "XREAD")])
def test_a_redis_that_answers_rubbish(truthful, between, nodes, session, attach, how, of):
    gateway = nodes[how]
    truthful.add_tokens(session, ["a ", "b "], "r")
    device, stream = attach(gateway, session, follow=True).until_live(), EventStream(gateway, session)
    memory, descriptors, lines = gateway.process.rss(), gateway.process.descriptors(), len(gateway.process.logged().splitlines())
    body = {"Content-Type": "application/json"}
    between.said, between.of = 0, set(of.split())
    # It comes anew, and says again who it is.
    truthful.client.client_kill_filter(_type="normal", skipme=True)
    try:
        for n in range(20):
            truthful.add(session, data="x")
            # Whatever it says of all this.
            for method, path, sent, headers in [
                ("GET", f"/v1/sessions/{session}", None, {}), ("GET", f"/v1/sessions/{session}?limit=1&before=9-9", None, {}),
                ("POST", f"/v1/sessions/{session}", '{"data":"x"}', {**body, "Idempotency-Key": f"k{n}"}),
                ("POST", f"/v1/sessions/{session}?epoch=1", json.dumps({"response": f"r{n}", "n": 1, "data": "x"}) + "\n", {"Content-Type": "application/x-ndjson"}),
                ("GET", f"/v1/sessions/{session}/responses", None, {}), ("GET", f"/v1/sessions/{session}/responses/r", None, {}),
                ("POST", f"/v1/sessions/{session}/input", '{"data":"x"}', body), ("DELETE", f"/v1/sessions/{session}-{n}", None, {}),
            ]:  # fmt: skip
                with contextlib.suppress(TimeoutError):
                    gateway.request(method, path, sent, headers, seconds=2)
            assert gateway.process.alive, gateway.process.logged()[-2000:]
            if between.said > 150:
                break
    finally:
        between.of = set()
    assert between.said, "it was asked"
    assert gateway.process.rss() - memory < 64 << 20
    wait_for(lambda: gateway.get("/readyz").status == 200, 40, "it is ready again")

    def again():
        with contextlib.suppress(InvalidStatus):
            return attach(gateway, session)

    late = wait_for(again, 40, "it lets devices in again").until_live()
    id = truthful.add(session, data="the truth")
    for one in (late, device):
        one.until_at(id, 40)
    late.judge(truthful.stream(session))
    stream.close()
    assert gateway.process.descriptors() - descriptors < 16
    wait_for(lambda: rest(gateway) < 0.3, 20, "nothing is computed")
    told = gateway.process.logged().splitlines()[lines:]
    assert len(told) < 1000 and all(len(line) < 4096 and line.isprintable() for line in told), told[-3:]
