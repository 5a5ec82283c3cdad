"""Section 4: deltas are joined while a device is behind, by the rules, and never else."""

import pytest
from support.checker import MAX_JOINED_BYTES


def test_a_late_device_gets_few_frames(redis, gateway, session, attach):
    redis.add_tokens(session, [f"w{n} " for n in range(5000)], "r")
    device = attach(gateway, session).until_live()
    device.judge(redis.stream(session))
    assert len(device.entries) < 100
    assert sum(frame.get("joined", 1) for frame in device.entries) == 5000
    assert device.entries[-1]["n"] == 5000


def test_off_never_joins(redis, gateway, session, attach):
    redis.add_tokens(session, [f"w{n} " for n in range(3000)], "r")
    device = attach(gateway, session, rollup="off").until_live()
    device.judge(redis.stream(session), rollup=False)
    assert len(device.entries) == 3000


def test_auto_delivers_one_by_one_when_live(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    redis.add_tokens(session, [f"w{n} " for n in range(500)], "r")
    device.until_at(redis.add(session, event="end", response="r"))
    device.judge(redis.stream(session))
    if not any(frame.get("type") == "behind" for frame in device.frames):
        assert len(device.entries) == 501


@pytest.mark.parametrize("window", [1, 20, 100, 1000])
def test_a_window_joins_when_live(redis, gateway, session, attach, window):
    device = attach(gateway, session, rollup=window).until_live()
    redis.add_tokens(session, [f"w{n} " for n in range(400)], "r")
    device.until_at(redis.add(session, event="end", response="r"))
    device.judge(redis.stream(session))
    if window >= 100:
        assert len(device.entries) < 400, "nothing was joined over the window"


def test_a_window_joins_beside_a_device_in_a_hurry(redis, gateway, session, attach):
    """Whatever event loops they are on: the session is read at once for one of them, and the others still wait."""
    windowed = [attach(gateway, session, rollup=1000).until_live() for _ in range(4)]
    hasty = attach(gateway, session, rollup="off").until_live()
    for n in range(1, 31):
        hasty.until_at(redis.add(session, data=f"{n} ", response="r", n=n))
    end = redis.add(session, event="end", response="r")
    for device in windowed:
        device.until_at(end)
        device.judge(redis.stream(session))
        assert len(device.entries) < 20, "nothing was joined over the window"


def test_a_window_keeps_a_lone_delta_no_longer_than_it_says(redis, gateway, session, attach):
    device = attach(gateway, session, rollup=250).until_live()
    for n in range(3):
        device.until_at(redis.add(session, data=f"{n}"), 5)
    device.judge(redis.stream(session))


def test_producers_joined_entries_are_counted(redis, gateway, session, attach):
    redis.add(session, data="abc", response="r", n=3, joined=3)
    redis.add(session, data="d", response="r", n=4)
    redis.add(session, data="ef", response="r", n=6, joined=2)
    device = attach(gateway, session).until_live()
    device.judge(redis.stream(session))
    assert sum(frame.get("joined", 1) for frame in device.entries) == 6
    assert device.entries[-1]["n"] == 6 and device.text == "abcdef"


BARRIERS = {
    "another event": {"data": "note", "event": "note"},
    "an end": {"event": "end", "response": "r"},
    "another response": {"data": "other", "response": "q", "n": 1},
    "no response": {"data": "none"},
    "another part": {"data": "x", "response": "r", "part": "reasoning:1", "n": 11},
    "more": {"data": "x", "response": "r", "more": "1", "n": 11},
    "an entry without data": {"response": "r", "n": 11},
    "fields": {"data": "x", "response": "r", "n": 11, "colour": "blue"},
    "binary data": {"data": b"\xff\xfe", "response": "r", "n": 11},
    "a gap in n": {"data": "x", "response": "r", "n": 20},
    "n missing": {"data": "x", "response": "r"},
}


@pytest.mark.parametrize("barrier", BARRIERS.values(), ids=BARRIERS.keys())
@pytest.mark.parametrize("mode", ["auto", 250])
def test_nothing_is_joined_across(redis, gateway, session, attach, barrier, mode):
    live = attach(gateway, session, rollup=mode).until_live()
    redis.add_tokens(session, ["a"] * 10, "r")
    redis.add(session, **barrier)
    after = barrier.get("n", 10) + 1 if barrier.get("response") == "r" and "event" not in barrier and "n" in barrier else 11
    redis.add_tokens(session, ["b"] * 10, "r", after)
    last = redis.stream(session)[-1][0]
    for device in (live, attach(gateway, session, rollup=mode)):
        device.until_at(last).until_live()
        device.judge(redis.stream(session))


def test_deltas_without_response_are_joined(redis, gateway, session, attach):
    redis.add_tokens(session, ["x"] * 200)
    device = attach(gateway, session).until_live()
    device.judge(redis.stream(session))
    assert len(device.entries) < 200


def test_joined_frames_hold_at_most_64_kib(redis, gateway, session, attach):
    redis.add_tokens(session, ["é" * 500] * 300, "r")
    device = attach(gateway, session).until_live()
    device.judge(redis.stream(session))
    assert all(len(frame["data"].encode()) <= MAX_JOINED_BYTES for frame in device.entries)
    assert len(device.entries) < 30


def test_an_entry_over_64_kib_goes_alone(redis, gateway, session, attach):
    redis.add_tokens(session, ["a", "b", "x" * 100_000, "c", "d"], "r")
    device = attach(gateway, session).until_live()
    device.judge(redis.stream(session))
    assert [frame.get("joined", 1) for frame in device.entries if len(frame["data"]) == 100_000] == [1]


def test_a_joined_frames_id_resumes(redis, gateway, session, attach):
    redis.add_tokens(session, [f"w{n} " for n in range(1000)], "r")
    first = attach(gateway, session).until_live()
    at = first.entries[0]["id"]
    again = attach(gateway, session, offset=at).until_live()
    assert again.resets == []
    assert first.entries[0]["data"] + again.text == first.text


def test_interleaved_responses_stay_in_order(redis, gateway, session, attach):
    live = attach(gateway, session, rollup=100).until_live()
    for n in range(1, 101):
        redis.add(session, data=f"a{n} ", response="a", n=n)
        redis.add(session, data=f"b{n} ", response="b", n=n)
    last = redis.stream(session)[-1][0]
    for device in (live, attach(gateway, session)):
        device.until_at(last).until_live()
        device.judge(redis.stream(session))
