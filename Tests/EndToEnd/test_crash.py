"""Sections 10.1 and 10.2: gateways die mid-answer; devices go on at the next entry on the other."""

import contextlib
import random
import signal

import pytest
from support.process import wait_for
from support.producer import Producer
from support.servers import request


@pytest.fixture
def two(redis, new_gateway):
    return [new_gateway(redis.url, "gw-1"), new_gateway(redis.url, "gw-2")]


def nodes(device):
    return [frame["node"] for frame in device.frames if frame.get("type") == "attached"]


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_a_gateway_killed_mid_answer_loses_nothing(redis, two, new_proxy, session, attach, kind):
    """Five devices behind the proxy of Deploy; the gateway that carries the first is killed with SIGKILL."""
    proxy = new_proxy(kind, two)
    devices = [attach(proxy.url, session, follow=True, rollup=rollup) for rollup in ("auto", "off", "auto", "off", "100")]
    for device in devices:
        device.until_live()
    producer = Producer(redis, session)
    wait_for(lambda: producer.written > 200, 30, "200 deltas")
    victim = next(gateway for gateway in two if gateway.node == nodes(devices[0])[0])
    victim.kill()
    producer.join()
    stream = redis.stream(session)
    for device in devices:
        device.until_at(stream[-1][0], 30).until_live()
        device.judge(stream)
        assert device.resets == []
        assert nodes(device)[-1] != victim.node
    moved = [device for device in devices if device.attaches > 1]
    assert devices[0] in moved


def test_a_gateway_that_comes_back_is_used_again(redis, two, new_gateway, new_proxy, session, attach):
    proxy = new_proxy("haproxy", two)
    port = two[0].port
    two[0].kill()
    again = new_gateway(redis.url, "gw-1-again", listen=f"127.0.0.1:{port}")
    two[1].kill()
    wait_for(lambda: _status(proxy) == 200, 20, "HAProxy uses the new one")
    device = attach(proxy.url, session).until_live()
    assert device.attached["node"] == again.node


def _status(proxy):
    return request(proxy.port, "GET", "/readyz").status


def test_devices_that_move_at_random_lose_nothing(redis, gateway, gateway2, session, attach):
    """Twelve devices are cut and reattached elsewhere at random moments of an answer."""
    random_ = random.Random(11)
    devices = [attach([gateway, gateway2], session, follow=True, rollup=random_.choice(["auto", "off", "20"])) for _ in range(12)]
    producer = Producer(redis, session, deltas=1500, pause=0.002)
    while producer.thread.is_alive():
        with contextlib.suppress(OSError):
            random_.choice(devices).socket.socket.shutdown(2)
        producer.thread.join(0.01)
    producer.join()
    stream = redis.stream(session)
    for device in devices:
        device.until_at(stream[-1][0], 30).until_live()
        device.judge(stream)
        assert device.resets == []
    assert sum(device.attaches for device in devices) > 30


def test_both_gateways_killed_again_and_again(redis, new_gateway, session, attach):
    """Two nodes die and return on their ports in turn, through an answer of some seconds."""
    running = [new_gateway(redis.url, f"gw-{n}") for n in (1, 2)]
    ports = [gateway.port for gateway in running]
    devices = [attach(running, session, follow=True) for _ in range(6)]
    producer = Producer(redis, session, deltas=1500, pause=0.003)
    turn = 0
    while producer.thread.is_alive() and turn < 8:
        running[turn % 2].kill()
        running[turn % 2] = new_gateway(redis.url, f"gw-{turn}-again", listen=f"127.0.0.1:{ports[turn % 2]}")
        turn += 1
    producer.join()
    stream = redis.stream(session)
    for device in devices:
        device.until_at(stream[-1][0], 30).until_live()
        device.judge(stream)
        assert device.resets == []
    assert turn > 2


def test_a_frozen_gateway_does_not_hold_up_the_other(redis, two, session, attach):
    stuck, well = attach(two[0], session).until_live(), attach(two[1], session).until_live()
    two[0].process.signal(signal.SIGSTOP)
    try:
        ids = redis.add_tokens(session, [f"w{n} " for n in range(500)], "r")
        well.until_at(ids[-1])
        well.judge(redis.stream(session))
    finally:
        two[0].process.signal(signal.SIGCONT)
    stuck.until_at(ids[-1])
    stuck.judge(redis.stream(session))
