"""What proves continuity and what does not (section 4), where a device goes back to, and what an attach need not wait for."""

import pytest
from support.servers import key
from support.versions import COUNTS_ENTRIES


def deltas(redis, session, *numbers, response="r"):
    for n in numbers:
        redis.add(session, response=response, n=n, data=f"{n} ")


UNSEEN = {
    "an event": {"event": "note", "data": "x"},
    "an input": {"event": "input", "data": "x"},
    "another response's": {"response": "q", "n": 1, "data": "x"},
    "one without a number": {"data": "x"},
}


@pytest.mark.parametrize("rollup", ["off", "auto", "250"])
@pytest.mark.parametrize("unseen", UNSEEN.values(), ids=UNSEEN)
def test_the_next_number_is_no_proof(unseen, rollup, redis, node, session, attach):
    """An entry between two deltas is added and trimmed before anybody can have read it."""
    deltas(redis, session, 1, 2, 3)
    device = attach(node, session, rollup=rollup).until_live()
    pipe = redis.client.pipeline(transaction=True)
    pipe.xadd(key(session), unseen)
    pipe.xadd(key(session), {"response": "r", "n": 4, "data": "4 "})
    pipe.xtrim(key(session), maxlen=1, approximate=False)
    pipe.execute()
    assert device.until_type("reset")["reason"] == "trimmed"
    device.until(lambda device: device.text == "4 ")


def test_the_next_number_is_no_proof_for_a_tail_that_was_lost(redis, node, session, attach):
    deltas(redis, session, *range(1, 16))
    device = attach(node, session, rollup="off").until_live()
    kept = redis.client.xrange(key(session))[:10]
    pipe = redis.client.pipeline(transaction=True)
    pipe.delete(key(session))
    for id, fields in kept:
        pipe.xadd(key(session), fields, id=id)
    pipe.xadd(key(session), {"response": "r", "n": 16, "data": "16 "})
    pipe.execute()
    device.until_type("reset")
    device.until(lambda device: device.text.endswith("10 16 "))


@pytest.mark.skipif(not COUNTS_ENTRIES, reason="nothing tells them apart where entries are not counted")
def test_another_history_with_the_same_last_id_and_a_smaller_count(redis, node, session, attach):
    for n in range(1, 6):
        redis.add(session, id=f"{n}-0", data=f"{n}")
    redis.client.xtrim(key(session), maxlen=0, approximate=False)
    device = attach(node, session).until_live()
    other = f"{key(session)}:other"
    redis.client.xadd(other, {"data": "other"}, id="5-0")
    redis.client.xtrim(other, maxlen=0, approximate=False)
    redis.client.rename(other, key(session))
    assert device.until_type("reset")["reason"] == "diverged"


@pytest.mark.parametrize("start", [{"offset": "0"}, {"offset": "$"}, {"last": 3}, {"response": "r"}, {"offset": "5-0"}])
def test_the_place_of_an_emptied_stream_is_not_forgotten(start, redis, node, session, attach):
    for n in range(1, 6):
        redis.add(session, id=f"{n}-0", data=f"{n}")
    redis.client.xtrim(key(session), maxlen=0, approximate=False)
    device = attach(node, session, **start).until_live()
    assert device.attached["offset"] == "5-0" and device.resets == []
    assert device.offset == "5-0"
    device.close()
    pipe = redis.client.pipeline(transaction=True)
    for n in range(6, 9):
        pipe.xadd(key(session), {"data": f"{n}"}, id=f"{n}-0")
    pipe.xtrim(key(session), maxlen=1, approximate=False)
    pipe.execute()
    again = attach(node, session, offset=device.offset).until_live()
    assert again.resets == ["trimmed"] and again.text == "8"


def test_an_emptied_stream_goes_on_where_it_was(redis, node, session, attach):
    for n in range(1, 6):
        redis.add(session, id=f"{n}-0", data=f"{n}")
    redis.client.xtrim(key(session), maxlen=0, approximate=False)
    device = attach(node, session).until_live()
    again = attach(node, session, offset=device.offset).until_live()
    for n in range(6, 9):
        redis.add(session, id=f"{n}-0", data=f"{n}")
    for one in (device, again):
        one.until(lambda device: device.text == "678")
        assert one.resets == []


def test_no_stream_is_still_zero(node, session, attach):
    device = attach(node, session).until_live()
    assert device.attached["offset"] == "0" and device.offset == "0"


def test_from_is_the_end_of_a_frame_that_was_sent(redis, node, session, attach):
    """Five deltas came in one frame; the stream is written anew with the first three of them."""
    redis.add(session, id="1-0", data="before ")
    device = attach(node, session, offset="$", rollup="250").until_live()
    pipe = redis.client.pipeline(transaction=True)
    for n in range(1, 6):
        pipe.xadd(key(session), {"response": "r", "n": n, "data": f"{n} "}, id=f"{n + 1}-0")
    pipe.execute()
    device.until(lambda device: device.text == "1 2 3 4 5 ")
    kept = redis.client.xrange(key(session))[:4]
    pipe = redis.client.pipeline(transaction=True)
    pipe.delete(key(session))
    for id, fields in kept:
        pipe.xadd(key(session), fields, id=id)
    pipe.xadd(key(session), {"response": "r", "n": 4, "data": "four "}, id="9-0")
    pipe.execute()
    told = device.until_type("reset")
    sent = {frame["id"] for frame in device.frames if "id" in frame}
    assert told["from"] == "0" or told["from"] in sent
    device.until(lambda device: device.text == "1 2 3 four ")


def test_until_end_does_not_wait_for_what_lies_before_its_offset(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    pipe = redis.client.pipeline()
    pipe.xadd(key(session), {"response": "q", "event": "start"})
    for n in range(1, 5001):
        pipe.xadd(key(session), {"response": "r", "n": n, "data": f"{n} "})
    at = pipe.execute()[-2].decode()
    redis.client.config_resetstat()
    device = attach(gateway, session, offset=at, until="end").until_live()
    calls = redis.client.info("commandstats")
    assert calls["cmdstat_xrange"]["calls"] <= 2 and "cmdstat_xrevrange" not in calls
    redis.add(session, response="r", event="end")
    device.until(lambda device: device.entries and device.entries[-1]["event"] == "end")
    redis.add(session, data="more")
    # What was open before its offset is, still.
    device.until(lambda device: device.text.endswith("more"))
    assert device.code is None
    redis.add(session, response="q", event="end")
    assert device.until_closed() == 1000


def test_what_a_device_sends_leaves_the_stream_as_it_was_written(redis, new_gateway, session, attach):
    gateway = new_gateway(redis.url, "gw-short", "--max-length", "10", "--retention", "60s")
    for n in range(50):
        redis.add(session, data=f"{n}")
    device = attach(gateway, session).until_live()
    device.send({"type": "input", "key": "k", "data": "hi"})
    device.until_type("accepted")
    assert redis.client.xlen(key(session)) == 51 and redis.client.pttl(key(session)) == -1
    assert 0 < redis.client.pttl(f"{key(session)}:inbox") <= 60_000
