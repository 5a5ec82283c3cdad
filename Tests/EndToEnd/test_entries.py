"""Sections 2 and 4: whatever a producer appends arrives as it is, or is said to be too big."""

import base64
import os

import pytest
from support.checker import check, frame_of, offset, size
from support.versions import COUNTS_ENTRIES

LIMIT = 256 * 1024


@pytest.fixture
def arrives(redis, gateway, session, attach):
    """Adds one entry and returns its frame as a live device and as a later one get it; both must be the judge's."""

    def add(*fields):
        live = attach(gateway, session, rollup="off").until_live()
        id = redis.add(session, *fields)
        live.until_at(id)
        stream = redis.stream(session)
        live.judge(stream, rollup=False)
        late = attach(gateway, session, rollup="off").until_live()
        late.judge(stream, rollup=False)
        return live.entries[-1]

    return add


@pytest.mark.parametrize("fields", [
    ("data", "Hel"),
    ("data", ""),
    ("data", "🙂 ünïcödé \u2028 \u0000 \x1f \" \\ \n"),
    ("data", "{\"json\": [1, 2]}", "event", "tool.call"),
    ("data", "x", "event", "a:b-c_D.9"),
    ("data", "x", "event", "e" * 64),
    ("event", "start", "response", "r1"),
    ("event", "start"),
    ("event", "end", "response", "r1", "data", "{\"finish_reason\":\"stop\"}"),
    ("other", "x"),
    ("_ours", "x"),
    ("_ours", "x", "data", "y"),
    ("data", "x", "response", "r1", "n", "7"),
    ("data", "x", "response", "r1", "n", "9007199254740991"),
    ("data", "xyz", "response", "r1", "n", "9", "joined", "3"),
    ("data", "x", "response", "r1", "n", "7", "part", "text:0.1.msg_1"),
    ("event", "tool.output", "data", "{", "more", "1", "response", "r1", "n", "8", "part", "tool:call_1"),
    ("data", "x", "n", "1"),
    ("data", "x", "colour", "blue", "size", "9"),
    ("data", "x", "", "empty name"),
    ("data", "x", "empty value", ""),
    ("data", "x", "a", "1", "b", "2", "a", "3", "a", "4"),
    ("data", "first", "data", "second"),
    ("data", "x", "event", "one", "event", "two"),
    ("data", "x", "response", "r1", "response", "r2", "n", "1", "n", "2"),
    ("data", b"\xff\xfe\x00binary"),
    ("data", b"\xc3"),
    ("data", b"\xed\xa0\x80"),
    ("data", b"\xc0\x80"),
    ("data", b"\xf4\x90\x80\x80"),
    ("data", "x", "bin", b"\x80\x81"),
    ("data", "x", b"\xff\xfe", "value of a name that is not UTF-8"),
    ("data", "x", b"\xff", b"\xfe", b"\xff", "b"),
    ("data", "x", "a", b"\xfe", "a", "text"),
    ("type", "attached", "data", "x"),
    ("id", "1-0", "data", "x"),
])  # fmt: skip
def test_an_entry_arrives_as_it_is(arrives, fields):
    arrives(*fields)


@pytest.mark.parametrize("fields", [
    ("n", "0"), ("n", "-1"), ("n", "x"), ("n", ""), ("n", "1.5"), ("n", "9007199254740992"), ("n", "99999999999999999999999"), ("n", " 1"),
    ("n", b"\xff"),
    ("part", "text"), ("part", "text:"), ("part", ":a"), ("part", "Text:a"), ("part", "t:" + "x" * 127), ("more", "0"), ("more", "true"),
    ("joined", "0"), ("joined", "x"), ("joined", "-3"),
    ("event", ""), ("event", "a b"), ("event", "e" * 65), ("event", "é"), ("event", b"\xff"),
    ("response", ""), ("response", "a/b"), ("response", "r" * 129), ("response", b"\xff"),
])  # fmt: skip
def test_a_wrong_shape_is_one_of_the_other_fields(arrives, fields):
    frame = arrives("data", "x", *fields)
    assert fields[0] in frame["fields"]
    assert frame["data"] == "x"


def test_the_first_of_a_repeated_name_counts_even_if_it_is_wrong(arrives):
    frame = arrives("n", "x", "n", "5", "data", "d")
    assert frame["fields"] == {"n": ["x", "5"]} and "n" not in frame


def test_a_hundred_fields_arrive(arrives):
    frame = arrives(*(part for n in range(100) for part in (f"name-{n}", f"value {n}")), "data", "x")
    assert frame["fields"] == {f"name-{n}": f"value {n}" for n in range(100)}


def test_a_name_a_thousand_times_is_an_array(arrives):
    frame = arrives(*(part for n in range(1000) for part in ("k", str(n))), "data", "x")
    assert frame["fields"] == {"k": [str(n) for n in range(1000)]}


def test_an_emoji_split_over_entries_comes_as_bytes(redis, gateway, session, attach):
    smile = "🙂".encode()
    live = attach(gateway, session).until_live()
    redis.add(session, data="a", response="r", n=1)
    redis.add(session, data=smile[:2], response="r", n=2)
    redis.add(session, data=smile[2:], response="r", n=3)
    id = redis.add(session, data="b", response="r", n=4)
    for device in (live.until_at(id), attach(gateway, session).until_live()):
        device.judge(redis.stream(session))
        parts = b"".join(base64.b64decode(frame["data64"]) for frame in device.entries if "data64" in frame)
        assert parts == smile


def test_binary_data_is_base64(arrives):
    data = bytes(range(256)) * 16
    assert base64.b64decode(arrives("data", data)["data64"]) == data


def test_the_check_is_the_protocols(arrives):
    frame = arrives("data", "Hel", "_ours", "counts in the check", "k", "v")
    after = [] if COUNTS_ENTRIES else [(b"_after", b"0-0")]
    wanted = check([(b"data", b"Hel"), (b"_ours", b"counts in the check"), (b"k", b"v"), *after])
    assert frame["id"].partition(".")[2] == wanted


@pytest.mark.parametrize("count", [LIMIT, LIMIT + 1])
def test_the_largest_entry_is_the_limit_to_the_byte(redis, node, session, attach, count):
    live = attach(node, session, rollup="off").until_live()
    redis.add(session, data="x" * (count - 4), alone=True)
    id = redis.add(session, data="next")
    for device in (live, attach(node, session, rollup="off")):
        device.until_at(id, 40).until_live()
        device.judge(redis.stream(session), rollup=False)
        assert any(frame.get("type") == "skipped" for frame in device.frames) == (count > LIMIT)


def test_names_count_towards_the_limit(redis, gateway, session, attach):
    redis.add(session, "n" * 1000, "x" * (LIMIT - 1000 - 5), "data", "", alone=True)
    redis.add(session, "n" * 1000, "x" * (LIMIT - 1000 - 4), "data", "")
    redis.add(session, "n" * 1000, "x" * (LIMIT - 1000 - 3), "data", "")
    device = attach(gateway, session, rollup="off").until_live()
    stream = redis.stream(session)
    assert [size(fields) for _, fields in stream] == [LIMIT - 1, LIMIT, LIMIT + 1]
    device.judge(stream, rollup=False)


def test_a_2_mb_entry_is_skipped_and_said_so(redis, node, session, attach):
    live = attach(node, session).until_live()
    redis.add(session, data="before")
    big = redis.add(session, data="x" * 2_000_000, event="image")
    id = redis.add(session, data="after")
    for device in (live, attach(node, session)):
        device.until_at(id, 40).until_live()
        device.judge(redis.stream(session))
        told = [frame for frame in device.frames if frame.get("type") == "skipped"]
        assert len(told) == 1
        assert told[0]["offset"].partition(".")[0] == big and told[0]["bytes"] == 2_000_000 + 4 + 5 + 5
        assert told[0]["reason"] == "too_big"


def test_a_row_of_giants_is_skipped_one_by_one(redis, gateway, session, attach):
    live = attach(gateway, session).until_live()
    for n in range(5):
        redis.add(session, data="x" * 3_000_000)
        redis.add(session, data=f"d{n} ")
    id = redis.add(session, data="after")
    for device in (live, attach(gateway, session)):
        device.until_at(id, 40).until_live()
        device.judge(redis.stream(session))


def test_a_device_resumes_after_a_skipped_entry(redis, gateway, session, attach):
    redis.add(session, data="before")
    redis.add(session, data="x" * 1_000_000)
    at = attach(gateway, session).until_live().offset
    id = redis.add(session, data="after")
    device = attach(gateway, session, offset=at).until_at(id)
    assert device.resets == [] and device.text == "after"


def test_max_entry_bytes_is_an_option(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-m", "--max-entry-bytes", "1KiB")
    redis.add(session, data="x" * 1020, alone=True)
    redis.add(session, data="x" * 1021)
    id = redis.add(session, data="next")
    device = attach(gateway, session, rollup="off").until_at(id).until_live()
    device.judge(redis.stream(session), rollup=False, max_entry_bytes=1024)
    assert sum(frame.get("type") == "skipped" for frame in device.frames) == 1


def test_random_entries_arrive_exactly(redis, gateway, session, attach):
    """Names, values, repeats and sizes at random; the seed is in the session's name on failure."""
    import random

    seed = int.from_bytes(os.urandom(4))
    random = random.Random(seed)
    names = ["data", "event", "response", "n", "joined", "_x", "k", "kk", b"\xff", ""]
    values = ["", "x", "1", "2", "7", "start", "end", "token", "r1", "r2", b"\xff", "é", "🙂", "\"", "x" * 5000]
    live = attach(gateway, session).until_live()
    for _ in range(300):
        redis.add(session, *(part for _ in range(random.randint(1, 6)) for part in (random.choice(names), random.choice(values))))
    stream = redis.stream(session)
    # How `joined` and `n` that contradict each other are read is not the judge's business.
    stream_ids = [offset(entry) for entry in stream]
    live.until_at(stream[-1][0])
    late = attach(gateway, session, rollup="off").until_live()
    assert [frame["id"] for frame in late.entries] == stream_ids, f"seed {seed}"
    for frame, entry in zip(late.entries, stream):
        wanted = frame_of(entry)
        if "joined" not in str(wanted):
            assert frame == wanted, f"seed {seed}"
