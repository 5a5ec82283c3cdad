"""Section 10.3 and 10.6: Redis restarts, hangs, fills up and fails over; devices get what it holds, or a reset first."""

import subprocess

import pytest
from support.process import BATON, wait_for
from support.producer import Producer
from support.servers import key
from support.switch import Switch

AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def switch(started):
    def new(redis):
        started.append(_Killable(Switch(redis.port)))
        return started[-1].switch

    return new


class _Killable:
    """A Switch among processes."""

    class process:
        name = "switch"
        logged = staticmethod(lambda: "")

    def __init__(self, switch):
        self.switch = switch

    def kill(self):
        self.switch.kill()


def test_a_restart_that_keeps_the_stream_is_no_reset(new_redis, new_gateway, session, attach):
    redis = new_redis("redis", *AOF)
    redis.add_tokens(session, [f"w{n} " for n in range(1, 51)], "r")
    device = attach(new_gateway(redis.url), session).until_live()
    redis.kill()
    redis.start()
    ids = redis.add_tokens(session, [f"w{n} " for n in range(51, 101)], "r", 51)
    device.until_at(ids[-1], 40)
    assert device.resets == []
    device.judge(redis.stream(session))


def test_a_restart_that_loses_the_stream_is_a_reset(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.add_tokens(session, [f"w{n} " for n in range(1, 51)], "r")
    device = attach(new_gateway(redis.url), session).until_live()
    redis.kill()
    redis.start()
    assert device.until_type("reset", seconds=40)["reason"] == "deleted"
    id = redis.add(session, data="new")
    device.until_at(id, 40).until_live()
    device.judge(redis.stream(session))
    assert device.text == "new"


def test_a_restart_from_an_older_state_is_a_reset(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.add_tokens(session, [f"w{n} " for n in range(1, 31)], "r")
    redis.client.save()
    redis.add_tokens(session, [f"lost{n} " for n in range(31, 51)], "r", 31)
    device = attach(new_gateway(redis.url), session).until_live()
    redis.kill()
    redis.start()
    ids = redis.add_tokens(session, [f"new{n} " for n in range(31, 61)], "r", 31)
    device.until_type("reset", seconds=40)
    device.until_at(ids[-1], 40).until_live()
    device.judge(redis.stream(session))
    assert "lost" not in device.text


def test_an_outage_is_told_as_stalled_and_then_live(new_redis, new_gateway, session, attach):
    redis = new_redis("redis", *AOF)
    redis.add_tokens(session, ["a "])
    device = attach(new_gateway(redis.url), session).until_live()
    redis.kill()
    assert device.until_type("stalled", seconds=40)["reason"] == "store"
    redis.start()
    device.until_type("live", 2, 40)
    device.until_at(redis.add(session, data="b "))
    device.judge(redis.stream(session))
    assert device.resets == []


def test_a_frozen_redis_is_told_as_stalled_and_then_live(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.add_tokens(session, ["a "])
    device = attach(new_gateway(redis.url), session).until_live()
    redis.pause()
    try:
        assert device.until_type("stalled", seconds=40)["reason"] == "store"
    finally:
        redis.resume()
    device.until_type("live", 2, 40)
    device.until_at(redis.add(session, data="b "), 40)
    device.judge(redis.stream(session))
    assert device.resets == []


def test_a_short_pause_is_not_told(new_redis, new_gateway, session, attach):
    redis = new_redis()
    device = attach(new_gateway(redis.url), session).until_live()
    redis.client.execute_command("CLIENT", "PAUSE", "700", "ALL")
    device.until_at(redis.add(session, data="x"))
    assert not any(frame.get("type") == "stalled" for frame in device.frames)
    device.judge(redis.stream(session))


def test_an_attach_while_redis_is_away_is_503(new_redis, new_gateway, session):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    redis.kill()
    answer = wait_for(lambda: (told := gateway.upgrade(f"/v1/sessions/{session}")).status != 101 and told, 20, "a refusal")
    answer.problem(503)
    assert int(answer.headers["retry-after"]) >= 0
    assert gateway.history(session).status == 503
    redis.start()
    wait_for(lambda: gateway.get("/readyz").status == 200, 30, "ready again")


def test_cut_connections_lose_nothing(new_redis, new_gateway, session, attach, switch):
    """Every connection to Redis is cut again and again while an answer is written."""
    redis = new_redis()
    through = switch(redis)
    gateway = new_gateway(through.url)
    devices = [attach(gateway, session, follow=True, rollup=rollup).until_live() for rollup in ("auto", "off")]
    producer = Producer(redis, session, deltas=1200, pause=0.003)
    while producer.thread.is_alive():
        through.cut()
        producer.thread.join(0.15)
    producer.join()
    stream = redis.stream(session)
    for device in devices:
        device.until_at(stream[-1][0], 40)
        device.judge(stream)
        assert device.resets == []


def test_killed_tracking_connections_lose_nothing(new_redis, new_gateway, session, attach):
    redis = new_redis()
    device = attach(new_gateway(redis.url), session, follow=True).until_live()
    for n in range(8):
        redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub" if n % 2 else "normal", "SKIPME", "yes")
        device.until_at(redis.add(session, data=f"w{n} "), 30)
    device.judge(redis.stream(session))
    assert device.resets == []


def failed_over(redis_of, new_gateway, session, attach, switch, lost, new):
    """A device has seen `lost` deltas that the promoted replica never got; the replica then gets `new`."""
    master = redis_of("master")
    replica = redis_of("replica", "--replicaof", f"127.0.0.1 {master.port}")
    through = switch(master)
    device = attach(new_gateway(through.url), session, follow=True).until_live()
    master.add_tokens(session, [f"w{n} " for n in range(1, 51)], "r")
    wait_for(lambda: len(replica.stream(session)) == 50, 30, "the replica has it all")
    replica.client.replicaof("no", "one")
    for fields in lost:
        last = master.add(session, **fields)
    device.until_at(last)
    pipeline = replica.client.pipeline()
    for id, fields in new(master):
        pipeline.xadd(key(session), fields, id=id)
    pipeline.execute()
    through.switch(replica.port)
    master.kill()
    return device, replica


LOST = [{"data": f"lost{n} ", "response": "r", "n": str(n)} for n in range(51, 61)]


@pytest.mark.parametrize("lost", [1, 40])
def test_a_producer_appends_again_what_a_failover_lost(new_redis, new_gateway, session, attach, switch, lost):
    """A running `baton publish` meets a promoted replica that has not had its last deltas: every device has the whole answer."""
    master = new_redis("master")
    replica = new_redis("replica", "--replicaof", f"127.0.0.1 {master.port}")
    through = switch(master)
    device = attach(new_gateway(through.url), session, follow=True).until_live()
    words = [f"word{n}\n" for n in range(150)]
    publish = subprocess.Popen([BATON, "publish", session, "--redis", through.url, "--response", "r"], stdin=subprocess.PIPE, text=True)
    try:
        def say(some):
            publish.stdin.write("".join(some))
            publish.stdin.flush()
            wait_for(lambda: device.view.text.endswith(some[-1]), 30, "what was said")

        say(words[:50])
        wait_for(lambda: replica.stream(session) == master.stream(session), 30, "the replica has it all")
        replica.client.replicaof("no", "one")
        say(words[50 : 50 + lost])
        assert replica.stream(session) != master.stream(session)
        through.switch(replica.port)
        master.kill()
        say(words[50 + lost :])
        publish.stdin.close()
        assert publish.wait(30) == 0
    finally:
        publish.kill()
    device.until(lambda device: device.view.text == "".join(words) and device.view.live, 60, "the whole answer")
    device.until_at(replica.stream(session)[-1][0])
    device.judge(replica.stream(session))


def test_a_failover_that_lost_a_tail_is_a_reset(new_redis, new_gateway, session, attach, switch):
    device, replica = failed_over(
        new_redis, new_gateway, session, attach, switch, LOST,
        lambda master: [("*", {"data": "new51 ", "response": "r", "n": "51"})])
    device.until(lambda device: device.view.text.endswith("new51 ") and device.view.live, 60, "the replica's history")
    assert device.resets
    device.judge(replica.stream(session))
    assert "lost" not in device.text


def test_a_failover_with_the_same_ids_and_other_content_is_a_reset(new_redis, new_gateway, session, attach, switch):
    """The replica goes on under the very ids that the lost entries had."""
    device, replica = failed_over(
        new_redis, new_gateway, session, attach, switch, LOST,
        lambda master: [(id, {"data": "new ", "response": "r", "n": str(51 + n)})
                        for n, (id, _) in enumerate(master.stream(session)[50:])]
        + [("*", {"data": "last", "response": "r", "n": "61"})])  # fmt: skip
    device.until(lambda device: device.view.text.endswith("new last") and device.view.live, 60, "the replica's history")
    assert device.resets
    device.judge(replica.stream(session))
    assert "lost" not in device.text


def test_a_failover_with_nothing_new_is_a_reset_too(new_redis, new_gateway, session, attach, switch):
    device, replica = failed_over(new_redis, new_gateway, session, attach, switch, LOST, lambda master: [])
    assert device.until_type("reset", seconds=60)["reason"] == "ahead"
    device.until(lambda device: device.view.live, 60)
    device.judge(replica.stream(session))


def test_a_full_redis_refuses_producers_and_serves_devices(new_redis, new_gateway, session, attach):
    redis = new_redis()
    gateway = new_gateway(redis.url)
    device = attach(gateway, session).until_live()
    device.until_at(redis.add_tokens(session, ["a "] * 50, "r")[-1])
    redis.client.config_set("maxmemory", 1)
    body = ("POST", f"/v1/sessions/{session}", "{\"data\":\"x\"}", {"Content-Type": "application/json"})
    answer = gateway.request(*body)
    assert answer.status in (503, 507) and answer.headers["content-type"].startswith("application/problem+json")
    late = attach(gateway, session).until_live()
    late.judge(redis.stream(session))
    redis.client.config_set("maxmemory", 0)
    assert gateway.request(*body).status == 201
    for one in (device, late):
        one.until_at(redis.stream(session)[-1][0])
        one.judge(redis.stream(session))
        assert one.resets == []


def test_an_evicted_stream_is_a_reset(new_redis, new_gateway, session, attach):
    redis = new_redis("redis", "--maxmemory-policy", "allkeys-random")
    device = attach(new_gateway(redis.url), session).until_live()
    device.until_at(redis.add_tokens(session, ["a "] * 50, "r")[-1])
    redis.client.config_set("maxmemory", 1)
    wait_for(lambda: redis.client.execute_command("EVAL", "return 1", 0) and not redis.client.exists(key(session)), 20, "eviction")
    redis.client.config_set("maxmemory", 0)
    assert device.until_type("reset", seconds=40)["reason"] == "deleted"
    device.until_at(redis.add(session, data="new"))
    device.judge(redis.stream(session))


def test_a_gateway_that_starts_before_redis_waits_for_it(new_redis, new_gateway, session, attach):
    redis = new_redis()
    redis.kill()
    gateway = new_gateway(redis.url, ready=False)
    assert gateway.get("/healthz").status == 200
    assert gateway.get("/readyz").status == 503
    redis.start()
    wait_for(lambda: gateway.get("/readyz").status == 200, 40, "ready")
    id = redis.add(session, data="x")
    attach(gateway, session).until_at(id)
