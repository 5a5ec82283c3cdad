"""Tokens that are taken back before their time, on every node (section 3)."""

import http.client
import json
import time

import pytest
from support.event_stream import EventStream
from support.process import wait_for
from support.servers import Answer, Gateway, gateways
from support.tokens import bearer, token


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, redis, secret):
    with gateways(tmp_path_factory.mktemp("nodes"), redis, "gw-revoke", "--auth-secret-file", secret) as nodes:
        yield nodes


def issued(ago=60, **claims):
    return token(iat=int(time.time()) - ago, **claims)


def revoke(gateway, status=204, claims=None, **order):
    headers = {"Content-Type": "application/json", **bearer(issued(**{"sub": "operator", "scope": ["revoke"], **(claims or {})}))}
    answer = gateway.request("POST", "/v1/revocations", json.dumps(order), headers)
    assert answer.status == status, answer.body
    return answer


def status(gateway, session, value):
    return gateway.request("GET", f"/v1/sessions/{session}", headers=bearer(value)).status


def test_a_subjects_devices_are_closed_on_every_node_and_its_tokens_refused(nodes, redis, session, attach):
    redis.add(session, data="x")
    ada, bob = issued(sub=f"ada-{session}"), issued(sub="bob")
    devices = [attach(node, session, headers=bearer(ada)).until_live() for node in nodes]
    other = attach(nodes[1], session, headers=bearer(bob)).until_live()
    stream = EventStream(nodes[1], session, headers=bearer(ada))
    wait_for(lambda: stream.events, 20)
    revoke(nodes[0], subject=f"ada-{session}")
    assert [device.until_closed(20) for device in devices] == [4401, 4401]
    wait_for(lambda: stream.ended, 20)
    for node in nodes:
        assert status(node, session, ada) == 401 and status(node, session, bob) == 200
        # One that was issued later is good: its minute of leeway is before us here.
        assert status(node, session, issued(-5, sub=f"ada-{session}")) == 200
        assert status(node, session, token(sub=f"ada-{session}")) == 401, "it does not say when it was issued"
    other.until_at(redis.add(session, data="y"))


def test_one_token(nodes, redis, session, attach):
    redis.add(session, data="x")
    lost, kept = issued(jti=f"lost-{session}"), issued(jti="kept")
    device = attach(nodes[1], session, headers=bearer(lost)).until_live()
    revoke(nodes[0], token=f"lost-{session}")
    assert device.until_closed(20) == 4401
    assert status(nodes[1], session, lost) == 401 and status(nodes[1], session, kept) == 200


def test_a_session(nodes, redis, session, attach):
    for name in (session, f"{session}-2"):
        redis.add(name, data="x")
    value = issued()
    device = attach(nodes[1], session, headers=bearer(value)).until_live()
    other = attach(nodes[1], f"{session}-2", headers=bearer(value)).until_live()
    revoke(nodes[0], session=session)
    assert device.until_closed(20) == 4403
    assert status(nodes[1], session, value) == 403 and status(nodes[1], f"{session}-2", value) == 200
    assert status(nodes[1], session, issued(-5)) == 200
    other.until_at(redis.add(f"{session}-2", data="y"))


def test_a_node_that_starts_later_knows(nodes, redis, session, secret, tmp_path):
    redis.add(session, data="x")
    value = issued(sub=f"eve-{session}")
    revoke(nodes[0], subject=f"eve-{session}")
    late = Gateway(tmp_path, redis.url, "gw-late", "--auth-secret-file", secret)
    try:
        wait_for(lambda: status(late, session, value) == 401, 20, "the refusal")
    finally:
        late.kill()


def test_nodes_look_for_them_more_often_than_every_two_seconds(nodes, redis):
    """However busy the machine is, the shortest of some pauses is not longer than it should be."""
    looks = []
    with redis.client.monitor() as monitor:
        for command in monitor.listen():
            if "baton:{baton:revocations}" in command["command"] and (not looks or command["time"] - looks[-1][0] > 0.05 or command["client_port"] != looks[-1][1]):
                looks.append((command["time"], command["client_port"]))
            if len(looks) > 10:
                break
    by_node = {port: [time for time, other in looks if other == port] for _, port in looks}
    assert len(by_node) >= 2
    for times in by_node.values():
        assert len(times) > 2 and min(later - earlier for earlier, later in zip(times, times[1:])) < 1.9


def test_what_is_over_is_forgotten(nodes, redis, session):
    redis.add(session, data="x")
    value = issued(sub=f"tim-{session}")
    revoke(nodes[0], subject=f"tim-{session}", until=time.time() + 3)
    assert status(nodes[0], session, value) == 401
    wait_for(lambda: status(nodes[0], session, value) == 200, 30, "its end")


@pytest.mark.parametrize("order", [{}, {"subject": ""}, {"subject": "a", "token": "b"}, {"subject": 1}, {"who": "a"}, {"subject": "a", "until": 5},
                                   {"subject": "a", "until": "soon"}, {"subject": "a" * 1025}])  # fmt: skip
def test_what_is_no_revocation(nodes, order):
    assert revoke(nodes[0], 400, **order).json["type"] == "urn:baton:problem:bad-revocation"


@pytest.mark.parametrize("body", [
    "", "[]", "null", "{", '{"subject":"a"}x', '{"subject":"a","subject":"b"}', '{"subject":"a","until":1e400}', '{"subject":"a","until":1e308}', '{"subject":"a","until":NaN}',
    '{"subject":null}', '{"subject":["a"]}', "[" * 100_000, '{"subject":"a","evil":1}',
], ids=lambda body: body[:40])  # fmt: skip
def test_what_can_not_be_read_revokes_nothing(nodes, redis, body):
    before = redis.client.xlen("baton:{baton:revocations}")
    headers = {"Content-Type": "application/json", **bearer(issued(sub="operator", scope=["revoke"]))}
    nodes[0].request("POST", "/v1/revocations", body, headers).problem(400)
    assert redis.client.xlen("baton:{baton:revocations}") == before


def test_what_others_write_there_is_stood(nodes, redis, session):
    """Who writes to Redis may write anything."""
    redis.add(session, data="x")
    name = "baton:revocations"
    for data in ("", "{", "[]", '{"subject":"a"}', '{"subject":"a","before":"x","until":"y"}', '{"subject":"a","token":"b","before":1e30,"until":1e30}',
                 '{"subject":"b","before":-1e308,"until":1e308}', '{"before":1,"until":9e18}', "[" * 10_000, "x" * 300_000):  # fmt: skip
        redis.add(name, event="revoke", data=data)
    redis.add(name, n="x", event="revoke")
    value = issued(sub=f"after-{session}")
    assert status(nodes[1], session, value) == 200
    revoke(nodes[0], subject=f"after-{session}")
    wait_for(lambda: status(nodes[1], session, value) == 401, 20, "the next one is heard")


def test_only_who_may_revokes(nodes):
    revoke(nodes[0], 403, {"scope": ["read", "publish", "delete"]}, subject="ada")


def test_the_orders_are_nobodys(nodes, redis):
    """Neither read nor written by a token for everything."""
    value, path = issued(scope=["read", "publish", "input", "cancel", "delete", "revoke"]), "/v1/sessions/baton:revocations"
    forged = json.dumps({"event": "revoke", "data": json.dumps({"subject": "bob", "before": 1e11, "until": 1e11})})
    for method, body in [("GET", None), ("POST", forged), ("DELETE", None)]:
        answer = nodes[0].request(method, path, body, {"Content-Type": "application/json", **bearer(value)})
        assert answer.status == 403, (method, answer.body)
    nodes[0].upgrade(path, bearer(value)).problem(403)


class Upload:
    """A body that has begun and goes on."""

    def __init__(self, gateway, path, value, kind, first):
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        self.connection.putrequest("POST", path)
        for name, told in {"Content-Type": kind, "Transfer-Encoding": "chunked", **bearer(value)}.items():
            self.connection.putheader(name, told)
        self.connection.endheaders()
        self.connection.send(f"{len(first):x}\r\n{first}\r\n".encode())


@pytest.mark.parametrize("order, status", [("subject", 401), ("session", 403)])
def test_what_is_under_way_is_cut(nodes, redis, session, order, status):
    value, path = issued(sub=f"up-{session}"), f"/v1/sessions/{session}"
    lines = Upload(nodes[1], f"{path}?epoch=1", value, "application/x-ndjson", '{"response":"r","n":1,"data":"x"}\n')
    chunk = 'data: {"type":"start"}\n\ndata: {"type":"text-start","id":"1"}\n\ndata: {"type":"text-delta","id":"1","delta":"x"}\n\n'
    chunks = Upload(nodes[1], f"{path}?response=ui", value, "text/event-stream", chunk)
    controls = http.client.HTTPConnection("127.0.0.1", nodes[1].port, timeout=60)
    controls.request("GET", f"{path}/responses/r/controls", headers=bearer(value))
    following = controls.getresponse()
    assert following.status == 200
    wait_for(lambda: {dict(fields).get(b"response") for _, fields in redis.stream(session)} >= {b"r", b"ui"}, 20, "both have begun")
    revoke(nodes[0], **{order: f"up-{session}" if order == "subject" else session})
    answer = Answer(lines.connection.getresponse()).problem(status)
    assert (answer["response"], answer["n"]) == ("r", 1)
    assert Answer(chunks.connection.getresponse()).problem(status)["response"] == "ui"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        following.read()


def test_a_page_that_waits_is_not_given(nodes, redis, session):
    value, last = issued(sub=f"page-{session}"), redis.add(session, data="x")
    page = http.client.HTTPConnection("127.0.0.1", nodes[1].port, timeout=60)
    page.request("GET", f"/v1/sessions/{session}?after={last}&wait=30s", headers=bearer(value))
    wait_for(lambda: (nodes[1].metric("baton_sessions") or 0) >= 1, 20, "it waits")
    revoke(nodes[0], subject=f"page-{session}")
    wait_for(lambda: status(nodes[1], session, value) == 401, 20, "the refusal")
    redis.add(session, data="y")
    assert Answer(page.getresponse()).status == 401
