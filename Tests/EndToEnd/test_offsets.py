"""Section 4's table on attach: what the stream holds decides between going on, a reset, and waiting."""

import pytest
from support.checker import offset
from support.servers import key

FORGED = "00000000"


@pytest.fixture
def filled(redis, session):
    """Ten entries with the ids 100-0 … 1000-0."""
    for n in range(1, 11):
        redis.add(session, id=f"{n}00-0", data=f"d{n} ")
    return session


def offsets(redis, session):
    return [offset(entry) for entry in redis.stream(session)]


def continues(device, redis, session, asked, **options):
    device.until_live()
    assert device.resets == []
    assert device.attached["offset"] == asked
    device.judge(redis.stream(session), **options)


def resets(device, redis, session, reason, to="0"):
    told = device.until_type("reset")
    assert (told["reason"], told["from"], told["offset"]) == (reason, "0", to)
    assert device.frames[1] is told, "the reset follows `attached`"
    device.until_live()
    device.judge(redis.stream(session))
    return told


def test_zero_brings_everything(redis, node, filled, attach):
    device = attach(node, filled, offset="0", rollup="off")
    continues(device, redis, filled, "0", rollup=False)
    assert [frame["data"] for frame in device.entries] == [f"d{n} " for n in range(1, 11)]


def test_no_parameter_means_zero(redis, gateway, filled, attach):
    continues(attach(gateway, filled), redis, filled, "0")


def test_zero_zero_means_zero(redis, gateway, filled, attach):
    device = attach(gateway, filled, offset="0-0")
    continues(device, redis, filled, "0")


def test_an_offset_with_its_check_continues_after_it(redis, node, filled, attach):
    for at in offsets(redis, filled):
        continues(attach(node, filled, offset=at), redis, filled, at)


def test_an_offset_without_check_continues_and_gets_its_check(redis, node, filled, attach):
    at = offsets(redis, filled)[4]
    continues(attach(node, filled, offset=at.partition(".")[0]), redis, filled, at)


def test_an_upper_case_check_fits(redis, gateway, filled, attach):
    at = offsets(redis, filled)[4]
    id, _, check = at.partition(".")
    continues(attach(gateway, filled, offset=f"{id}.{check.upper()}"), redis, filled, at)


def test_a_forged_check_is_diverged(redis, node, filled, attach):
    device = attach(node, filled, offset=f"500-0.{FORGED}")
    told = resets(device, redis, filled, "diverged")
    assert told["requested"] == f"500-0.{FORGED}"
    assert (told["first"].partition(".")[0], told["last"].partition(".")[0]) == ("100-0", "1000-0")


def test_a_forged_check_on_the_last_entry_is_diverged(redis, node, filled, attach):
    resets(attach(node, filled, offset=f"1000-0.{FORGED}"), redis, filled, "diverged")


def test_an_offset_between_entries_is_diverged(redis, node, filled, attach):
    resets(attach(node, filled, offset="550-0"), redis, filled, "diverged")


def test_a_sequence_between_entries_is_diverged(redis, gateway, filled, attach):
    resets(attach(gateway, filled, offset="500-7"), redis, filled, "diverged")


def test_an_offset_beyond_the_last_is_ahead(redis, node, filled, attach):
    resets(attach(node, filled, offset="2000-0"), redis, filled, "ahead")


def test_the_largest_offset_is_ahead(redis, gateway, filled, attach):
    resets(attach(gateway, filled, offset="18446744073709551615-18446744073709551615"), redis, filled, "ahead")


def test_an_offset_before_the_first_is_trimmed(redis, node, filled, attach):
    resets(attach(node, filled, offset="50-0"), redis, filled, "trimmed")


def test_a_trimmed_entrys_offset_is_trimmed(redis, node, filled, attach):
    at = offsets(redis, filled)[2]
    redis.client.xtrim(key(filled), maxlen=4, approximate=False)
    resets(attach(node, filled, offset=at), redis, filled, "trimmed")


def test_the_last_generated_id_continues_though_its_entry_is_gone(redis, node, filled, attach):
    redis.client.xdel(key(filled), "1000-0")
    device = attach(node, filled, offset="1000-0")
    device.until_live()
    assert device.resets == []
    id = redis.add(filled, data="next")
    device.until_at(id)
    assert [frame["data"] for frame in device.entries] == ["next"]


def test_a_deleted_entry_in_the_middle_is_diverged(redis, node, filled, attach):
    at = offsets(redis, filled)[5]
    redis.client.xdel(key(filled), "600-0")
    resets(attach(node, filled, offset=at), redis, filled, "diverged")


def test_an_empty_stream_and_an_earlier_offset_is_trimmed(redis, node, filled, attach):
    at = offsets(redis, filled)[4]
    redis.client.xtrim(key(filled), maxlen=0, approximate=False)
    device = attach(node, filled, offset=at)
    told = resets(device, redis, filled, "trimmed", to="1000-0")
    assert (told["first"], told["last"]) == (None, None)


def test_an_empty_stream_and_its_last_id_continues(redis, node, filled, attach):
    at = offsets(redis, filled)[-1]
    redis.client.xtrim(key(filled), maxlen=0, approximate=False)
    device = attach(node, filled, offset=at).until_live()
    assert device.resets == []
    device.until_at(redis.add(filled, data="next"))
    assert device.text == "next"


@pytest.mark.parametrize("query", [{"offset": "0"}, {"offset": "$"}, {"offset": "live"}, {"last": "3"}, {}])
def test_a_session_that_does_not_exist_yet_is_waited_for(redis, node, session, attach, query):
    device = attach(node, session, rollup="off", **query).until_live()
    assert device.attached["offset"] == "0"
    assert (device.attached["first"], device.attached["last"]) == (None, None)
    device.until_at(redis.add(session, data="first"))
    assert device.resets == []
    device.judge(redis.stream(session), rollup=False)


@pytest.mark.parametrize("asked", ["100-0", "100-0.9f3a11c0", "1-1"])
def test_an_offset_in_a_session_that_is_gone_is_deleted(redis, node, session, attach, asked):
    device = attach(node, session, offset=asked)
    told = resets(device, redis, session, "deleted")
    assert told["requested"] == asked
    device.until_at(redis.add(session, data="new"))
    device.judge(redis.stream(session))


def test_another_type_is_refused_with_409(redis, node, session):
    redis.client.set(key(session), "x")
    node.upgrade(f"/v1/sessions/{session}").problem(409)


@pytest.mark.parametrize("asked", ["$", "live"])
def test_live_brings_only_what_comes(redis, node, filled, attach, asked):
    device = attach(node, filled, offset=asked).until_live()
    assert device.attached["offset"] == offsets(redis, filled)[-1]
    device.until_at(redis.add(filled, data="next"))
    assert device.text == "next"
    device.judge(redis.stream(filled))


@pytest.mark.parametrize("count", [1, 3, 10, 11, 10_000])
def test_last_brings_the_newest(redis, node, filled, attach, count):
    device = attach(node, filled, last=count, rollup="off").until_live()
    assert [frame["data"] for frame in device.entries] == [f"d{n} " for n in range(max(1, 11 - count), 11)]
    before = offsets(redis, filled)[9 - count] if count < 10 else "0"
    assert device.attached["offset"] == before
    assert device.resets == []


def test_last_jumps_over_deleted_entries(redis, gateway, filled, attach):
    redis.client.xdel(key(filled), "900-0")
    device = attach(gateway, filled, last=2, rollup="off").until_live()
    assert [frame["data"] for frame in device.entries] == ["d8 ", "d10 "]


def test_attached_tells_the_session_and_its_ends(redis, gateway, filled, attach):
    at = offsets(redis, filled)
    told = attach(gateway, filled, offset=at[3], device="d1").attached
    assert told["session"] == filled and told["device"] == "d1" and told["node"] == "gw-1"
    assert told["offset"] == at[3]
    assert told["first"].partition(".")[0] == "100-0" and told["last"].partition(".")[0] == "1000-0"
    assert told["pingMs"] > 0 and isinstance(told["features"], list)


def test_offsets_are_carried_between_nodes(redis, gateway, gateway2, filled, attach):
    for at in offsets(redis, filled):
        for node in (gateway, gateway2):
            continues(attach(node, filled, offset=at), redis, filled, at)


def test_a_live_devices_offset_is_good_on_another_node(redis, gateway, gateway2, session, attach):
    device = attach(gateway, session).until_live()
    for turn in range(6):
        ids = redis.add_tokens(session, [f"{turn}-{n} " for n in range(20)], "r", turn * 20 + 1)
        device.until_at(ids[-1])
        device.cut()
        redis.add_tokens(session, [])
        device.attach((gateway2, gateway)[turn % 2].url)
    device.until_live()
    assert device.resets == []
    device.judge(redis.stream(session))


def test_ids_of_64_bits_come_exactly(redis, gateway, session, attach):
    big = 2**64 - 1
    redis.add(session, id=f"{2**53 + 1}-{big}", data="a")
    redis.add(session, id=f"{big}-{big - 1}", data="b")
    device = attach(gateway, session, rollup="off").until_live()
    assert [frame["id"].partition(".")[0] for frame in device.entries] == [f"{2**53 + 1}-{big}", f"{big}-{big - 1}"]
    again = attach(gateway, session, offset=device.entries[0]["id"]).until_live()
    assert again.resets == [] and again.text == "b"


def test_the_largest_id_of_all_can_be_resumed(redis, gateway, session, attach):
    big = 2**64 - 1
    redis.add(session, id=f"{big}-{big}", data="z")
    at = attach(gateway, session).until_live().offset
    device = attach(gateway, session, offset=at).until_live()
    assert device.resets == [] and device.entries == []
