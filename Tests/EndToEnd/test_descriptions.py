"""What `/openapi.json` and `/asyncapi.json` say, beside what gateways answer."""

import copy
import functools
import json
import re
import signal
import socket
import warnings

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from support.event_stream import EventStream
from support.process import REPOSITORY, wait_for
from support.servers import Gateway
from support.tokens import SECRET, token
from websockets.sync.client import connect

with warnings.catch_warnings(action="ignore"):  # of fields named `schema`
    from asyncapi3 import AsyncAPI3

SOURCES = REPOSITORY / "Sources/BatonGateway"
OPEN, ASYNC = (json.loads((SOURCES / f"Web/api/{name}.json").read_text()) for name in ("openapi", "asyncapi"))
JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


def resolved(document, value):
    while isinstance(value, dict) and "$ref" in value:
        value = functools.reduce(lambda at, part: at[part.replace("~1", "/")], value["$ref"].removeprefix("#/").split("/"), document)
    return value


def strict(document):
    """The same, but for members that are not described: they are refused."""
    document = copy.deepcopy(document)
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document


STRICT_OPEN, STRICT_ASYNC = strict(OPEN), strict(ASYNC)


def fits(document, schema, value):
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


# The descriptions themselves


def test_they_are_valid():
    validate(OPEN)
    AsyncAPI3.model_validate(ASYNC)
    for document in (OPEN, ASYNC):
        for schema in document["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)


def test_a_wrong_one_is_not_valid():
    for wrong in ({**OPEN, "paths": {"/x": {"get": {"responses": []}}}}, {**OPEN, "info": {}}):
        with pytest.raises(Exception, match="not valid|required|is not of type"):
            validate(wrong)
    for wrong in ({**ASYNC, "operations": {"x": {"action": "shout", "channel": {"$ref": "#/channels/session"}}}}, {**ASYNC, "info": {}}):
        with pytest.raises(Exception, match="validation error"):
            AsyncAPI3.model_validate(wrong)


def references(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    for one in value if isinstance(value, list) else []:
        yield from references(one)


@pytest.mark.parametrize("document", [OPEN, ASYNC], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere_and_every_part_is_used(document):
    used = set(references(document))
    for reference in used:
        resolved(document, {"$ref": reference})
    parts = {f"#/components/{kind}/{name}" for kind, named in document["components"].items() for name in named}
    loose = {part for part in parts - used if not part.startswith("#/components/securitySchemes")}
    assert loose <= {"#/components/schemas/NewLine"}  # a line is text to OpenAPI


def test_what_both_describe_is_the_same():
    ours, theirs = OPEN["components"]["schemas"], ASYNC["components"]["schemas"]
    assert {name for name in ours if name in theirs} >= {"Entry", "Skipped", "Offset"}
    assert [name for name in ours if name in theirs and ours[name] != theirs[name]] == []


def described_problems():
    """Status and name of each."""
    return {
        (int(status), type.removeprefix("urn:baton:problem:"))
        for status, response in OPEN["components"]["responses"].items()
        for type in response["content"]["application/problem+json"]["schema"]["properties"]["type"]["enum"]
    }


def test_every_problem_of_the_gateway_is_described_and_no_other():
    made = re.compile(r'(?:\bProblem\(\s*\.?\w+,|\bbadRequest\(|\btooMany\(|\brefusal\(|self\.init\(refusal\.status,)\s*"([a-z][a-z0-9-]+)"')
    # What OpenAI's clients ask is answered in OpenAI's words.
    files = [file for file in SOURCES.rglob("*.swift") if file.parent.name != "OpenAI"]
    names = {name for file in files for name in made.findall(file.read_text())}
    names -= {"forbidden", "unsupported"}  # codes of frames
    assert names == {name for _, name in described_problems()}


def test_every_problem_and_status_of_the_protocol_is_described():
    protocol = (REPOSITORY / "Sources/BatonProtocol/BatonProtocol.docc/Protocol.md").read_text()
    refusals = re.search(r"Before the upgrade, refusals are HTTP: (.*)", protocol)[1].split("with an RFC 9457")[0]
    statuses = {int(status) for status in re.findall(r"\b[45]\d\d\b", refusals)}
    assert statuses and statuses <= {status for status, _ in described_problems()}
    for status, name in [(500, "store-refused"), (403, "host-not-allowed"), (409, "fenced"), (409, "deleted")]:
        assert f"`{name}`" in protocol and (status, name) in described_problems()


def test_every_path_of_the_gateway_is_described_and_no_other():
    front = SOURCES / "Front"
    files = set(re.findall(r'"(/[\w./-]+)": File\(', (front / "WebFiles.swift").read_text()))
    modules = re.findall(r'\("(baton[\w-]*)", PackageResources.*?_(js|d_ts)\b(, Pack)?', (front / "WebFiles.swift").read_text())
    files |= {f"/{name}.{kind.replace('_', '.')}" for name, kind, _ in modules}
    files |= {f"/{name}.d.ts" for name, _, has_types in modules if has_types}
    routes = set(re.findall(r'case "(/[\w./-]+)"', (front / "Routes.swift").read_text()))
    described = {path for path in OPEN["paths"] if "{" not in path}
    described |= {f"/{file}" for file in OPEN["paths"]["/{file}"]["parameters"][0]["schema"]["enum"]}
    assert described == files | routes | {"/demo/", "/baton.bundle.js", "/baton.tgz", "/v1/ai-sdk"}
    sessions = {path for path in OPEN["paths"] if path.startswith("/v1/sessions/")}
    assert sessions == {"/v1/sessions/{session}" + rest for rest in (
        "", "/input", "/responses", "/responses/{response}", "/responses/{response}/cancel", "/responses/{response}/controls")}  # fmt: skip


# What gateways answer


class Answers:
    """Asks, and compares each answer with the description."""

    def __init__(self):
        self.seen = set()

    def __call__(self, gateway, method, path, status, problem=None, body=None, headers=None):
        answer = gateway.request(method, path, body, headers)
        assert answer.status == status, f"{method} {path}: {answer.status} {answer.body[:300]!r}, expected {status}"
        self.check(method, path, answer)
        if problem:
            assert answer.json["type"] == f"urn:baton:problem:{problem}", answer.json
        return answer

    def check(self, method, path, answer):
        operation = self.operation(method, path.split("?")[0])
        response = resolved(STRICT_OPEN, operation["responses"][str(answer.status)])
        self.seen.add((operation["operationId"], answer.status))
        for name, header in response.get("headers", {}).items():
            value = answer.headers.get(name.lower())
            assert value is not None or not header["required"], f"{method} {path}: no {name} in {answer.headers}"
            if value is not None:
                fits(STRICT_OPEN, header["schema"], value)
        content = response.get("content")
        if not content:
            assert answer.body == b"", answer.body[:300]
            return
        type = answer.headers["content-type"]
        assert type in content or "*/*" in content, f"{type} is none of {list(content)}"
        if type in ("application/json", "application/problem+json"):
            schema = content[type]["schema"]
            fits(STRICT_OPEN, schema, answer.json)
        if type == "application/problem+json":
            self.seen.add((answer.status, answer.json["type"].removeprefix("urn:baton:problem:")))

    def operation(self, method, path):
        for template, item in OPEN["paths"].items():
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
            if template != "/{file}" and re.fullmatch(pattern, path):
                break
        else:
            item = OPEN["paths"]["/{file}"]
        # A method or a path that there is not is answered as all of them answer it.
        return item.get(method.lower()) or item.get("get") or item["post"]


@pytest.fixture(scope="module")
def asks():
    return Answers()


@pytest.fixture(scope="module")
def guarded(shared, redis):
    file = shared / "described-secret"
    file.write_bytes(SECRET)
    server = Gateway(shared, redis.url, "gw-described", "--auth-secret-file", file, "--metrics-secret-file", file)
    yield server
    server.kill()


@pytest.mark.parametrize("file", ["openapi", "asyncapi"])
def test_a_description_is_served_to_everybody(guarded, asks, file):
    answer = asks(guarded, "GET", f"/{file}.json", 200, headers={"Origin": "https://anywhere.example"})
    assert answer.headers["access-control-allow-origin"] == "*" and answer.headers["content-type"] == "application/json"
    assert answer.json == {"openapi": OPEN, "asyncapi": ASYNC}[file]
    asks(guarded, "GET", f"/{file}.json", 304, headers={"If-None-Match": answer.headers["etag"]})
    assert guarded.request("HEAD", f"/{file}.json").headers["content-length"] == str(len(answer.body))


def test_files_and_operators(gateway, guarded, asks):
    for file in OPEN["paths"]["/{file}"]["parameters"][0]["schema"]["enum"]:
        asks(gateway, "GET", f"/{file}", 200)
    for path in ("/demo", "/append.lua", "/healthz", "/readyz", "/metrics"):
        asks(gateway, "GET", path, 200)
    asks(gateway, "GET", "/demo/", 308)
    for path in ("/baton.js", "/demo", "/demo/", "/openapi.json", "/asyncapi.json"):
        asks(gateway, "OPTIONS", path, 204)
    asks(gateway, "GET", "/nothing", 404, "no-such-path")
    asks(gateway, "POST", "/baton.js", 405, "method-not-allowed")
    asks(gateway, "GET", "/metrics", 403, "metrics-not-allowed", headers={"Via": "1.1 proxy"})
    asks(guarded, "GET", "/metrics", 401, "unauthenticated")


def test_history(gateway, redis, asks, session):
    path = f"/v1/sessions/{session}"
    asks(gateway, "GET", path, 404, "no-such-session")
    redis.add(session, event="start", response="r1")
    redis.add_tokens(session, ["a", "b"], "r1")
    redis.add(session, "data", b"\xff", "own", "1", "own", "2", b"\xfe", "3", "odd", b"\xfd")
    redis.add(session, data="x" * 300_000)
    page = asks(gateway, "GET", path, 200).json
    assert [one.get("event", one.get("type")) for one in page["entries"]] == ["start", "token", "token", "token", "skipped"]
    assert page["entries"][3]["data64"] and page["entries"][3]["fields"]
    asks(gateway, "GET", f"{path}?wait=1ms&after={page['last']}", 200)
    for query, name in [
        ("limit=0", "bad-limit"), ("wait=1h", "bad-wait"), ("after=x", "bad-offset"), ("last=1", "unsupported-parameter"), ("%ff=", "bad-encoding"),
        ("after=0&before=0", "conflicting-parameters"), ("limit=1&limit=2", "repeated-parameter"),
    ]:  # fmt: skip
        asks(gateway, "GET", f"{path}?{query}", 400, name)
    asks(gateway, "GET", "/v1/sessions/a%20b", 400, "bad-session")
    asks(gateway, "GET", f"{path}?after=1-1.00000000", 410, "continuity-broken")
    asks(gateway, "OPTIONS", path, 204)
    asks(gateway, "PUT", path, 405, "method-not-allowed")
    asks(gateway, "GET", f"{path}/responses/r1", 404, "no-such-response")
    asks(gateway, "GET", f"{path}/responses/r%201", 400, "bad-response")
    redis.client.set(f"baton:{{{session}-wrong}}", "text")
    asks(gateway, "GET", f"{path}-wrong", 409, "wrong-type")


def test_appending(gateway, asks, session):
    path = f"/v1/sessions/{session}"
    key = {**JSON, "Idempotency-Key": "k"}
    assert "idempotent-replayed" not in asks(gateway, "POST", path, 201, body='{"data":"a","fields":{"x":["1",{"base64":"/w=="}]}}', headers=key).headers
    again = asks(gateway, "POST", path, 201, body='{"data":"a","fields":{"x":["1",{"base64":"/w=="}]}}', headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    asks(gateway, "POST", path, 409, "key-conflict", '{"data":"b"}', key)
    asks(gateway, "POST", path, 400, "bad-idempotency-key", '{"data":"b"}', {**JSON, "Idempotency-Key": "k" * 256})
    for body, name in [
        ("[]", "not-json"), ("{}", "empty-entry"), ('{"a":1}', "unknown-member"), ('{"event":"a b"}', "bad-event"), ('{"data":1}', "bad-data"),
        ('{"data64":"?"}', "bad-data64"), ('{"data":"","data64":""}', "conflicting-members"), ('{"fields":1}', "bad-fields"),
        ('{"fields":{"n":"1"}}', "reserved-field"), ('{"response":"a b"}', "bad-response"),
        (json.dumps({"fields": {"x": ["1"] * 1001}}), "too-many-fields"),
    ]:  # fmt: skip
        asks(gateway, "POST", path, 400, name, body, JSON)
    asks(gateway, "POST", path, 413, "entry-too-large", json.dumps({"data": "x" * 300_000}), JSON)
    asks(gateway, "POST", path, 413, "body-too-large", json.dumps({"data": "x" * 3_000_000}), JSON)
    asks(gateway, "POST", path, 415, "unsupported-media-type", "x", {"Content-Type": "text/plain"})
    asks(gateway, "POST", path, 415, "unsupported-content-encoding", "x", {**JSON, "Content-Encoding": "br"})


def test_responses(gateway, asks, session):
    path = f"/v1/sessions/{session}"

    def line(**members):
        schema = {"$ref": "#/components/schemas/NewLine"}
        fits(STRICT_OPEN, schema, members)
        return json.dumps(members) + "\n"

    lines = line(response="r1", event="start") + line(response="r1", n=1, data="a") + line(response="r1", n=2, event="tool", data="b")
    asks(gateway, "POST", f"{path}?epoch=2", 201, body=lines, headers=LINES)
    assert asks(gateway, "GET", f"{path}/responses/r1", 200).json == {"response": "r1", "n": 2, "state": "open", "epoch": 2}
    asks(gateway, "POST", f"{path}?epoch=1", 409, "fenced", line(response="r1", n=3, data="c"), LINES)
    asks(gateway, "POST", f"{path}?epoch=2", 409, "gap", line(response="r1", n=5, data="c"), LINES)
    for body, name in [("x\n", "not-json"), ('{"n":1,"data":"a"}\n', "response-missing"), ('{"response":"r1","data":"c"}\n', "bad-n")]:
        asks(gateway, "POST", f"{path}?epoch=2", 400, name, body, LINES)
    asks(gateway, "POST", path, 400, "bad-epoch", lines, LINES)
    asks(gateway, "POST", f"{path}?epoch=2&lease=10", 400, "bad-lease", lines, LINES)
    asks(gateway, "POST", f"{path}?epoch=2", 400, "unsupported-header", lines, {**LINES, "Idempotency-Key": "k"})
    asks(gateway, "POST", f"{path}?epoch=2", 413, "line-too-large", "x" * 3_000_000, LINES)
    asks(gateway, "POST", f"{path}?epoch=2", 201, body=line(response="r1", event="end", data="{}"), headers=LINES)
    asks(gateway, "POST", f"{path}?epoch=2", 409, "ended", line(response="r1", n=3, data="c"), LINES)
    controls = asks(gateway, "GET", f"{path}/responses/r1/controls", 200)
    [told] = re.findall(rb"^data: (.*)$", controls.body, re.M)
    fits(STRICT_ASYNC, {"$ref": "#/components/schemas/Control"}, json.loads(told))
    [listed] = asks(gateway, "GET", f"{path}/responses", 200).json["responses"]
    assert listed["response"] == "r1" and listed["state"] == "end"
    asks(gateway, "GET", f"{path}/responses?state=x", 400, "bad-state")
    for body, name in [('{"part":"a"}', "bad-part"), ('{"data":"a","more":1}', "bad-more")]:
        asks(gateway, "POST", path, 400, name, body, JSON)
    for other in ("input", "responses", "responses/r1/cancel"):
        asks(gateway, "OPTIONS", f"{path}/{other}", 204)
    asks(gateway, "OPTIONS", f"{path}/responses/r1", 204)
    asks(gateway, "OPTIONS", f"{path}/responses/r1/controls", 204)
    asks(gateway, "GET", path + "?until=end", 200, headers={"Accept": "text/event-stream"})
    last = asks(gateway, "GET", path, 200).json["last"]
    asks(gateway, "GET", f"{path}?until=end&offset={last}", 204, headers={"Accept": "text/event-stream"})
    asks(gateway, "POST", f"{path}/input", 202, body='{"data":"Go on"}', headers=JSON)
    asks(gateway, "POST", f"{path}/responses/r1/cancel", 202, body="{}", headers=JSON)
    asks(gateway, "DELETE", path, 204)
    asks(gateway, "DELETE", f"/v1/sessions?prefix={session}", 200)
    asks(gateway, "DELETE", "/v1/sessions?prefix=a%20b", 400, "bad-prefix")
    asks(gateway, "OPTIONS", "/v1/sessions", 204)


def test_attaching_and_heads(gateway, asks, session):
    path = f"/v1/sessions/{session}"
    events = {"Accept": "text/event-stream"}
    for query, name in [
        ("last=0", "bad-last"), ("rollup=x", "bad-rollup"), ("until=x", "bad-until"), ("device=a%20b", "bad-device"), ("format=x", "bad-format"),
        ("offset=0&last=1", "conflicting-parameters"),
    ]:  # fmt: skip
        asks(gateway, "GET", f"{path}?{query}", 400, name, headers=events)
    asks(gateway, "GET", path, 400, "unexpected-body", "x", events)
    asks(gateway, "GET", path, 426, "upgrade-lost", headers={"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    answer = gateway.upgrade(path, {"Sec-WebSocket-Version": "8"})
    assert answer.status == 426
    asks.check("GET", path, answer)
    asks(gateway, "GET", path, 403, "origin-not-allowed", headers={"Origin": "https://elsewhere.example"})
    asks(gateway, "GET", path, 403, "host-not-allowed", headers={"Host": "elsewhere.example"})
    asks(gateway, "GET", path, 501, "unknown-transfer-coding", headers={"Transfer-Encoding": "gzip"})
    asks(gateway, "GET", path, 417, "unknown-expectation", headers={"Expect": "more"})
    asks(gateway, "GET", path, 431, "header-too-large", headers={"X": "x" * 100_000})


def test_who_may(guarded, asks, session):
    path = f"/v1/sessions/{session}"
    asks(guarded, "GET", path, 401, "unauthenticated")
    asks(guarded, "DELETE", path, 403, "not-allowed", headers={"Authorization": f"Bearer {token(scope=['read'])}"})


def test_revoking(gateway, guarded, asks):
    path, json = "/v1/revocations", {"Content-Type": "application/json"}
    may = {"Authorization": f"Bearer {token(sub='operator', scope=['revoke'])}"}
    asks(guarded, "OPTIONS", path, 204, headers={"Origin": "http://localhost"})
    asks(guarded, "POST", path, 401, "unauthenticated", "{}", json)
    asks(guarded, "POST", path, 403, "not-allowed", "{}", {**json, "Authorization": f"Bearer {token()}"})
    asks(gateway, "POST", path, 403, "nothing-to-revoke", "{}", json)
    asks(guarded, "POST", path, 415, "unsupported-media-type", "{}", may)
    asks(guarded, "POST", path, 400, "bad-revocation", "{}", {**json, **may})
    asks(guarded, "POST", path, 204, None, '{"token":"nobodys"}', {**json, **may})
    asks(guarded, "GET", path, 405, "method-not-allowed", headers=may)


def test_what_passes(new_redis, new_gateway, asks, session):
    redis = new_redis()
    gateway = new_gateway(redis.url, "gw-draining", "--drain-delay", "30s", "--max-devices-per-session", "1")
    path = f"/v1/sessions/{session}"
    EventStream(gateway, session).until(lambda stream: stream.frames, what="it is attached")
    answer = gateway.upgrade(path)
    assert answer.status == 429
    asks.check("GET", path, answer)
    redis.kill()
    wait_for(lambda: gateway.history(session).status == 503, 20, "503")
    asks(gateway, "GET", path, 503, "store-unavailable")
    gateway.process.signal(signal.SIGTERM)
    wait_for(lambda: gateway.get("/readyz").status == 503, 20, "it drains")
    asks(gateway, "GET", "/readyz", 503)
    asks(gateway, "GET", f"{path}/responses/r1/controls", 503, "draining")


def operations_of(wanted):
    """The ids of the operations that carry such tags."""
    operations = [operation for item in OPEN["paths"].values() for name, operation in item.items() if name != "parameters"]
    return {operation["operationId"] for operation in operations if wanted(operation["tags"])}


def test_every_operation_was_compared(request, asks):
    """The last of those above, which says something where all of them have run."""
    if request.config.option.keyword or "::" in "".join(request.config.args):
        return
    operations = operations_of(lambda tags: "relay" not in tags)  # those are compared where a backend is
    compared = {name for name, _ in asks.seen if isinstance(name, str)}
    assert operations - compared == set()
    # These need a broken body, a full Redis, a backend, or thousands of something; other tests have them.
    rare = {
        "bad-handshake", "bad-host", "bad-request", "body-cut", "malformed-request", "too-many-responses", "body-time", "body-timeout",
        "body-too-slow", "deleted", "upload-too-large", "too-many-devices-of-subject", "too-many-devices-of-tenant", "too-much-of-tenant", "too-many-sessions-of-tenant", "short-of-memory",
        "too-many-failures", "too-many-handshakes", "internal", "auth-unavailable", "store-refused", "store-full", "too-many-devices",
        "too-many-requests", "model-unreachable", "too-many-relays", "not-relayed", "no-backend", "no-such-event", "response-exists",
        "session-busy", "question-cancelled", "too-many-questions", "wrong-role",
    }  # fmt: skip
    assert {problem for problem in described_problems() - asks.seen if problem[1] not in rare} == set()


# Frames


def known(frame):
    """The name of the one schema that it fits."""
    named = {
        name: ASYNC["components"]["schemas"][name]["properties"].get("type", {}).get("const")
        for name in ASYNC["channels"]["session"]["messages"]
    }  # fmt: skip
    [name] = [name for name, type in named.items() if type == frame.get("type")]
    fits(STRICT_ASYNC, {"$ref": f"#/components/schemas/{name}"}, frame)
    return name


TOLD = {
    message["$ref"].split("/")[-1] for operation in ASYNC["operations"].values() if operation["action"] == "send"
    for message in operation["messages"] if "/session/" in message["$ref"]
}  # fmt: skip


def said(device, **frame):
    known(frame)
    device.send(frame)


def test_every_frame_is_described(redis, new_redis, new_gateway, guarded, attach, session):
    seen = set()

    # Entries of all kinds, too large a one, another history, and what answers a device.
    redis.add(session, event="start", response="r1", data="{}")
    redis.add_tokens(session, ["a", "b", "c"], "r1")
    redis.add(session, "data", b"\xff", "own", "1", "own", b"\xfe", b"\xfd", "2")
    redis.add(session, data="x" * 300_000)
    device = attach(guarded, session, headers={"Authorization": f"Bearer {token(exp=8)}"}).until_live()
    assert any(frame.get("joined") for frame in device.entries)
    said(device, type="ping")
    said(device, type="input", key="k1", data="Shorter.")
    said(device, type="cancel", key="k2", response="r1")
    device.send({"type": "unheard-of"})
    said(device, type="cancel", key="k1", response="r1")
    device.until_type("pong")
    device.until_type("accepted", 2)
    device.until_type("error", 2)
    device.until_type("expiring")
    said(device, type="auth", token=token())
    device.until_type("authenticated")
    redis.client.delete(f"baton:{{{session}}}")
    device.until_type("reset")
    seen |= {known(frame) for frame in device.frames}

    # A node that loses its store, and goes.
    away = new_redis()
    gateway = new_gateway(away.url, "gw-going", "--drain-delay", "0s", "--drain-time", "1s")
    device = attach(gateway, session).until_live()
    away.pause()
    device.until_type("stalled")
    away.resume()
    device.until_type("live", 2)
    gateway.terminate()
    device.until_type("draining")
    seen |= {known(frame) for frame in device.frames}

    # A device that was live and takes nothing.
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", guarded.port))
    bearer = {"Authorization": f"Bearer {token()}"}
    address = f"ws://{guarded.address}/v1/sessions/{session}-slow"
    with connect(address, sock=raw, additional_headers=bearer, max_queue=1, max_size=None, compression=None, ping_interval=None) as slow:
        frames = [json.loads(slow.recv())]
        while frames[-1].get("type") != "live":
            frames.append(json.loads(slow.recv()))
        quick = attach(guarded, f"{session}-slow", headers=bearer).until_live()
        for start in range(1, 20_001, 1000):
            quick.until_at(redis.add_tokens(f"{session}-slow", ["y" * 1000] * 1000, "r", start)[-1])
        while frames[-1].get("type") != "behind":
            frames.append(json.loads(slow.recv()))
    seen |= {known(frame) for frame in frames}

    assert seen == TOLD


def test_frames_of_event_streams_are_described(gateway, redis, session):
    redis.add(session, event="start", response="r1")
    redis.add_tokens(session, ["a", "b"], "r1")
    redis.add(session, event="end", response="r1")
    stream = EventStream(gateway, session, until="end").until_ended()
    events = set(ASYNC["channels"]["events"]["messages"])
    assert {known(frame) for frame in stream.frames} <= events and len(stream.frames) >= 4


def test_a_refusal_for_pages_is_described(gateway, session):
    headers = {"User-Agent": "Mozilla/5.0", "Origin": "https://elsewhere.example"}
    with connect(f"ws://{gateway.address}/v1/sessions/{session}", additional_headers=headers, user_agent_header=None, subprotocols=["baton.v1"]) as refused:
        assert known(json.loads(refused.recv())) == "Error"
