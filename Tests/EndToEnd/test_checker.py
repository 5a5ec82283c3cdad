"""The judge itself: it must find every kind of broken promise."""

import copy
import zlib

import pytest
from support.checker import Broken, View, check, frame_of, judge, offset

STREAM = [
    ("1-0", [(b"event", b"start"), (b"response", b"r")]),
    *((f"{n + 1}-0", [(b"data", b"t%d " % n), (b"response", b"r"), (b"n", b"%d" % n)]) for n in range(1, 7)),
    ("9-0", [(b"event", b"end"), (b"response", b"r")]),
]
ATTACHED = {"type": "attached", "offset": "0"}


def view(*frames):
    seen = View()
    for frame in frames:
        seen.feed(copy.deepcopy(frame))
    return seen


def honest():
    return [ATTACHED, *map(frame_of, STREAM)]


def test_check_is_crc32_over_lengths_names_and_values():
    assert check([(b"data", b"Hel")]) == f"{zlib.crc32(bytes(3) + bytes([4]) + b'data' + bytes(3) + bytes([3]) + b'Hel'):08x}"


def test_an_honest_run_passes():
    assert judge(view(*honest(), {"type": "live", "offset": offset(STREAM[-1])}), STREAM) == len(STREAM)


def test_a_joined_run_passes():
    first, last = frame_of(STREAM[2]), frame_of(STREAM[4])
    joined = {**last, "joined": 3, "data": "t2 t3 t4 "}
    frames = honest()
    assert first["n"] == 2
    assert judge(view(*frames[:3], joined, *frames[6:]), STREAM) == len(STREAM)


@pytest.mark.parametrize("index", range(1, len(STREAM) + 1))
def test_a_lost_entry_is_found(index):
    frames = honest()
    del frames[index]
    with pytest.raises(Broken):
        judge(view(*frames), STREAM)


@pytest.mark.parametrize("change", [
    {"data": "other"}, {"n": 7}, {"joined": 2}, {"id": "3-0.00000000"}, {"id": "3-0"}, {"response": "q"}, {"fields": {}},
])  # fmt: skip
def test_a_changed_entry_is_found(change):
    frames = honest()
    frames[3] = {**frames[3], **change}
    with pytest.raises(Broken):
        judge(view(*frames), STREAM)


def test_a_doubled_entry_is_found():
    frames = honest()
    with pytest.raises(Broken):
        view(*frames[:4], frames[3])


def test_reordered_entries_are_found():
    frames = honest()
    with pytest.raises(Broken):
        view(*frames[:3], frames[4], frames[3])


def test_an_invented_entry_is_found():
    with pytest.raises(Broken):
        judge(view(*honest(), {"id": "99-0.00000000", "event": "token", "data": "x"}), STREAM)


def test_joining_across_an_end_is_found():
    stream = [("1-0", [(b"data", b"a")]), ("2-0", [(b"event", b"end")]), ("3-0", [(b"data", b"b")])]
    with pytest.raises(Broken):
        judge(view(ATTACHED, {**frame_of(stream[2]), "joined": 2, "data": "ab"}), stream)


def test_a_silent_move_on_attach_is_found():
    """Back: what was had comes again. Forward: something is left out."""
    for to, next_ in (("0", STREAM[0]), (offset(STREAM[-2]), STREAM[-1])):
        seen = view(*honest()[:5])
        seen.attaching()
        seen.feed({"type": "attached", "offset": to})
        with pytest.raises(Broken):
            seen.feed(frame_of(next_))


def test_an_attach_may_move_back_over_what_was_taken_out():
    seen = view(*honest())
    seen.attaching()
    seen.feed({"type": "attached", "offset": offset(STREAM[-2])})
    seen.feed({"type": "live", "offset": offset(STREAM[-2])})
    seen.feed(frame_of(("10-0", [(b"data", b"x")])))


def test_a_reset_starts_again_from_its_place():
    other = [("5-0", [(b"data", b"new")])]
    seen = view(*honest(), {"type": "reset", "reason": "deleted", "from": "0", "offset": "0"}, frame_of(other[0]))
    assert judge(seen, other) == 1
    with pytest.raises(Broken):
        judge(seen, STREAM)


def test_a_reset_keeps_what_is_verified():
    kept = STREAM[:4]
    again = [*kept, ("20-0", [(b"data", b"new")])]
    place = offset(kept[-1])
    seen = view(*honest(), {"type": "reset", "reason": "diverged", "from": place, "offset": place}, frame_of(again[-1]))
    assert judge(seen, again) == len(again)


def test_a_trimmed_stream_passes_where_it_may():
    seen = view(*honest())
    assert judge(seen, STREAM[5:], trimmed=True) == 3
    with pytest.raises(Broken):
        judge(seen, STREAM[5:])


def test_a_joined_frame_over_a_trim_is_compared_at_its_end():
    first, last = STREAM[1], STREAM[4]
    frames = honest()
    joined = {**frame_of(last), "joined": 4, "data": "t1 t2 t3 t4 "}
    assert first[0] == "2-0"
    assert judge(view(*frames[:2], joined, *frames[6:]), STREAM[3:], trimmed=True) == len(STREAM) - 3
    with pytest.raises(Broken):
        judge(view(*frames[:2], {**joined, "data": "t1 t2 t3 other"}, *frames[6:]), STREAM[3:], trimmed=True)


def test_live_twice_is_found():
    live = {"type": "live", "offset": "0"}
    with pytest.raises(Broken):
        view(ATTACHED, live, live)


def test_a_passed_over_giant_is_found():
    stream = [("1-0", [(b"data", b"x" * 300_000)]), ("2-0", [(b"data", b"b")])]
    told = {"type": "skipped", "offset": "1-0", "reason": "too_big", "bytes": 300_004}
    assert judge(view(ATTACHED, told, frame_of(stream[1])), stream) == 2
    with pytest.raises(Broken):
        judge(view(ATTACHED, frame_of(stream[1])), stream)
    with pytest.raises(Broken):
        judge(view(ATTACHED, {**told, "bytes": 300_000}, frame_of(stream[1])), stream)


def test_shapes_become_fields_or_are_left_out():
    fields = [
        (b"n", b"x"), (b"event", b"a b"), (b"data", b"\xff"), (b"data", b"2"), (b"k", b"1"), (b"k", b"\xfe"), (b"\xff", b"v"),
        (b"_ours", b"x"),
    ]  # fmt: skip
    frame = frame_of(("1-0", fields))
    del frame["id"]
    assert frame == {
        "event": "token", "data64": "/w==",
        "fields": {"n": "x", "event": "a b", "data": "2", "k": ["1", {"base64": "/g=="}], "base64:/w==": "v"},
    }  # fmt: skip
