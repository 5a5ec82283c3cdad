"""Section 4's table under attached devices: a break in the stream is told before anything else comes."""

import pytest
from support.checker import offset, place
from support.servers import key

# Where the server gives notices a reset comes within 1 s. Tests wait longer: the machine may be busy.
SOON = 8


@pytest.fixture
def live(redis, gateway, session, attach):
    """A live device that has had ten numbered deltas."""
    redis.add_tokens(session, [f"d{n} " for n in range(1, 11)], "r")
    return attach(gateway, session).until_live()


def ends_as(device, redis, session, reason, seconds=SOON, **options):
    """The reset came, and with one entry more the device holds exactly the stream."""
    told = device.until_type("reset", seconds=seconds)
    assert told["reason"] == reason
    id = redis.add(session, data="after")
    device.until_at(id).until_live()
    device.judge(redis.stream(session), **options)
    return told


def test_deleting_resets_and_waits(redis, session, live):
    had = live.offset
    redis.client.delete(key(session))
    told = ends_as(live, redis, session, "deleted")
    assert (told["from"], told["offset"]) == ("0", "0")
    assert place(had) < place(live.offset)


def test_unlinking_by_expiry_resets(redis, session, live):
    redis.client.pexpire(key(session), 1)
    # Redis looks for what has expired here and there; the gateway's own look is the last to find it.
    ends_as(live, redis, session, "deleted", seconds=90)


def test_flushing_everything_resets(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.add_tokens(session, ["a", "b"])
    device = attach(new_gateway(redis.url), session).until_live()
    redis.client.flushall()
    ends_as(device, redis, session, "deleted")


def test_re_creating_with_smaller_ids_resets(redis, session, live):
    redis.client.pipeline().delete(key(session)).xadd(key(session), {"data": "new"}, id="5-0").execute()
    told = live.until_type("reset", seconds=SOON)
    assert told["from"] == "0" and told["reason"] in ("ahead", "deleted", "diverged")
    live.until_at("5-0").until_live()
    live.judge(redis.stream(session))
    assert live.text == "new"


def test_re_creating_with_the_same_ids_and_other_content_resets(redis, session, live):
    ids = [entry[0] for entry in redis.stream(session)]
    pipeline = redis.client.pipeline().delete(key(session))
    for id in ids:
        pipeline.xadd(key(session), {"data": "other "}, id=id)
    pipeline.execute()
    told = live.until_type("reset", seconds=SOON)
    assert told["from"] == "0"
    live.until_at(ids[-1]).until_live()
    live.until(lambda device: device.view.text == "other " * 10, what="the other history")
    live.judge(redis.stream(session))


def test_re_creating_with_the_same_ids_and_more_resets_before_the_next(redis, session, live):
    """The trap: the new stream holds the device's last id, with other content, and goes on after it."""
    ids = [entry[0] for entry in redis.stream(session)]
    pipeline = redis.client.pipeline().delete(key(session))
    for id in ids:
        pipeline.xadd(key(session), {"data": "other "}, id=id)
    pipeline.xadd(key(session), {"data": "next"}, id=f"{place(ids[-1])[0] + 1}-0")
    pipeline.execute()
    live.until(lambda device: device.view.text == "other " * 10 + "next", SOON, "the other history")
    assert len(live.resets) >= 1
    live.judge(redis.stream(session))


def test_re_creating_with_the_same_content_is_no_harm(redis, session, live):
    entries = redis.stream(session)
    pipeline = redis.client.pipeline().delete(key(session))
    for id, fields in entries:
        pipeline.xadd(key(session), dict(fields), id=id)
    pipeline.execute()
    live.until_at(redis.add(session, data="next"))
    live.judge(redis.stream(session))


def test_overwriting_by_another_type_closes_with_1011(redis, session, live):
    redis.client.pipeline().delete(key(session)).set(key(session), "x").execute()
    assert live.until_closed(SOON) == 1011
    errors = [frame for frame in live.frames if frame.get("type") == "error"]
    assert [frame["code"] for frame in errors] == ["wrong_type"]


def test_overwriting_by_another_type_leaves_other_sessions_alone(redis, gateway, session, live, attach):
    other = attach(gateway, f"{session}-other").until_live()
    redis.client.set(key(session), "x")
    live.until_closed(SOON)
    other.until_at(redis.add(f"{session}-other", data="fine"))
    assert other.text == "fine"


def test_trimming_what_the_device_had_is_no_reset(redis, session, live):
    redis.client.xtrim(key(session), maxlen=2, approximate=False)
    live.until_at(redis.add(session, data="next"))
    assert live.resets == []
    live.judge(redis.stream(session), trimmed=True)
    assert live.text.endswith("d10 next")


def test_trimming_everything_the_device_had_is_no_reset(redis, session, live):
    redis.client.xtrim(key(session), maxlen=0, approximate=False)
    live.until_at(redis.add(session, data="next"))
    assert live.resets == []
    assert live.text.endswith("d10 next")


def test_a_maxlen_jump_over_what_the_device_had_is_no_reset(redis, session, live):
    """MAXLEN 1 drops the device's last entry in the very step that brings the next one."""
    for n in range(5):
        redis.raw("XADD", key(session), "MAXLEN", "1", "*", "data", f"n{n} ")
    live.until(lambda device: device.view.text.endswith("n4 ") or device.view.resets, SOON, "the last entry")
    # Each was either seen before the next replaced it, or told by a reset; never passed over.
    live.until_at(redis.stream(session)[-1][0])
    live.judge(redis.stream(session), trimmed=True)
    if not live.resets:
        assert live.text.endswith("n0 n1 n2 n3 n4 ")


def test_entries_that_came_and_went_unseen_are_a_reset(redis, session, live):
    pipeline = redis.client.pipeline()
    for n in range(50):
        pipeline.execute_command("XADD", key(session), "MAXLEN", "3", "*", "data", f"n{n} ")
    pipeline.execute()
    told = live.until_type("reset", seconds=SOON)
    assert told["reason"] == "trimmed"
    live.until(lambda device: device.view.text.endswith("n49 "), SOON, "the newest")
    live.judge(redis.stream(session))
    assert live.text == "n47 n48 n49 "


def test_deleting_the_last_entry_the_device_had(redis, session, live):
    """Its place equals the last generated id, so it continues; what follows is complete."""
    redis.client.xdel(key(session), redis.stream(session)[-1][0])
    live.until_at(redis.add(session, data="next"))
    assert live.text.endswith("next")
    if not live.resets:
        assert live.text == "".join(f"d{n} " for n in range(1, 11)) + "next"
    else:
        live.judge(redis.stream(session))


def test_an_entry_that_came_and_went_is_told(redis, session, live):
    """XADD and XDEL in one step: one entry was never seen, so what is retained decides."""
    pipeline = redis.client.pipeline()
    pipeline.execute_command("XADD", key(session), "7777777777777-0", "data", "gone")
    pipeline.execute_command("XDEL", key(session), "7777777777777-0")
    pipeline.execute_command("XADD", key(session), "7777777777778-0", "data", "next")
    pipeline.execute()
    live.until_at("7777777777778-0", SOON)
    live.judge(redis.stream(session))


def test_going_back_within_the_same_stream_is_a_reset(redis, session, live):
    """What a restore from an older state looks like: fewer entries, then other ones."""
    entries = redis.stream(session)
    pipeline = redis.client.pipeline().delete(key(session))
    for id, fields in entries[:6]:
        pipeline.xadd(key(session), dict(fields), id=id)
    pipeline.xadd(key(session), {"data": "other"}, id=f"{place(entries[-1][0])[0] + 5}-0")
    pipeline.execute()
    live.until(lambda device: device.view.text.endswith("other"), SOON, "the other tail")
    assert live.resets
    live.judge(redis.stream(session))


def test_reset_keeps_what_the_last_query_asked_for(redis, gateway, session, attach):
    """After `last=3` a reset goes to the place before the newest three."""
    redis.add_tokens(session, [f"d{n} " for n in range(1, 11)])
    device = attach(gateway, session, last=3, rollup="off").until_live()
    ids = [entry[0] for entry in redis.stream(session)]
    pipeline = redis.client.pipeline().delete(key(session))
    for id in ids:
        pipeline.xadd(key(session), {"data": "o "}, id=id)
    pipeline.execute()
    told = device.until_type("reset", seconds=SOON)
    device.until_at(ids[-1]).until_live()
    stream = redis.stream(session)
    assert told["from"] == "0" and told["offset"] in (offset(stream[-4]), ids[-4])
    device.judge(stream)
    assert device.text == "o o o "


def test_a_live_only_device_keeps_its_verified_place(redis, gateway, session, attach):
    """After `$` a deletion does not bring what was there before the attach."""
    redis.add_tokens(session, ["old "] * 5)
    device = attach(gateway, session, offset="$").until_live()
    device.until_at(redis.add(session, data="seen"))
    redis.client.delete(key(session))
    device.until_type("reset", seconds=SOON)
    device.until_at(redis.add(session, data="new")).until_live()
    assert device.entries[-1]["data"] == "new"
    device.judge(redis.stream(session))


def test_a_deletion_is_told_to_every_device(redis, gateway, session, attach):
    redis.add_tokens(session, ["a", "b", "c"])
    devices = [attach(gateway, session, offset=one).until_live() for one in ("0", "0", "$")]
    redis.client.delete(key(session))
    for device in devices:
        assert device.until_type("reset", seconds=SOON)["reason"] == "deleted"


def test_polling_sees_the_breaks_too(redis, polling, session, attach):
    redis.add_tokens(session, ["a", "b", "c"], "r")
    device = attach(polling, session).until_live()
    ids = [entry[0] for entry in redis.stream(session)]
    pipeline = redis.client.pipeline().delete(key(session))
    for id in ids:
        pipeline.xadd(key(session), {"data": "o "}, id=id)
    pipeline.execute()
    last = redis.add(session, data="next")
    # Within the sweep (30 s) and always before the next entry.
    device.until_at(last, 40)
    device.until(lambda device: device.view.text == "o o o next", 40)
    assert device.resets
    device.judge(redis.stream(session))


def test_paging_devices_notice_a_re_creation(redis, gateway, session, attach):
    """The stream is replaced by other content under the same ids while devices page through a long history."""
    pipeline = redis.client.pipeline(transaction=False)
    for n in range(1, 8001):
        pipeline.xadd(key(session), {"data": f"first {n} " + "x" * 300}, id=f"{n}-0")
    pipeline.execute()
    devices = [attach(gateway, session, rollup="off") for _ in range(4)]
    devices[0].until(lambda device: device.entries, what="a first page")
    pipeline = redis.client.pipeline().delete(key(session))
    for n in range(1, 8001):
        pipeline.xadd(key(session), {"data": f"second {n} "}, id=f"{n}-0")
    pipeline.execute()
    last = redis.add(session, data="next")
    for device in devices:
        device.until(lambda device: device.view.offset and device.view.kept
                     and device.view.kept[-1].get("data") == "next" and device.view.live, 30, "the other history")  # fmt: skip
        device.until_at(last)
        device.judge(redis.stream(session), rollup=False)


def test_paging_devices_survive_trimming(redis, gateway, session, attach):
    """Trimmed while they page: what they miss is told by a reset."""
    redis.add_tokens(session, [f"n{n} " + "x" * 300 for n in range(8000)])
    devices = [attach(gateway, session, rollup="off") for _ in range(4)]
    devices[0].until(lambda device: device.entries, what="a first page")
    redis.client.xtrim(key(session), maxlen=100, approximate=False)
    last = redis.add(session, data="next")
    for device in devices:
        device.until_at(last, 30).until_live()
        device.judge(redis.stream(session), trimmed=True, rollup=False)
