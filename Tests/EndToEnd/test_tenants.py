"""Section 3: each tenant's sessions are its own, on every wire, whatever they are called; and what it may take is bounded."""

import json
import subprocess
import time

import pytest
from baton_stream.sync import Producer
from support.app import App, claims
from support.event_stream import EventStream
from support.process import BATON, wait_for
from support.servers import Gateway, key
from support.tokens import bearer, token
from support.webhooks import Receiver
from support.webhooks import secret as webhook_secret
from test_ai_sdk import answer as ui_answer
from test_ai_sdk import asked, sse
from test_relay import WORDS, Upstream, client, sparse

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def upstream():
    return Upstream([])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, redis, secret, upstream):
    folder, url = tmp_path_factory.mktemp("tenants"), f"http://127.0.0.1:{upstream.port}"
    gateways = [
        Gateway(folder, redis.url, f"gw-tenant-{n}", "--auth-secret-file", secret, "--tenant-claim", "tenant",
                "--openai", f"{url}/v1", "--ai-sdk", f"{url}/api/chat", env={"OPENAI_API_KEY": "k"})
        for n in (1, 2)
    ]  # fmt: skip
    yield gateways
    for gateway in gateways:
        gateway.kill()


@pytest.fixture(scope="module")
def bounded(tmp_path_factory, redis, secret, upstream):
    gateway = Gateway(
        tmp_path_factory.mktemp("bounded"), redis.url, "gw-quota", "--auth-secret-file", secret, "--tenant-claim", "tenant",
        "--max-devices-per-tenant", "2", "--max-entries-per-tenant", "1", "--max-bytes-per-tenant", "1KiB", "--upload-timeout", "2s",
        "--ai-sdk", f"http://127.0.0.1:{upstream.port}/api/chat")  # fmt: skip
    yield gateway
    gateway.kill()


def of(tenant, **more):
    return bearer(token(tenant=tenant, **more))


A, B = of("a"), of("b")


def post(gateway, session, data, headers, **more):
    return gateway.request("POST", f"/v1/sessions/{session}", json.dumps({"data": data}), {**JSON, **headers, **more})


def texts(gateway, session, headers):
    answer = gateway.request("GET", f"/v1/sessions/{session}", headers=headers)
    return None if answer.status == 404 else [entry.get("data") for entry in answer.json["entries"]]


def test_the_same_name_is_a_session_of_each(nodes, redis, session, attach):
    assert post(nodes[0], session, "of a", A).status == 201
    assert texts(nodes[1], session, A) == ["of a"] and texts(nodes[1], session, B) is None
    assert post(nodes[0], session, "of b", B).status == 201
    assert texts(nodes[1], session, A) == ["of a"] and texts(nodes[1], session, B) == ["of b"]
    assert [redis.client.exists(key(name)) for name in (session, f"a/{session}", f"b/{session}")] == [0, 1, 1]
    devices = [attach(nodes[1], session, headers=who).until_live() for who in (A, B)]
    streams = [EventStream(nodes[1], session, headers=who) for who in (A, B)]
    # A producer at Redis names the tenant.
    id = redis.add(f"b/{session}", data=" more")
    devices[1].until_at(id)
    streams[1].until_at(id)
    id = redis.add(f"a/{session}", data=" too")
    devices[0].until_at(id)
    streams[0].until_at(id)
    for device in devices:
        assert device.attached["session"] == session
    assert [device.text for device in devices] == ["of a too", "of b more"]
    assert [stream.view.text for stream in streams] == ["of a too", "of b more"]
    for stream in streams:
        assert stream.headers["baton-session"] == session
        stream.close()


def test_a_page_that_waits_and_an_upload(nodes, redis, session):
    lines = "".join(json.dumps(line) + "\n" for line in [{"response": "r", "n": 1, "data": "x"}, {"response": "r", "event": "end"}])
    upload = nodes[0].request("POST", f"/v1/sessions/{session}?epoch=1", lines, {**LINES, **A})
    assert upload.status == 201 and upload.headers.get("baton-session") == session
    last = upload.json["ids"][-1]
    waited = nodes[1].request("GET", f"/v1/sessions/{session}?wait=100ms", headers=B)
    assert waited.json["entries"] == [] and waited.json["session"] == session
    assert nodes[1].request("GET", f"/v1/sessions/{session}?after={last}&wait=100ms", headers=B).status == 410
    for path in ("responses/r", "responses"):
        mine, others = (nodes[1].request("GET", f"/v1/sessions/{session}/{path}", headers=who) for who in (A, B))
        assert mine.status == 200 and b'"end"' in mine.body
        assert others.status == 404 or others.json == {"responses": []}
    # Another tenant's writer of the same name is no rival.
    assert nodes[1].request("POST", f"/v1/sessions/{session}?epoch=1", lines, {**LINES, **B}).status == 201
    assert len(redis.stream(f"a/{session}")) == len(redis.stream(f"b/{session}")) == 2


def test_what_people_want_reaches_their_own(nodes, redis, session, attach):
    device = attach(nodes[0], session, headers=A).until_live()
    device.send({"type": "input", "key": "k", "data": "of a"})
    device.until_type("accepted")
    sent = nodes[0].request("POST", f"/v1/sessions/{session}/input", '{"data":"of b"}', {**JSON, **B, "Idempotency-Key": "k"})
    assert sent.status == 202 and "idempotent-replayed" not in sent.headers
    assert nodes[0].request("POST", f"/v1/sessions/{session}/responses/r/cancel", headers=B).status == 202
    inbox = {name: [dict(fields).get(b"event") for _, fields in redis.client.xrange(f"{key(f'{name}/{session}')}:inbox")] for name in "ab"}
    assert inbox == {"a": [b"input"], "b": [b"input", b"cancel"]}
    assert texts(nodes[1], session, A) == ["of a"] and texts(nodes[1], session, B) == ["of b"]
    events = []
    for who in (A, B):
        lines = '{"response":"r","event":"start"}\n{"response":"r","event":"cancelled"}\n'
        assert nodes[0].request("POST", f"/v1/sessions/{session}?epoch=1", lines, {**LINES, **who}).status == 201
        told = nodes[1].request("GET", f"/v1/sessions/{session}/responses/r/controls", headers=who)
        events.append([json.loads(line[6:])["event"] for line in told.body.decode().splitlines() if line.startswith("data: ")])
    assert events == [["cancelled"], ["cancel", "cancelled"]]


def test_an_idempotency_key_is_its_tenants(nodes, session):
    assert post(nodes[0], session, "x", A, **{"Idempotency-Key": "k"}).status == 201
    assert "idempotent-replayed" not in post(nodes[0], session, "y", B, **{"Idempotency-Key": "k"}).headers
    assert post(nodes[1], session, "x", A, **{"Idempotency-Key": "k"}).headers["idempotent-replayed"] == "true"
    assert texts(nodes[0], session, A) == ["x"] and texts(nodes[0], session, B) == ["y"]


def test_a_deletion_takes_its_own(nodes, redis, session):
    for who in (A, B):
        post(nodes[0], session, "x", who)
    assert nodes[1].request("DELETE", f"/v1/sessions/{session}", headers=B).status == 204
    assert texts(nodes[0], session, A) == ["x"] and texts(nodes[0], session, B) is None


def test_no_name_leads_into_another_tenants(nodes, redis, session):
    post(nodes[0], session, "secret", A)
    for name in (f"a/{session}", f"a%2F{session}", f"a%2f{session}", f"..%2Fa%2F{session}", f"a%252F{session}"):
        for method, path in [("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/responses"), ("POST", "/input")]:
            answer = nodes[0].request(method, f"/v1/sessions/{name}{path}", '{"data":"x"}' if method == "POST" else None, {**JSON, **B})
            assert answer.status in (400, 404), (method, name, path, answer.status)
        assert nodes[0].upgrade(f"/v1/sessions/{name}", B).status in (400, 404)
    # A list of sessions is one of names, too.
    wide = of("b", sessions=[f"a/{session}", "a/*", "*"])
    assert texts(nodes[0], session, wide) is None
    narrow = of("b", sessions=["a/*"])
    nodes[0].request("GET", f"/v1/sessions/{session}", headers=narrow).problem(403)
    assert texts(nodes[0], session, A) == ["secret"]


@pytest.mark.parametrize("tenant", [None, "", "a/b", "..", "a b", "a" * 129, 7, ["a"], "{a}"])
def test_a_token_of_no_tenant_is_refused(nodes, session, tenant):
    who = bearer(token(tenant=tenant))
    assert "tenant" in nodes[0].request("GET", f"/v1/sessions/{session}", headers=who).problem(401)["detail"]
    nodes[0].upgrade(f"/v1/sessions/{session}", who).problem(401)
    assert nodes[0].request("GET", "/v1/responses/resp_" + "0" * 24, headers=who).status == 401
    assert nodes[0].request("GET", f"/v1/ai-sdk/{session}/stream", headers=who).status == 401


def test_a_newer_token_is_of_the_same_tenant(nodes, session, attach):
    device = attach(nodes[0], session, headers=A).until_live()
    device.send({"type": "auth", "token": token(tenant="a")})
    device.until_type("authenticated")
    device.send({"type": "auth", "token": token(tenant="b")})
    assert device.until_closed() == 4403


def test_a_revocation_takes_back_its_tenants(nodes, session, attach):
    """The subject, the token and the session are those of who revokes."""
    names = {"sub": f"ada-{session}", "jti": f"id-{session}", "iat": int(time.time()) - 60}
    devices = [attach(nodes[1], session, headers=of(tenant, **names)).until_live() for tenant in "ab"]
    operator = of("b", scope=["revoke"], sub="operator", iat=int(time.time()))
    for order in ({"subject": f"ada-{session}"}, {"token": f"id-{session}"}, {"session": session}):
        assert nodes[0].request("POST", "/v1/revocations", json.dumps(order), {**JSON, **operator}).status == 204
    assert devices[1].until_closed() == 4401
    for node in nodes:
        assert [node.request("GET", f"/v1/sessions/{session}", headers=of(tenant, **names)).status for tenant in "ab"] == [404, 401]
        others = of("b", iat=int(time.time()) - 60)
        assert node.request("GET", f"/v1/sessions/{session}", headers=others).status == 403
    devices[0].send({"type": "ping"})
    devices[0].until_type("pong")


def test_openais_clients(nodes, upstream, redis, session):
    upstream.events = sparse()

    def ask(tenant, **more):
        headers = {"Baton-Session": session, "Idempotency-Key": f"k-{session}", **more}
        return client(nodes[0], token(tenant=tenant)).responses.create(model="m", input="hi", extra_headers=headers)

    first, second = ask("a"), ask("b")
    assert first.output_text == second.output_text == "".join(WORDS) and first.id == second.id and first.id.endswith(f"~{session}")
    assert len(upstream.requests) == 2, "each has its own"
    assert len(redis.stream(f"a/{session}")) > 2 and len(redis.stream(f"b/{session}")) > 2 and not redis.client.exists(key(session))
    lone = client(nodes[0], token(tenant="a")).responses.create(model="m", input="hi")
    assert redis.client.exists(key(f"a/{lone.id}"))
    question = json.dumps({"model": "m", "input": "and?", "previous_response_id": lone.id})
    refused = nodes[1].request("POST", "/v1/responses", question, {**JSON, **B})
    assert refused.status == 400 and refused.json["error"]["code"] == "previous_response_not_found"
    path = f"/v1/responses/{lone.id}"
    for method, more in [("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")]:
        assert nodes[1].request(method, path + more, headers=B).status == 404, (method, more)
    assert client(nodes[1], token(tenant="a")).responses.retrieve(lone.id).output_text == "".join(WORDS)
    assert nodes[1].request("DELETE", path, headers=A).status == 200


def test_what_a_model_server_keeps_is_nobodys(nodes, upstream):
    asked = len(upstream.requests)
    kept = [("GET", "files"), ("GET", "files/file-1/content"), ("DELETE", "files/file-1"), ("POST", "files"), ("GET", "chat/completions"),
            ("POST", "chat/completions/cmpl-1"), ("GET", "conversations/conv_1"), ("POST", "batches"), ("GET", "models/../files"), ("GET", "models/%2e%2E/files"), ("POST", "embeddings/../files")]  # fmt: skip
    for method, path in kept:
        answer = nodes[0].request(method, f"/v1/{path}", "{}" if method == "POST" else None, {**JSON, **A})
        assert answer.status == 403 and "tenant" in answer.json["error"]["message"], (path, answer.body)
    named = [{"conversation": "conv_1"}, {"prompt": {"id": "pmpt_1"}}, {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
             {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}]  # fmt: skip
    for body in named:
        answer = nodes[0].request("POST", "/v1/responses", json.dumps({"model": "m", "input": "hi", **body}), {**JSON, **A})
        assert answer.status == 403 and "tenant" in answer.json["error"]["message"], body
    assert len(upstream.requests) == asked
    assert nodes[0].request("GET", "/v1/models", headers=A).json["data"][0]["id"] == "m"


def test_the_ai_sdks_clients(nodes, upstream, redis, session):
    upstream.events = sse(*ui_answer())
    asked(nodes[0], session, headers=A)

    def events(tenant):
        return [dict(fields).get(b"event", b"token") for _, fields in redis.stream(f"{tenant}/{session}")]

    assert events("a")[0] == b"input" and events("a")[-1] == b"end" and events("b") == [] and not redis.client.exists(key(session))
    assert nodes[1].request("GET", f"/v1/ai-sdk/{session}/stream", headers=B).status == 204
    assert nodes[1].request("GET", f"/v1/ai-sdk/{session}/stream", headers=A).status == 200
    assert nodes[1].request("POST", f"/v1/ai-sdk/{session}/stop", headers=B).status == 204
    upload = nodes[1].request(
        "POST", f"/v1/sessions/{session}?response=r", "".join(upstream.events), {"Content-Type": "text/event-stream", **B})
    assert upload.status == 201 and events("b")[-1] == b"end"


def test_the_apps_word_names_the_tenant(tmp_path, redis, session, new_gateway, attach):
    app = App(lambda handler: handler.say(200, json.dumps(claims(**tenants[handler.headers["Cookie"]]))))
    tenants = {"login=a": {"org": "a"}, "login=b": {"org": "b"}, "login=none": {"tenant": "a"}}
    try:
        gateway = new_gateway(redis.url, "gw-org", "--auth-url", app.url, "--tenant-claim", "org")
        redis.add(f"a/{session}", data="of a")
        statuses = {who: gateway.get(f"/v1/sessions/{session}", Cookie=who).status for who in tenants}
        assert statuses == {"login=a": 200, "login=b": 404, "login=none": 401}
        device = attach(gateway, session, headers={"Cookie": "login=a"}).until_live()
        tenants["login=a"] = {"org": "b"}
        device.send({"type": "auth"})
        assert device.until_closed() == 4403
    finally:
        app.kill()


def test_webhooks_name_the_tenant(tmp_path, redis, secret, session, new_gateway):
    word = webhook_secret()
    receiver = Receiver(word)
    try:
        gateway = new_gateway(redis.url, "gw-hooks", "--auth-secret-file", secret, "--tenant-claim", "tenant", "--webhook", receiver.url,
                              env={"BATON_WEBHOOK_SECRET": word})  # fmt: skip
        for who in (A, B):
            lines = '{"response":"r","n":1,"data":"x"}\n{"response":"r","event":"end"}\n'
            assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1", lines, {**LINES, **who}).status == 201
        wait_for(lambda: len(receiver.of(session)) >= 2, 30, "a webhook of each")
        told = [event["data"] for event in receiver.of(session)]
        assert {one["tenant"] for one in told} == {"a", "b"} and {one["text"] for one in told} == {"x"}
        assert {one["url"] for one in told} == {f"/v1/sessions/{session}?response=r"} and len(set(receiver.ids(session))) == 2
    finally:
        receiver.close()


def test_a_minted_token(nodes, secret, session):
    def mint(*more):
        return subprocess.run([BATON, "token", "--secret-file", secret, "--subject", "ada", "--sessions", "*", "--scope", "read,publish", *more],
                              capture_output=True, text=True, timeout=30)  # fmt: skip

    assert post(nodes[0], session, "of a", A).status == 201
    assert texts(nodes[0], session, bearer(mint("--tenant", "a").stdout.strip())) == ["of a"]
    assert texts(nodes[0], session, bearer(mint("--tenant", "b").stdout.strip())) is None
    for more in ([], ["--tenant", "a", "--tenant-claim", "org"]):
        nodes[0].request("GET", f"/v1/sessions/{session}", headers=bearer(mint(*more).stdout.strip())).problem(401)
    for more in (["--tenant", "a/b"], ["--tenant", "a", "--tenant-claim", "sub"]):
        assert mint(*more).returncode == 64


def test_producers_at_redis_name_the_tenant(nodes, redis, session):
    done = subprocess.run([BATON, "publish", "--redis", redis.url, f"a/{session}"], input="one\n", capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    with Producer(redis.url, f"a/{session}", "r") as answer:
        answer.delta("two")
    told = nodes[0].request("GET", f"/v1/sessions/{session}", headers=A).json["entries"]
    assert "".join(entry.get("data", "") for entry in told if entry["event"] == "token") == "one\ntwo"
    assert texts(nodes[0], session, B) is None
    for name in ("a/", "/a", "a/b/c", "a/.."):
        assert subprocess.run([BATON, "publish", "--redis", redis.url, name], input="", capture_output=True, timeout=30).returncode == 64
        with pytest.raises(ValueError, match="can't name"):
            Producer(redis.url, name, "r")
    assert subprocess.run([BATON, "publish", "--url", nodes[0].url, f"a/{session}"], input="", capture_output=True, timeout=30).returncode == 64


def test_devices_of_a_tenant(bounded, session, attach):
    quick = of(f"d-{session}")
    first, second = (attach(bounded, f"{session}-{n}", headers=quick).until_live() for n in range(2))
    refused = bounded.upgrade(f"/v1/sessions/{session}", quick)
    assert refused.problem(429)["type"] == "urn:baton:problem:too-many-devices-of-tenant" and int(refused.headers["retry-after"]) > 0
    assert bounded.request("GET", f"/v1/sessions/{session}?wait=1s", headers=quick).status == 429
    attach(bounded, session, headers=of(f"e-{session}")).until_live()
    assert bounded.metric("baton_limits_exceeded_total", limit="max-devices-per-tenant") >= 2
    first.close()
    wait_for(lambda: bounded.request("GET", f"/v1/sessions/{session}?wait=0s", headers=quick).status != 429, 20, "the place is given back")
    second.until_live()


def test_entries_of_a_tenant(bounded, session, attach):
    """Ten at once, whatever sessions they are for; then one a second."""
    quick = of(f"n-{session}")
    device = attach(bounded, session, headers=quick).until_live()
    statuses = [post(bounded, f"{session}-{n % 3}", "x", quick).status for n in range(40)]
    assert statuses[:10] == [201] * 10 and 429 in statuses
    refused = post(bounded, session, "x", quick)
    if refused.status == 429:
        assert refused.json["type"] == "urn:baton:problem:too-much-of-tenant" and "--max-entries-per-tenant" in refused.json["detail"]
        assert int(refused.headers["retry-after"]) >= 1
    for n in range(30):
        device.send({"type": "input", "key": f"k{n}", "data": "x"})
    device.until(lambda device: any(frame.get("code") == "rate_limited" for frame in device.frames), 20, "the device is told")
    assert post(bounded, session, "x", of(f"m-{session}")).status == 201, "others have their own"
    # A person can always stop an answer.
    assert bounded.request("POST", f"/v1/sessions/{session}/responses/r/cancel", headers=quick).status == 202
    assert bounded.metric("baton_limits_exceeded_total", limit="max-entries-per-tenant") > 0


def test_bytes_of_a_tenant(bounded, session):
    quick = of(f"b-{session}")
    assert post(bounded, session, "x" * 20_000, quick).status == 201
    refused = post(bounded, session, "x", quick)
    assert "--max-bytes-per-tenant" in refused.problem(429)["detail"] and int(refused.headers["retry-after"]) >= 1


def test_an_upload_is_held_back(bounded, redis, session):
    """Not refused: it has what it may have, and goes on as more is allowed, for longer than a client may be silent."""
    quick = of(f"u-{session}")
    lines = "".join(json.dumps({"response": "r", "n": n, "data": "x"}) + "\n" for n in range(1, 15)) + '{"response":"r","event":"end"}\n'
    began = time.monotonic()
    upload = bounded.request("POST", f"/v1/sessions/{session}?epoch=1", lines, {**LINES, **quick}, seconds=60)
    assert upload.status == 201 and len(upload.json["ids"]) == 15
    assert time.monotonic() - began > 3, "15 entries, ten of them at once"


def test_a_stream_of_ui_messages_is_counted(bounded, session):
    quick = {**of(f"v-{session}"), "Content-Type": "text/event-stream"}
    statuses = [bounded.request("POST", f"/v1/sessions/{session}?response=r{n}", "".join(sse({"type": "start"}, {"type": "finish"})), quick).status for n in range(20)]
    assert statuses[:10] == [201] * 10 and 429 in statuses


def test_a_question_counts_once(bounded, upstream, session):
    """Where it is refused the backend is not asked."""
    upstream.events, asked = sse({"type": "start"}, {"type": "finish"}), len(upstream.requests)
    quick = {**of(f"w-{session}"), **JSON}
    questions = [json.dumps({"id": f"{session}-{n}", "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]}) for n in range(30)]
    statuses = [bounded.request("POST", "/v1/ai-sdk", question, quick).status for question in questions]
    assert statuses[:10] == [200] * 10 and 429 in statuses
    assert len(upstream.requests) - asked == statuses.count(200)


@pytest.fixture(scope="module")
def counting(tmp_path_factory, redis, secret, upstream):
    """Two nodes that let a tenant have three sessions."""
    folder, url = tmp_path_factory.mktemp("counting"), f"http://127.0.0.1:{upstream.port}"
    gateways = [
        Gateway(folder, redis.url, f"gw-count-{n}", "--auth-secret-file", secret, "--tenant-claim", "tenant", "--max-sessions-per-tenant", "3",
                "--retention", "5s", "--openai", f"{url}/v1", "--ai-sdk", f"{url}/api/chat", "--relay", f"/agent={url}/agent", env={"OPENAI_API_KEY": "k"})
        for n in (1, 2)
    ]  # fmt: skip
    yield gateways
    for gateway in gateways:
        gateway.kill()


def counted(redis, tenant):
    return sorted(name.decode() for name in redis.client.zrange(f"{key(tenant)}:sessions", 0, -1))


def alive(redis, tenant, sessions):
    """So that what is refused is not due to time."""
    for one in sessions:
        redis.client.zadd(f"{key(tenant)}:sessions", {one: time.time() * 1000 + 600_000})
    redis.client.persist(f"{key(tenant)}:sessions")


def test_sessions_of_a_tenant(counting, redis, upstream, session, attach):
    """On all nodes together, and by whatever wire one would be begun."""
    tenant = f"s-{session}"
    who = of(tenant)
    for n in range(3):
        assert post(counting[n % 2], f"{session}-{n}", "x", who).status == 201
    alive(redis, tenant, [f"{session}-{n}" for n in range(3)])
    refused = post(counting[0], f"{session}-3", "x", who)
    assert refused.problem(429)["type"] == "urn:baton:problem:too-many-sessions-of-tenant" and int(refused.headers["retry-after"]) > 0
    upstream.events, asked = sse(*ui_answer()), len(upstream.requests)
    lines = '{"response":"r","n":1,"data":"x"}\n{"response":"r","event":"end"}\n'
    message = json.dumps({"id": f"{session}-7", "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]})
    for path, body, headers in [
        (f"/v1/sessions/{session}-4?epoch=1", lines, LINES), (f"/v1/sessions/{session}-5/input", '{"data":"x"}', JSON),
        (f"/v1/sessions/{session}-6?response=r", "".join(sse(*ui_answer())), {"Content-Type": "text/event-stream"}),
        (f"/v1/sessions/{session}-8/responses/r/cancel", None, {}), ("/v1/ai-sdk", message, JSON),
        ("/v1/responses", '{"model":"m","input":"x"}', JSON), ("/v1/responses", '{"model":"m","input":"x"}', {**JSON, "Baton-Session": f"{session}-9"}),
        ("/agent", "{}", JSON),
    ]:  # fmt: skip
        assert counting[1].request("POST", path, body, {**headers, **who}).status == 429, path
    device = attach(counting[0], f"{session}-10", headers=who).until_live()
    device.send({"type": "input", "key": "k", "data": "x"})
    device.until(lambda device: any(frame.get("code") == "rate_limited" for frame in device.frames), 20, "the device is told")
    assert len(upstream.requests) == asked
    assert redis.client.keys(f"baton:{{{tenant}/*") and {name.decode().split("}")[0] for name in redis.client.keys(f"baton:{{{tenant}/*")} == {
        f"baton:{{{tenant}/{session}-{n}" for n in range(3)}
    # What is there goes on, and others have their own.
    assert post(counting[1], f"{session}-0", "x", who).status == 201
    assert post(counting[1], f"{session}-0", "x", of(f"other-{session}")).status == 201
    redis.add(f"{tenant}/{session}-11", data="x")
    assert post(counting[1], f"{session}-11", "x", who).status == 201, "a producer at Redis has begun it"
    assert counted(redis, tenant) == [f"{session}-{n}" for n in range(3)]
    assert sum(gateway.metric("baton_limits_exceeded_total", limit="max-sessions-per-tenant") for gateway in counting) >= 9


def test_a_deleted_session_is_given_back(counting, redis, session):
    tenant = f"g-{session}"
    who = of(tenant)
    for n in range(3):
        assert post(counting[0], f"{session}-{n}", "x", who).status == 201
    assert post(counting[1], f"{session}-3", "x", who).status == 429
    assert counting[1].request("DELETE", f"/v1/sessions/{session}-1", headers=who).status == 204
    assert post(counting[0], f"{session}-3", "x", who).status == 201
    assert counting[0].request("DELETE", f"/v1/sessions?prefix={session}", headers=who).json["deleted"] == 3
    assert counted(redis, tenant) == []


def test_an_expired_session_is_given_back(counting, redis, session):
    tenant = f"e-{session}"
    who = of(tenant)
    redis.client.zadd(f"{key(tenant)}:sessions", {f"old-{n}": 1 for n in range(2500)})
    redis.client.zadd(f"{key(tenant)}:sessions", {f"new-{n}": time.time() * 1000 + 600_000 for n in range(3)})
    assert post(counting[0], session, "x", who).status == 429
    assert redis.client.zcard(f"{key(tenant)}:sessions") == 1503, "a thousand at a time are forgotten"
    redis.client.zadd(f"{key(tenant)}:sessions", {"new-0": 1})
    assert post(counting[0], session, "x", who).status == 201
    # It lives for as long as its session does.
    assert 3000 < redis.client.zscore(f"{key(tenant)}:sessions", session) - time.time() * 1000 < 6000
    assert 0 < redis.client.pttl(f"{key(tenant)}:sessions") <= 600_000


def test_options_that_make_no_sense(secret, redis):
    def refused(*options):
        ended = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis.url, *options], capture_output=True, text=True, timeout=30)
        return ended.returncode == 78 and ended.stderr

    assert "--auth-secret-file" in refused("--tenant-claim", "tenant")
    assert "--tenant-claim" in refused("--auth-secret-file", secret, "--tenant-claim", "sub")
