"""`--roles`: nodes that devices attach to, and nodes that ask model servers."""

import pytest
from support.event_stream import EventStream
from support.servers import Gateway
from test_descriptions import Answers
from test_relay import WORDS, Upstream, ask, client, read, sparse
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


@pytest.fixture(scope="module")
def upstream():
    return Upstream(sparse())


@pytest.fixture(scope="module")
def nodes(upstream, tmp_path_factory, redis):
    """One of each role."""
    options = ["--openai", upstream.url, "--ai-sdk", f"{upstream.url}/ui", "--relay", f"/agent={upstream.url}/agent"]
    folder = tmp_path_factory.mktemp("roles")
    started = {role: Gateway(folder, redis.url, role, "--roles", role, *options) for role in ("attach", "relay")}
    yield started
    for one in started.values():
        one.kill()


def test_a_node_that_only_attaches_asks_nobody(nodes, upstream, session):
    asked = len(upstream.requests)
    json = {"Content-Type": "application/json", "Baton-Session": session}
    for path in ("/v1/responses", "/v1/chat/completions", "/v1/embeddings"):
        told = nodes["attach"].request("POST", path, "{}", json)
        assert told.status == 421 and told.json["error"]["code"] == "wrong_role"
    for path in ("/v1/ai-sdk", "/agent"):
        told = nodes["attach"].request("POST", path, "{}", json).problem(421)
        assert told["type"] == "urn:baton:problem:wrong-role" and "--roles attach" in told["detail"]
    assert nodes["attach"].get("/v1/models").status == 421
    assert len(upstream.requests) == asked and nodes["attach"].get("/readyz").status == 200


def test_what_a_node_is_for_is_counted(nodes, gateway):
    for role in ("attach", "relay"):
        assert {name: node.metric("baton_role", role=role) for name, node in nodes.items()} == {"attach": role == "attach", "relay": role == "relay"}
        assert gateway.metric("baton_role", role=role) == 1


def test_what_one_relays_is_read_and_stopped_at_the_other(nodes, upstream, session, attach):
    device = attach(nodes["attach"], session).until_live()
    upstream.paced = True
    try:
        with ask(nodes["relay"], session) as stream:
            upstream.go.release(5)
            id = next(stream).response.id
            device.until(lambda device: device.view.text == "".join(WORDS[:2]), 20, "the first words")
            assert client(nodes["attach"]).responses.cancel(id).status == "cancelled"
        assert [one["type"] for one in read(nodes["attach"], id)][0] == "response.created"
    finally:
        upstream.paced = False


def test_nobody_attaches_to_a_node_that_only_relays(nodes, session, redis):
    answers, relay = Answers(), nodes["relay"]
    path = f"/v1/sessions/{session}"
    assert EventStream(relay, session).status == 421
    answers(relay, "GET", path, 421, "wrong-role", headers={"Accept": "text/event-stream"})
    told = relay.upgrade(path)
    assert told.problem(421)["type"] == "urn:baton:problem:wrong-role"
    with connect(f"ws://{relay.address}{path}", subprotocols=["baton.v1"], origin="http://localhost", user_agent_header="Mozilla/5.0") as page:
        assert '"wrong_role"' in page.recv(20)
        with pytest.raises(ConnectionClosed):
            page.recv(20)
        assert page.close_code == 4421
    assert relay.get("/readyz").status == 200
    # Whoever asks is answered there, history is history, and producers are served.
    assert relay.request("POST", path, '{"data":"x"}', {"Content-Type": "application/json"}).status == 201
    assert relay.history(session).json["entries"][0]["data"] == "x"
    assert EventStream(nodes["attach"], session).status == 200


@pytest.mark.parametrize("roles", ["", "reader", "attach,attach2"])
def test_a_role_that_is_none_is_a_mistake(tmp_path, redis, roles):
    with pytest.raises(AssertionError, match="roles"):
        Gateway(tmp_path, redis.url, "wrong", "--roles", roles)
