"""Baton over a Redis Cluster: sessions spread over masters that fail over, hand over slots, come and go."""

import concurrent.futures
import subprocess

import pytest
import redis.cluster
from baton_stream.sync import Producer
from support.load import Load
from support.process import BATON, free_port, wait_for
from support.servers import Gateway, key
from support.tokens import bearer, token
from support.topology import Cluster

NAMES = [f"c{number}" for number in range(8)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(place):
    servers = Cluster(place)
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def gateways(place, cluster):
    nodes = [Gateway(place, cluster.url, f"gw-{number}") for number in (1, 2)]
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def load(place, cluster, gateways, request):
    """A load over sessions of all masters."""
    name = request.node.name[5:30].replace("[", "-").replace("]", "")
    load = Load(place, cluster.url, [gateway.url for gateway in gateways], [f"{name}-{session}" for session in NAMES])
    load.grown()
    yield load
    load.close()


def test_sessions_of_all_masters_and_four_connections_to_each(cluster, gateways, load):
    assert {cluster.owner(answer.session) for answer in load.answers} == set(cluster.masters)
    load.judge()
    assert load.resets == []
    for port in cluster.masters:
        assert cluster.connections(port) == 4 * len(gateways), port


def test_every_right_is_tried_on_every_master(cluster):
    done = subprocess.run([BATON, "serve", "--check", "--redis", cluster.url], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    port = cluster.masters[1]
    cluster.ask(port, "ACL", "SETUSER", "default", "-hscan")
    done = subprocess.run([BATON, "serve", "--check", "--redis", cluster.url], capture_output=True, text=True)
    cluster.ask(port, "ACL", "SETUSER", "default", "+@all")
    assert done.returncode == 78 and f"127.0.0.1:{port}: HSCAN" in done.stdout + done.stderr


def test_what_devices_send_and_requests_ask(cluster, gateways, session):
    gateway = gateways[0]
    posted = gateway.request("POST", f"/v1/sessions/{session}", b'{"data":"hello"}', {"Content-Type": "application/json"})
    assert posted.status == 201, posted.body
    assert gateways[1].history(session).json["entries"][0]["data"] == "hello"
    with Producer(cluster.url, session, "r") as answer:
        answer.delta("one ")
        answer.delta("two")
    texts = [entry.get("data") for entry in gateway.history(session).json["entries"]]
    assert "one " in "".join(filter(None, texts)) and "two" in "".join(filter(None, texts))
    assert gateway.request("DELETE", f"/v1/sessions/{session}").status == 204


def test_a_planned_failover_costs_nothing(cluster, load):
    for master in cluster.masters:
        cluster.failover(master)
        load.grown()
    load.judge()
    assert load.resets == []


def test_a_master_that_dies_is_replaced(cluster, load):
    master = cluster.owner(load.answers[0].session)
    replica = wait_for(lambda: (cluster.replicas(master) or [None])[0], 20, "a replica")
    cluster.kill(master)
    wait_for(lambda: replica in cluster.masters, 30, "the replica takes over")
    load.grown()
    cluster.restart(master)
    wait_for(lambda: master in cluster.replicas(replica), 30, "it is a replica now")
    load.grown()
    load.judge()


def test_a_master_that_hangs_and_thaws(cluster, load):
    master = cluster.owner(load.answers[0].session)
    replica = wait_for(lambda: (cluster.replicas(master) or [None])[0], 20, "a replica")
    cluster.stop(master)
    wait_for(lambda: replica in cluster.masters, 30, "the replica takes over")
    load.grown()
    cluster.cont(master)
    wait_for(lambda: master in cluster.replicas(replica), 30, "it is a replica now")
    load.grown()
    load.judge()


def test_slots_that_move_take_their_sessions_along(cluster, load):
    for answer in load.answers[:4]:
        owner = cluster.owner(answer.session)
        target = next(port for port in cluster.masters if port != owner)
        cluster.migrate(answer.session, target)
        load.grown(5)
        cluster.migrate(answer.session, owner)
        load.grown(5)
    load.judge()
    assert load.resets == []


def written(cluster, gateways, attach, session):
    """A client of the cluster, and a live device at each gateway of a session with 20 entries."""
    client = redis.cluster.RedisCluster("127.0.0.1", cluster.masters[0], protocol=2)
    for number in range(20):
        client.xadd(key(session), {"data": f"a{number} "})
    devices = [attach(gateway.url, session, offset="0", rollup="off") for gateway in gateways]
    for device in devices:
        device.until_live()
    return client, devices


def test_a_slot_that_stays_in_motion(cluster, gateways, attach, session):
    """Its stream is on the new master and its slot on the old one: `ASK`."""
    client, devices = written(cluster, gateways, attach, session)
    owner = cluster.owner(session)
    target = next(port for port in cluster.masters if port != owner)

    def look(step):
        if step != "moved":
            return
        for number in range(20):
            client.xadd(key(session), {"data": f"b{number} "})
        for device in devices:
            device.until(lambda device: device.view.text.endswith("b19 "), 20, "what was written in motion")
        paging = attach(gateways[0].url, session, offset="0")
        paging.until(lambda device: device.view.text.endswith("b19 "), 20, "history in motion")
        assert len(gateways[1].history(session).json["entries"]) == 40

    cluster.migrate(session, target, look)
    client.xadd(key(session), {"data": "c "})
    for device in devices:
        device.until(lambda device: device.view.text.endswith("b19 c "), 20, "what was written afterwards")
        assert device.view.resets == [] and device.attaches == 1
    assert cluster.owner(session) == target


def test_a_cancel_is_heard_while_the_slot_is_in_motion(cluster, gateways, attach, session):
    """Its keys, the inbox among them, have moved one by one, and the slot has not."""
    publish = subprocess.Popen(
        [BATON, "publish", "--redis", cluster.url, session, "--response", "r"], stdin=subprocess.PIPE, text=True)
    publish.stdin.write("one\n")
    publish.stdin.flush()
    device = attach(gateways[0].url, session, offset="0")
    device.until(lambda device: device.view.text == "one\n", 20, "the answer")
    target = next(port for port in cluster.masters if port != cluster.owner(session))
    path, heard = f"/v1/sessions/{session}", []
    # Then all four keys are there: those that are not would keep the step waiting until the slot has landed.
    said = gateways[0].request("POST", f"{path}/input", b'{"data":"go on"}', {"Content-Type": "application/json"})
    assert said.status == 202, said.body

    def look(step):
        if step == "moved":
            assert gateways[1].request("POST", f"{path}/responses/r/cancel").status == 202
            heard.append(publish.wait(20))
            device.until(lambda device: device.frames[-1].get("event") == "cancelled", 20, "the end")

    try:
        cluster.migrate(session, target, look)
        assert heard == [0] and device.view.resets == [] and device.attaches == 1
    finally:
        publish.kill()


def test_no_session_in_a_slot_that_is_in_motion_is_empty(cluster, gateways, attach, session):
    """Neither master has the stream: that is an answer. Its first entry is written where the slot goes."""
    client = redis.cluster.RedisCluster("127.0.0.1", cluster.masters[0], protocol=2)
    waiting = attach(gateways[0].url, session, offset="0")
    waiting.until_live()
    owner = cluster.owner(session)
    target = next(port for port in cluster.masters if port != owner)

    def look(step):
        if step == "begun":
            attach(gateways[0].url, session, offset="0").until_live()
            assert gateways[1].history(session).status == 404
            client.xadd(key(session), {"data": "first "})
            waiting.until(lambda device: device.view.text == "first ", 10, "what was written in motion")

    cluster.migrate(session, target, look)


def test_a_slot_whose_new_master_dies_on_the_way(cluster, gateways, attach, session):
    """Its stream is there already, and its replica takes over; the old master goes on sending to where nobody is."""
    client, devices = written(cluster, gateways, attach, session)
    source, slot = cluster.owner(session), cluster.slot(session)
    target = next(port for port in cluster.masters if port != source)
    replica = wait_for(lambda: (cluster.replicas(target) or [None])[0], 20, "a replica")

    def look(step):
        if step != "moved":
            return
        client.xadd(key(session), {"data": "b "})
        for device in devices:
            device.until(lambda device: device.view.text.endswith("b "), 20, "what was written in motion")
        wait_for(lambda: cluster.ask(replica, "CLUSTER", "COUNTKEYSINSLOT", slot), 20, "its replica has it")
        cluster.kill(target)
        wait_for(lambda: replica in cluster.masters, 30, "the replica takes over")

    cluster.migrate(session, target, look)
    for port in [replica, source, *cluster.masters]:
        cluster.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", cluster.id(replica))
    cluster.restart(target)
    wait_for(lambda: target in cluster.replicas(replica), 30, "it is a replica now")
    assert wait_for(lambda: cluster.ask(replica, "XADD", key(session), "*", "data", "c "), 30, "the slot is settled")
    for device in devices:
        device.until(lambda device: device.view.text.endswith("c "), 60, "what was written afterwards")
        assert device.view.text.endswith("a19 b c ") and device.attaches == 1


def test_the_cluster_is_gone_for_a_while(cluster, gateways, load):
    """All masters hang at once, longer than anybody waits for a reply."""
    for port in cluster.ports:
        cluster.stop(port)
    wait_for(lambda: gateways[0].get("/readyz").status == 503, 60, "not ready")
    for port in cluster.ports:
        cluster.cont(port)
    wait_for(lambda: len(cluster.masters) == 3, 60, "the cluster is back")
    load.grown(seconds=60)
    load.judge()
    wait_for(lambda: gateways[0].get("/readyz").status == 200, 60, "ready")


def test_a_master_joins_takes_slots_and_leaves(cluster, gateways, load):
    """The new one has the first session's slot while it is there; nobody's device notices."""
    new = cluster.first + 6
    cluster.ports.append(new)
    (cluster.folder / str(new)).mkdir()
    cluster.restart(new)
    assert cluster.ask(new, "CLUSTER", "MEET", "127.0.0.1", cluster.masters[0])
    wait_for(lambda: all(new in cluster.nodes_by(port) for port in cluster.ports), 30, "all have met")
    session = load.answers[0].session
    owner = cluster.owner(session)
    cluster.migrate(session, new)
    load.grown()
    assert cluster.owner(session) == new and cluster.connections(new) == 4 * len(gateways)
    cluster.migrate(session, owner)
    load.grown()
    wait_for(lambda: cluster.connections(new) == 0, 60, "nobody is connected to a master without slots")
    id = cluster.id(new)
    for port in cluster.ports:
        cluster.ask(port, "CLUSTER", "FORGET", id)
    cluster.kill(new)
    cluster.ports.remove(new)
    load.grown()
    load.judge()
    assert load.resets == []


@pytest.mark.parametrize("where", ["nobody", "no cluster"])
def test_why_there_is_no_cluster_is_told(place, redis, started, where):
    port = free_port() if where == "nobody" else redis.port
    gateway = Gateway(place, f"redis+cluster://127.0.0.1:{port}", f"gw-{where.replace(' ', '-')}", ready=False)
    started.append(gateway.process)
    told = "nothing listens there" if where == "nobody" else "cluster support disabled"
    wait_for(lambda: told in gateway.get("/readyz").body.decode(), 20, "/readyz says why")
    assert gateway.get("/readyz").status == 503 and told in gateway.process.logged()


def test_sessions_of_tenants_are_counted_in_slots_of_their_own(place, cluster, secret):
    """A tenant's set is on another master than some of its sessions; and it moves."""
    options = ["--auth-secret-file", secret, "--tenant-claim", "tenant", "--max-sessions-per-tenant", "8"]
    nodes = [Gateway(place, cluster.url, f"gw-counting-{number}", *options) for number in (1, 2)]
    headers = {"Content-Type": "application/json", **bearer(token(tenant="counted"))}

    def post(name, node):
        return node.request("POST", f"/v1/sessions/{name}", '{"data":"x"}', headers).status

    try:
        assert len({cluster.owner(f"counted/{name}") for name in NAMES}) > 1
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(post, [*NAMES, *(f"more{n}" for n in range(16))], nodes * 12))
        assert statuses.count(201) == 8 and statuses.count(429) == 16, statuses
        for name in [*NAMES, *(f"more{n}" for n in range(16))]:
            assert nodes[0].request("DELETE", f"/v1/sessions/{name}", headers=headers).status == 204
        assert post("again", nodes[1]) == 201
    finally:
        for node in nodes:
            node.kill()
