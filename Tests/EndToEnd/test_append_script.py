"""The atomic step against real servers: the cases of Tests/Conformance/producer, and what only a server shows."""

import contextlib
import itertools
import json
import pathlib
import random
import re
import subprocess
import time

import pytest
import redis
from redis import crc

from support import versions
from support.process import REPOSITORY
from support.step import Step

CASES = sorted((pathlib.Path(__file__).parents[1] / "Conformance/producer").glob("*.json"))


@contextlib.contextmanager
def redis_server(binary, folder):
    path = str(folder / "redis.sock")
    command = [binary, "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=path)
    try:
        deadline = time.monotonic() + 30
        while not answers(client):
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=versions.NAMES)
def server(request, tmp_path_factory):
    with redis_server(versions.path(request.param), tmp_path_factory.mktemp("redis")) as client:
        yield client


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


@pytest.fixture
def session():
    return f"s{random.getrandbits(64):x}"


def substitute(value, bound):
    if isinstance(value, list):
        return [substitute(part, bound) for part in value]
    return bound.get(value, value) if isinstance(value, str) and value.startswith("$") else value


def matches(expected, reply, bound):
    for want, got in itertools.zip_longest(expected, reply[: len(expected)]):
        if want is not None and want.startswith("$"):
            want = bound.setdefault(want, got)
        if want != "*" and want != got:
            return False
    return True


def fields(client, key):
    """Names and values in turn, but for what Redis 6 alone needs."""
    text = lambda part: part.decode()
    raw = client.execute_command("XRANGE", key, "-", "+") if client.exists(key) else []
    return [[text(part) for pair in entry.items() if pair[0] != b"_after" for part in pair] for _, entry in raw]


def run_case(server, session, case, doubled=False):
    step, bound = Step(server, session), {}
    keys = dict(zip(["stream", "producers", "inbox", "keys"], step.keys))
    for index, call in enumerate(case["steps"]):
        call = dict(call)
        if "redis" in call:
            server.execute_command(*(keys.get(word, word) for word in call["redis"]))
            continue
        expected, operation = call.pop("reply"), call.pop("call")
        call = {name: substitute(value, bound) for name, value in call.items()}
        reply = getattr(step, operation)(**call)
        assert matches(expected, reply, bound), f"step {index}: {reply}"
        if doubled and operation in ("open", "append"):
            again = getattr(step, operation)(**call)
            assert again[:4] == reply[:4], f"step {index} again: {again}"
    for name in ("stream", "inbox"):
        if name in case:
            assert fields(server, keys[name]) == case[name]


@pytest.mark.parametrize("doubled", [False, True], ids=["once", "every reply lost once"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path, doubled, server, session):
    run_case(server, session, json.loads(path.read_text()), doubled)


def test_where_nothing_is_counted_a_first_entry_tells_after_what_it_came(server, session):
    step = Step(server, session)
    told = []

    def put():
        id = step.put("stream", ["data", "x"])[1]
        told.append(server.xrange(step.keys[0], id, id)[0][1].get(b"_after"))
        return id.encode()

    put()
    last = put()
    server.xtrim(step.keys[0], maxlen=0, approximate=False)
    put()
    server.delete(step.keys[0])
    put()
    counts = int(server.info("server")["redis_version"].partition(".")[0]) >= 7
    assert told == ([None] * 4 if counts else [b"0-0", None, last, b"0-0"])
    # Only the first of several that one call adds.
    server.delete(*step.keys)
    step.open("r1", "a.0", items=[("start",), ("deltas", "one"), ("deltas", "two")])
    assert [b"_after" in entry for _, entry in server.xrange(step.keys[0])] == [not counts, False, False]


def test_every_key_slides(server, session):
    step = Step(server, session, ttl=1000)
    step.open("r1", "a.0", items=[("start",)])
    step.put("both", ["event", "input", "data", "x"], scope="k", key="k")
    for n in range(1, 6):
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            time.sleep(0.02)
        assert step.append("r1", "a.0", n, [("deltas", "x")])[0] == "ok"
    assert server.exists(*step.keys) == 4
    assert all(0 < server.pttl(key) <= 1000 for key in step.keys)


def test_length_is_capped(server, session):
    step = Step(server, session, cap=10)
    step.open("r1", "a.0", items=[("start",), *(("deltas", str(n)) for n in range(1, 101))])
    assert [entry[-1] for entry in fields(server, step.keys[0])] == [str(n) for n in range(91, 101)]


HOUR = 3_600_000


def test_a_gateway_leaves_what_a_bare_producer_wrote(server, session):
    gateway = Step(server, session, cap=10, guest=True)
    for n in range(100):
        server.xadd(gateway.keys[0], {"data": n})
    gateway.put("both", ["event", "input", "data", "x"], scope="k", key="k")
    gateway.put("stream", ["data", "x"])
    gateway.open("r1", "w", items=[("start",), ("deltas", "x"), ("end",)])
    assert server.xlen(gateway.keys[0]) == 105 and server.pttl(gateway.keys[0]) == -1
    assert all(23 * HOUR < server.pttl(key) <= 24 * HOUR for key in gateway.keys[1:])


def test_what_a_gateway_adds_lives_as_long_as_the_stream(server, session):
    gateway = Step(server, session, guest=True)
    server.xadd(gateway.keys[0], {"data": "x"})
    server.pexpire(gateway.keys[0], 100 * HOUR)
    gateway.put("both", ["event", "input", "data", "x"], scope="k", key="k")
    for key in [gateway.keys[0], *gateway.keys[2:]]:
        assert 99 * HOUR < server.pttl(key) <= 100 * HOUR


@pytest.mark.parametrize("ttl", [2 * HOUR, 200 * HOUR])
def test_retention_is_the_producers(ttl, server, session):
    producer, gateway = Step(server, session, ttl=ttl, cap=50), Step(server, session, cap=10, guest=True)
    producer.open("r1", "a.0", items=[("start",), *(("deltas", "x") for _ in range(40))])
    for key in producer.keys[:2]:
        server.pexpire(key, HOUR)
    for n in range(20):
        gateway.put("both", ["event", "input", "data", "x"], scope=f"k{n}", key=f"k{n}")
        gateway.put("stream", ["data", "x"])
    assert gateway.expire("r1", 1, "a.0")[0] == "ok"
    # The life that the producer gave is renewed, and nothing is trimmed before the producer's next append.
    assert server.xlen(producer.keys[0]) == 82
    assert all(ttl - HOUR / 2 < server.pttl(key) <= ttl for key in producer.keys)
    producer.open("r2", "b.0", items=[("start",)])
    assert server.xlen(producer.keys[0]) == 50


def test_a_gateway_does_not_limit_a_life_without_end(server, session):
    producer, gateway = Step(server, session), Step(server, session, guest=True)
    producer.open("r1", "a.0", items=[("start",)])
    server.persist(producer.keys[0])
    gateway.put("both", ["event", "input", "data", "x"])
    assert server.pttl(producer.keys[0]) == -1


def test_a_session_that_a_gateway_creates_has_the_gateways_retention(server, session):
    gateway = Step(server, session, ttl=HOUR, cap=10, guest=True)
    for n in range(30):
        gateway.put("stream", ["data", "x"], scope=f"k{n}")
    assert server.xlen(gateway.keys[0]) == 10 and 0 < server.pttl(gateway.keys[0]) <= HOUR
    other = Step(server, session, ttl=2 * HOUR, cap=5, guest=True)
    other.put("stream", ["data", "x"])
    assert server.xlen(gateway.keys[0]) == 10 and 0 < server.pttl(gateway.keys[0]) <= HOUR


def test_a_stream_that_outlived_its_state_is_not_new(server, session):
    step = Step(server, session)
    step.open("r1", "a.0", items=[("start",), ("deltas", "a"), ("deltas", "b")])
    step.open("r2", "b.0", items=[("start",), ("deltas", "x"), ("end",)])
    before = fields(server, step.keys[0])
    server.delete(step.keys[1])
    assert step.append("r1", "a.0", 2, [("deltas", "b"), ("deltas", "c")])[:4] == ["ok", "1", "3", "open"]
    assert fields(server, step.keys[0]) == before + [["response", "r1", "n", "3", "data", "c"]]
    assert step.append("r2", "b.0", 2, [("end",)])[:4] == ["ok", "1", "1", "end"]
    assert step.append("r1", "a.0", 5, [("deltas", "e")]) == ["rewind", "3"]
    assert step.append("r9", "a.0", 1, [("deltas", "e")]) == ["lost"]
    server.delete(step.keys[1])
    again = [("start",), ("deltas", "a"), ("deltas", "b"), ("deltas", "c"), ("end",)]
    assert step.open("r1", "a.0", items=again, epoch=1, generation=0)[:4] == ["ok", "1", "3", "end"]
    assert len(fields(server, step.keys[0])) == len(before) + 2


def test_the_look_for_lost_state_is_bounded(server, session):
    step = Step(server, session)
    pipe = server.pipeline()
    for n in range(3000):
        pipe.xadd(step.keys[0], {"response": f"r{n}", "n": 1, "data": "x"})
    pipe.execute()
    step.open("new", "a.0", items=[("start",)])
    assert 900 < server.hlen(step.keys[1]) < 1200
    server.delete(*step.keys)
    for _ in range(40):
        server.xadd(step.keys[0], {"response": "large", "n": 1, "data": "x" * 300_000})
    server.config_resetstat()
    step.open("new", "a.0", items=[("start",)])
    assert server.info("commandstats")["cmdstat_xrevrange"]["calls"] <= 3


REFUSED = ["hlen", "hkeys", "hdel", "xrange", "pttl", "pexpire", "hget", "hset", "hincrby", "xadd", "xrevrange", "type",
           "time", "del"]


@pytest.mark.parametrize("command", REFUSED)
def test_a_step_that_has_written_answers_what_it_wrote(command, server, session):
    """A user without one of the commands is told so, and nothing is written; or the step does without."""
    user = f"u{session}"
    server.acl_setuser(user, enabled=True, nopass=True, keys=["*"], commands=["+@all", f"-{command}"])
    path = server.connection_pool.connection_kwargs["path"]
    client = redis.Redis(unix_socket_path=path, username=user, password="x")
    step = Step(client, session)
    # So many that their number makes the step look for what it may forget.
    full = {f"r{n}": "1 1 end a.0 1-1 1" for n in range(1022)}
    server.hset(step.keys[1], mapping=full | {"/retention": "1 1 producer"})
    server.xadd(step.keys[0], {"data": "x"}, id="2-1")
    calls = [
        lambda: step.open("new", "a.0", items=[("start",), ("deltas", "x")]),
        lambda: step.append("new", "a.0", 2, [("deltas", "y")]),
        lambda: step.put("both", ["event", "input", "data", "x"], scope="k", key="k"),
        lambda: step.expire("new", 1, "a.0"),
        lambda: step.delete(),
    ]
    for call in calls:
        before = server.xlen(step.keys[0]), server.xlen(step.keys[2])
        try:
            assert call()[0] in ("ok", "lost", "changed")
        except redis.ResponseError as error:
            assert any(words in str(error).lower() for words in (command, "can't run this command", "acl")), error
            assert (server.xlen(step.keys[0]), server.xlen(step.keys[2])) == before
    server.acl_deluser(user)


def test_the_tombstone_stays_an_hour(server, session):
    step = Step(server, session)
    step.open("r1", "a.0", items=[("start",)])
    step.delete()
    assert server.exists(*step.keys) == 1
    assert 3_590_000 < server.pttl(step.keys[1]) <= 3_600_000


def test_a_thousand_keys_are_kept(server, session):
    step = Step(server, session)
    for k in range(1100):
        step.put("inbox", ["event", "cancel", "response", f"r{k}"], scope=f"k{k}")
    assert server.hlen(step.keys[3]) <= 2001
    assert server.xlen(step.keys[2]) == 1000
    again = lambda k: step.put("inbox", ["event", "cancel", "response", f"r{k}"], scope=f"k{k}")[3]
    assert again(100) == "again" and again(1099) == "again" and again(99) == "new"


def test_state_of_trimmed_responses_is_let_go(server, session):
    step = Step(server, session, cap=100)
    step.open("open", "a.0", items=[("start",)])
    for r in range(2500):
        step.open(f"r{r}", "a.0", items=[("start",), ("end",)])
    assert server.hlen(step.keys[1]) < 1200
    assert server.hget(step.keys[1], "r2499") and server.hget(step.keys[1], "open")
    assert step.append("r2499", "a.0", 1, [("end",)])[0] == "ok"


def test_a_malformed_call_writes_nothing(server, session):
    step = Step(server, session)
    bad = [
        ("append",), ("open", "r1"), ("nonsense",), ("open", "r 1", 0, "", "a.0", 1), ("open", "r1", 0, "", "a 0", 1),
        ("open", "r1", 0, "", "a.0", 1, "start", 0, "deltas", 3, "a", "b"),
        ("open", "r1", 0, "", "a.0", 1, "start", 1, "data"),
        ("open", "r1", 0, "", "a.0", 1, "deltas", 0),
        ("open", "r1", 0, "", "a.0", 1, "end", 0, "deltas", 1, "a"),
        ("open", "r1", 0, "", "a.0", 1, "sing", 0),
        ("put", "nowhere", "", "", "", "", 0),
    ]
    for call in bad:
        with pytest.raises(redis.ResponseError):
            step(*call)
    assert server.exists(*step.keys) == 0


def test_bytes_are_kept(server, session):
    step, data = Step(server, session), bytes(range(256))
    step.open("r1", "a.0", items=[("start",), ("deltas", data[:100], data[100:]), ("event", b"\xff", b"\x00")])
    entries = server.xrange(step.keys[0])
    assert entries[1][1][b"data"] == data and entries[2][1][b"\xff"] == b"\x00"


# MARK: hearing people


def test_the_articles_lines_hear_stop(server, session):
    article = (REPOSITORY / "Sources/BatonProtocol/BatonProtocol.docc/AppendScript.md").read_text()
    names = {}
    exec(re.search(r"<!-- tested: stop -->\n```python\n(.*?)```", article, re.S)[1], names)
    inbox, step = names["Inbox"](server, session, "r1"), Step(server, session)
    assert not inbox.asks_to_stop()
    step.put("both", ["event", "input", "data", "x"])
    step.put("inbox", ["event", "cancel", "response", "r2"])
    assert not inbox.asks_to_stop() and not inbox.asks_to_stop()
    step.put("inbox", ["event", "cancel", "response", "r1"])
    assert inbox.asks_to_stop()


def test_what_ends_is_recorded_only_where_webhooks_are_sent(server, session):
    word = next(word for word in ("".join(letters) for letters in itertools.product("@ABCDEFGHIJKLMNO", repeat=4))
                if crc.key_slot(f"{{webhooks:{word}}}".encode()) == crc.key_slot(session.encode()))  # fmt: skip
    hash, step = f"baton:{{webhooks:{word}}}:pending", Step(server, session)
    told = server.pubsub()
    told.subscribe("baton:webhooks")
    step.open("r0", "w", items=[("end",)])
    assert not server.exists(hash)
    server.hset(hash, "/", "1")
    step.open("r1", "w.1", items=[("deltas", "a", "b")])
    assert server.hgetall(hash) == {b"/": b"1", f"{session} =r1".encode(): b"open r1 2"}
    step.append("r1", "w.2", 3, [("deltas", "c")])
    last = step.append("r1", "w.2", 4, [("cancelled",)])[5]
    # Once more, as after a lost reply.
    assert step.append("r1", "w.2", 4, [("cancelled",)])[5] == last
    step.open("r2", "w.1")
    lost = step.expire("r2", 1, "w.1")[1]
    posted, asked = step.put("stream", ["event", "error", "response", "r3"])[1], step.put("both", ["event", "input", "data", "x"])[1]
    # No end of a response, and nothing that a producer would not hear.
    step.put("stream", ["event", "end"])
    step.put("stream", ["data", "x", "response", "r4"])
    step.put("inbox", ["event", "cancel", "response", "r4"])
    found = {field.decode(): value.decode() for field, value in server.hgetall(hash).items()}
    assert found == {"/": "1", f"{session} {last}": "cancelled r1 3", f"{session} {lost}": "error r2 0",
                     f"{session} {posted}": "error r3 0", f"{session} {asked}": "input - 0"}  # fmt: skip
    messages = [told.get_message(timeout=5) for _ in range(5)]
    assert [message["data"] for message in messages[1:]] == [word.encode()] * 4
    told.close()
