"""Section 8: all sessions whose names begin alike are deleted, on one server and on a cluster; nobody deletes another's."""

import json

import pytest
from support.process import wait_for
from support.servers import Gateway, key
from support.tokens import bearer, token
from support.topology import Cluster


@pytest.fixture(scope="module")
def plain(tmp_path_factory, redis, secret):
    gateway = Gateway(tmp_path_factory.mktemp("plain"), redis.url, "gw-plain", "--auth-secret-file", secret)
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def rented(tmp_path_factory, redis, secret):
    folder = tmp_path_factory.mktemp("rented")
    gateway = Gateway(
        folder, redis.url, "gw-rented", "--auth-secret-file", secret, "--tenant-claim", "tenant", "--audit-log", folder / "audit.log")
    gateway.audit = folder / "audit.log"
    yield gateway
    gateway.kill()


def delete(gateway, prefix, status=200, **claims):
    answer = gateway.request("DELETE", f"/v1/sessions?prefix={prefix}", headers=bearer(token(**claims)), seconds=60)
    assert answer.status == status, answer.body
    return answer.json


def names(redis):
    return {name.decode()[len("baton:{"):].replace("}", "") for name in redis.client.scan_iter("baton:{*", count=1000)}


def test_those_whose_names_begin_so(plain, redis, session, attach):
    mine = [f"{session}:{n}" for n in range(1200)]
    for name in mine[1:]:
        redis.add_tokens(name, ["x"])
    # A response, what a person sent, and a session of which there is nothing else.
    lines = '{"response":"r","n":1,"data":"x"}\n'
    headers = {**bearer(token()), "Content-Type": "application/x-ndjson"}
    assert plain.request("POST", f"/v1/sessions/{mine[0]}?epoch=1", lines, headers).status == 201
    assert plain.request("POST", f"/v1/sessions/{session}:sent/responses/r/cancel", headers=bearer(token())).status == 202
    redis.client.set(key(f"{session}:odd"), "text")
    others = [f"{session}-other", session, f"x{session}:1", f"a/{session}:1"]
    for name in others:
        redis.add(name, data="x")
    device = attach(plain, mine[0], headers=bearer(token())).until_live()
    assert delete(plain, f"{session}:") == {"deleted": 1201, "left": 1}
    device.until(lambda device: "deleted" in device.resets, 20, "its reset")
    left = {name for name in names(redis) if session in name}
    # Tombstones stay, for an hour.
    assert {name for name in left if not name.endswith(":producers")} == {f"{session}:odd", *others}
    assert f"{mine[0]}:producers" in left
    assert redis.client.type(key(f"{session}:odd")) == b"string"
    refused = plain.request("POST", f"/v1/sessions/{mine[0]}?epoch=1", '{"response":"r","n":2,"data":"x"}\n', headers)
    assert refused.status == 409
    assert delete(plain, f"{session}:") == {"deleted": 0, "left": 1}


@pytest.mark.parametrize(
    "sessions, scope, prefix, status",
    [(["{0}:*"], ["delete"], "{0}:", 200), (["{0}:*"], ["delete"], "{0}:1", 200), (["*"], ["delete"], "{0}:", 200), (["{0}:*"], ["delete"], "{0}", 403),
     (["{0}:*"], ["delete"], "", 403), (["{0}:1"], ["delete"], "{0}:1", 403), (["*"], ["read", "publish"], "{0}:", 403)],
)  # fmt: skip
def test_what_a_token_allows(plain, redis, session, sessions, scope, prefix, status):
    redis.add(f"{session}:1", data="x")
    delete(plain, prefix.format(session), status, sessions=[one.format(session) for one in sessions], scope=scope)
    assert bool(redis.client.exists(key(f"{session}:1"))) == (status != 200)


@pytest.mark.parametrize("prefix", ["a/", "a%2F", "*", "{", "a b", "%25", "x" * 129])
def test_what_is_no_prefix(rented, prefix):
    delete(rented, prefix.replace(" ", "%20"), 400, tenant="b")
    assert rented.request("DELETE", "/v1/sessions", headers=bearer(token(tenant="b"))).status == 400
    assert rented.request("GET", "/v1/sessions?prefix=a", headers=bearer(token(tenant="b"))).status == 405


def test_a_tenants_own(rented, plain, redis, session):
    a, b = f"a-{session}", f"b-{session}"
    for name in (f"{a}/one", f"{a}/two", f"{b}/one", "one"):
        redis.add(name, data="x")
    assert delete(rented, "", tenant=a, sub="operator") == {"deleted": 2, "left": 0}
    assert redis.client.exists(key(f"{b}/one"), key("one")) == 2
    told = wait_for(lambda: [line for line in map(json.loads, rented.audit.read_text().splitlines()) if line["event"] == "deleted"], 20, "a line")
    assert (told[0]["tenant"], told[0]["prefix"], told[0]["sessions"], told[0]["subject"]) == (a, "", "2", "operator")
    # And who has no tenant deletes none of theirs.
    assert delete(plain, "one")["deleted"] == 1
    assert redis.client.exists(key(f"{b}/one")) == 1


def test_where_redis_does_not_let_it(secret, new_redis, new_gateway, session):
    redis = new_redis()
    gateway = new_gateway(redis.url, "gw-no-scan", "--auth-secret-file", secret)
    redis.add(f"{session}:1", data="x")
    redis.client.execute_command("ACL", "SETUSER", "default", "-scan")
    assert delete(gateway, session, 500)["type"] == "urn:baton:problem:store-refused"
    redis.client.execute_command("ACL", "SETUSER", "default", "+scan")
    assert delete(gateway, session)["deleted"] == 1


def test_on_a_cluster(tmp_path, secret, started, session):
    cluster = Cluster(tmp_path)
    try:
        gateway = Gateway(tmp_path, cluster.url, "gw-cluster", "--auth-secret-file", secret)
        started.append(gateway)
        headers = {**bearer(token()), "Content-Type": "application/json"}
        mine = [f"{session}:{n}" for n in range(30)]
        assert {cluster.owner(name) for name in mine} == set(cluster.masters)
        for name in [*mine, f"{session}-other"]:
            assert gateway.request("POST", f"/v1/sessions/{name}", '{"data":"x"}', headers).status == 201
        assert delete(gateway, f"{session}:") == {"deleted": 30, "left": 0}
        assert {gateway.request("GET", f"/v1/sessions/{name}", headers=headers).status for name in mine} == {404}
        assert gateway.request("GET", f"/v1/sessions/{session}-other", headers=headers).status == 200
    finally:
        cluster.close()
