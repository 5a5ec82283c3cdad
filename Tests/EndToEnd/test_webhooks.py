"""Webhooks: the app is told of what ends, at least once, whoever wrote it, whichever node dies."""

import json
import re
import sqlite3
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
import redis.crc
from baton_stream.sync import Producer
from support.process import BATON, REPOSITORY, Process, free_port, wait_for
from support.servers import Gateway, Redis, key, request
from support.step import Step
from support.topology import Cluster
from support.webhooks import Receiver, secret
from test_upstreams import SSE, Server

SECRET = secret()
HOOKS = {"BATON_WEBHOOK_SECRET": SECRET}
JSON, LINES = {"Content-Type": "application/json"}, {"Content-Type": "application/x-ndjson"}

RECORDED = """
    local found = {}
    for _, name in ipairs(redis.call('KEYS', 'baton:{webhooks:*}:pending')) do
      if redis.call('HLEN', name) > 1 then
        for _, field in ipairs(redis.call('HKEYS', name)) do
          if string.sub(field, 1, 1) ~= '/' then found[#found + 1] = { name, field } end
        end
      end
    end
    return found
"""


class Place:
    """A Redis, a receiver and gateways that tell it."""

    def __init__(self, folder, url=None, urls=(), **receiving):
        self.folder, self.receiver, self.nodes = folder, Receiver(SECRET, **receiving), []
        self.redis = None if url else Redis(folder)
        self.url = url or self.redis.url
        self.urls = [self.receiver.url, *urls]

    def gateway(self, *options, node=None, url=None):
        self.nodes.append(Gateway(self.folder, url or self.url, node or f"gw-{len(self.nodes)}", "--webhook", ",".join(self.urls), *options, env=HOOKS))
        return self.nodes[-1]

    def told(self, session, count=1, seconds=30):
        wait_for(lambda: len(self.receiver.of(session)) >= count, seconds, f"{count} webhooks of {session}")
        return self.receiver.of(session)

    def recorded(self):
        """What is still to be told, as Redis has it: fields with their hashes."""
        return {field.decode(): name.decode() for name, field in self.redis.client.eval(RECORDED, 0)}

    def close(self):
        for node in self.nodes:
            node.kill()
        if self.redis:
            self.redis.kill()
        self.receiver.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = Place(tmp_path_factory.mktemp("hooks"))
    yield where
    where.close()


def model(handler, number):
    handler.begin(**SSE)
    text = {"choices": [{"delta": {"content": "of a model"}, "finish_reason": None}]}
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    handler.tell(*(f"data: {json.dumps(one)}\n\n" for one in (text, last)), "data: [DONE]\n\n")


@pytest.fixture(scope="module")
def gateway(place):
    before = Step(place.redis.client, "before")
    before.open("r", "w", items=[("deltas", "x"), ("end",)])
    upstream = Server(model)
    return place.gateway("--openai", upstream.url, "--public-url", "https://chat.example/", "--log-level", "debug")


@pytest.fixture(scope="module", autouse=True)
def lost(place, gateway):
    """A response whose producer dies with its first word, in a session to which nobody is attached."""
    assert Step(place.redis.client, "lost").open("r1", "dead.1", items=[("deltas", "half an ans")])[0] == "ok"


@pytest.fixture
def apart(tmp_path):
    places = []

    def new(**options):
        places.append(Place(tmp_path, **options))
        return places[-1]

    yield new
    for one in places:
        one.close()


def end(place, session, response="r1", text="x"):
    reply = Step(place.redis.client, session).open(response, "w", items=[("deltas", text), ("end",)])
    assert reply[0] == "ok"
    return reply[5]


# Who ends it, and how


def by_lines(place, gateway, session):
    body = "".join(f'{{"response":"r1","n":{n},"data":"{word}"}}\n' for n, word in enumerate(["one ", "two"], 1))
    body += '{"response":"r1","event":"end","data":"{\\"finish_reason\\":\\"stop\\"}"}\n'
    assert gateway.request("POST", f"/v1/sessions/{session}?epoch=1", body, LINES).status == 201


def by_post(place, gateway, session):
    for entry in ({"event": "start"}, {"data": "one "}, {"data": "two"}, {"event": "end", "data": '{"reason":"stop"}'}):
        assert gateway.request("POST", f"/v1/sessions/{session}", json.dumps({"response": "r1", **entry}), JSON).status == 201


def by_publish(place, gateway, session):
    subprocess.run([BATON, "publish", session, "--redis", place.url, "--response", "r1"], input="one two", text=True, check=True, timeout=60)


def by_python(place, gateway, session):
    with Producer(place.url, session, "r1") as answer:
        answer.delta("one ")
        answer.event("tool", data="{}")
        answer.delta("two")


def by_step(place, gateway, session):
    step = Step(place.redis.client, session)
    step.open("r1", "w.1", items=[("part", "reasoning:0", "hm"), ("part", "text:0", "one "), ("deltas", "two")])
    assert step.append("r1", "w.2", 4, [("end", "data", '{"finishReason":"stop"}')])[0] == "ok"


@pytest.mark.parametrize("by", [by_lines, by_post, by_publish, by_python, by_step])
def test_an_answer_that_has_ended_is_told(place, gateway, session, by):
    by(place, gateway, session)
    [event] = place.told(session)
    about = event["data"]
    last = gateway.history(session, "?limit=1000").json["entries"][-1]
    assert event["type"] == "end" and about["entry"] == last and about["offset"] == last["id"]
    assert about["response"] == "r1" and about["text"] == "one two"
    assert about.get("reason") == (None if by in (by_publish, by_python) else "stop")
    assert about["url"] == f"https://chat.example/v1/sessions/{session}?response=r1"
    whole = gateway.get(about["url"].removeprefix("https://chat.example") + "&format=text", Accept="text/event-stream")
    assert "".join(re.findall(r"event: token\ndata: (.*)\n", whole.body.decode())).count("one") == 1
    assert abs(time.time() - int(place.receiver.got[-1][0]["webhook-timestamp"])) < 300
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])


def test_a_relayed_answer_is_told(place, gateway, session):
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    done = httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, headers={"Baton-Session": session}, timeout=60)
    assert done.status_code == 200, done.text
    [event] = place.told(session)
    assert (event["type"], event["data"]["text"]) == ("end", "of a model")


@pytest.mark.parametrize("how", ["error", "cancelled"])
def test_other_ends(place, gateway, session, how):
    Step(place.redis.client, session).open("r1", "w", items=[("deltas", "half"), (how, "data", '{"reason":"why"}')])
    [event] = place.told(session)
    assert (event["type"], event["data"]["reason"], event["data"]["text"]) == (how, "why", "half")


def test_a_bare_end_is_told_where_somebody_is_attached(place, gateway, session, attach):
    place.redis.add(session, event="end", response="before")
    attach(gateway, session).until_live()
    place.redis.add(session, data="by hand", response="r1")
    place.redis.add(session, event="cancelled", response="r1")
    place.redis.add(session, event="end")
    [event] = place.told(session)
    assert (event["type"], event["data"]["response"]) == ("cancelled", "r1")
    # Without numbers and a start Redis 6 can't tell that nothing was trimmed.
    counts = "entries-added" in place.redis.client.xinfo_stream(key(session))
    assert event["data"].get("text") == ("by hand" if counts else None)
    # What the step has recorded is not recorded again.
    end(place, session, "r2")
    assert gateway.request("POST", f"/v1/sessions/{session}", '{"event":"end","response":"r3"}', JSON).status == 201
    end(place, session, "r4")
    wait_for(lambda: {"r2", "r3", "r4"} <= {event["data"]["response"] for event in place.receiver.of(session)}, 30, "the others")
    wait_for(lambda: not any(field.startswith(f"{session} ") for field in place.recorded()), 60, "nothing is left")
    assert len(place.receiver.of(session)) == 4


def test_a_text_is_whole_or_not_there(place, gateway, session):
    step, stream = Step(place.redis.client, session), key(session)
    step.open("long", "w", items=[("deltas", "x" * (64 << 10)), ("deltas", "y"), ("end",)])
    step.open("most", "w", items=[("deltas", "é" * (32 << 10)), ("end",)])
    step.open("gap", "w", items=[("deltas", "a"), ("gap", 5), ("deltas", "b"), ("end",)])
    step.open("none", "w", items=[("end",)])
    step.open("open", "w", items=[("deltas", "a")])
    # What is trimmed before the end, and what is cut in the middle of a character.
    place.redis.client.xtrim(stream, maxlen=1, approximate=False)
    step.append("open", "w", 2, [("deltas", "b"), ("end",)])
    place.redis.client.xtrim(stream, maxlen=1, approximate=False)
    step.open("half", "w", items=[("deltas", b"\xc3"), ("end",)])
    step.open("both", "w", items=[("deltas", b"\xc3"), ("event", "event", "x"), ("deltas", b"\xa9"), ("end",)])
    texts = {event["data"]["response"]: event["data"].get("text") for event in place.told(session, 7)}
    assert {name: texts[name] for name in ("long", "gap", "open", "half", "both")} == {
        "long": None, "gap": None, "open": None, "half": None, "both": "é"}  # fmt: skip
    # These may have been trimmed before they were read.
    assert texts["most"] in ("é" * (32 << 10), None) and texts["none"] in ("", None)


def test_a_text_among_others(place, gateway, session):
    step = Step(place.redis.client, session)
    for name in ("a", "b"):
        step.open(name, name, items=[("deltas", f"{name}0")])
    for n in range(2, 300):
        for name in ("a", "b"):
            step.append(name, name, n, [("deltas", name)])
    step.append("a", "a", 300, [("end",)])
    [event] = place.told(session)
    assert event["data"]["text"] == "a0" + "a" * 298


# Inputs


def test_an_input_that_nobody_answers(place, gateway, session):
    assert gateway.request("POST", f"/v1/sessions/{session}/input", '{"data":"is anybody there?"}', JSON).status == 202
    [event] = place.told(session)
    assert event["type"] == "input" and event["data"]["entry"]["data"] == "is anybody there?"
    assert "response" not in event["data"] and event["data"]["url"].endswith(f"/v1/sessions/{session}")


def test_an_input_that_somebody_hears(place, gateway, session):
    heard, alone = f"{session}-heard", f"{session}-alone"
    with Producer(place.url, heard, "r1") as answer:
        answer.delta("so ")
        for one in (heard, alone):
            assert gateway.request("POST", f"/v1/sessions/{one}/input", '{"data":"x"}', JSON).status == 202
        place.told(alone)
        wait_for(lambda: gateway.metric("baton_webhooks_pending") == 0, 20, "both are done with")
        answer.delta("on")
    assert [event["type"] for event in place.told(heard)] == ["end"]


def test_an_input_that_is_taken_up_before_it_could_be_told(place, gateway, session):
    def status(event):
        return 503 if event["data"]["session"] == session and event["type"] == "input" else 204

    place.receiver.status = status
    try:
        assert gateway.request("POST", f"/v1/sessions/{session}/input", '{"data":"x"}', JSON).status == 202
        place.told(session)
        Step(place.redis.client, session).open("r1", "w.1")
        wait_for(lambda: gateway.metric("baton_webhooks_pending") == 0, 20, "nothing is to be told")
        # More than once only where the step was slower than the first pause.
        assert {event["type"] for event in place.receiver.of(session)} == {"input"}
        assert gateway.metric("baton_webhooks_attempts_total", outcome="refused") >= 1
    finally:
        place.receiver.status = 204


# Again and again


def test_what_is_refused_comes_again_with_its_id(apart, session):
    place = apart(status=500)
    gateway = place.gateway()
    end(place, session)
    place.told(session, 2)
    # A redirect is none of ours to follow.
    elsewhere = Receiver(SECRET)
    place.receiver.headers = {"Location": elsewhere.url}
    place.receiver.status = 307
    seen = len(place.receiver.of(session))
    place.told(session, seen + 1)
    place.receiver.status = 204
    wait_for(lambda: not place.recorded(), 60, "it is told")
    assert len(set(place.receiver.ids(session))) == 1 and elsewhere.got == []
    wait_for(lambda: gateway.metric("baton_webhooks_attempts_total", outcome="delivered") == 1, 20, "it is counted")
    elsewhere.close()


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_heeded(apart, session, status):
    times = []

    def answer(event):
        times.append(time.monotonic())
        return status if len(times) == 1 else 204

    place = apart(status=answer, headers={"Retry-After": "3"})
    place.gateway()
    end(place, session)
    end(place, session, "r2")
    wait_for(lambda: len(times) >= 2 and not place.recorded(), 60, "both are told")
    held = len([at for at in times[1:] if at < times[0] + 2.9])
    assert held <= 1, "but for what was on its way with the first, nobody comes before it is time"


def test_an_address_that_is_dead_holds_nobody_back(apart, session):
    silent, place = Receiver(SECRET), None
    silent.held = threading.Event()
    try:
        place = apart(urls=[silent.url, f"http://127.0.0.1:{free_port()}/"])
        gateway = place.gateway("--webhook-timeout", "1s")
        for number in range(100):
            end(place, session, f"r{number}")
        place.told(session, 100)
        assert len(place.recorded()) == 100, "the others are still to be told"
        assert silent.most <= 16 and sorted(set(place.receiver.ids(session))) == sorted(place.receiver.ids(session))
        wait_for(lambda: gateway.metric("baton_webhooks_attempts_total", outcome="unreachable") > 2, 20, "attempts")
        silent.held.set()
        wait_for(lambda: len(set(silent.ids(session))) == 100, 60, "the one that is back is told of all")
        assert set(silent.ids(session)) == set(place.receiver.ids(session))
        assert len(place.receiver.of(session)) == 100
    finally:
        silent.held.set()
        silent.close()


def test_410_is_final_for_one_address(apart, session):
    gone = Receiver(SECRET, status=410)
    place = apart(urls=[gone.url])
    gateway = place.gateway()
    end(place, session)
    place.told(session)
    wait_for(lambda: not place.recorded(), 20, "nobody else is to be told")
    end(place, session, "r2")
    place.told(session, 2)
    wait_for(lambda: not place.recorded(), 20, "nobody else is to be told")
    assert len(gone.got) == 1
    wait_for(lambda: gateway.metric("baton_webhooks_dropped_total", reason="gone") == 1, 20, "it is counted")
    assert "wants no more webhooks (410)" in gateway.process.logged()
    gone.close()


def test_what_is_too_old_is_given_up(apart, session):
    place = apart(status=500)
    gateway = place.gateway("--webhook-retry-time", "2s")
    end(place, session)
    place.told(session)
    wait_for(lambda: not place.recorded(), 30, "it is given up")
    wait_for(lambda: gateway.metric("baton_webhooks_dropped_total", reason="expired") == 1, 20, "it is counted")


def test_what_is_deleted_is_given_up(apart, session):
    place = apart(status=500)
    gateway = place.gateway()
    end(place, session)
    place.told(session)
    assert gateway.request("DELETE", f"/v1/sessions/{session}").status == 204
    wait_for(lambda: not place.recorded(), 60, "it is given up")
    wait_for(lambda: gateway.metric("baton_webhooks_dropped_total", reason="deleted") == 1, 20, "it is counted")


def test_what_waits_is_bounded_and_what_is_left_out_counted(apart, session):
    place = apart()
    place.receiver.held = threading.Event()
    gateway = place.gateway("--sweep", "1s", "--webhook-timeout", "60s")
    step = Step(place.redis.client, session)
    for number in range(1100):
        step.put("stream", ["event", "end", "response", f"r{number}"])
    assert len(place.recorded()) == 999, "one field shows that there is somebody who sends"
    wait_for(lambda: gateway.metric("baton_webhooks_dropped_total", reason="full") == 101, 30, "those are counted")
    place.receiver.held.set()
    wait_for(lambda: not place.recorded(), 120, "all are told")
    assert len(set(place.receiver.ids(session))) == 999


def test_names_that_no_session_has_leave_nothing(apart, session):
    """Whoever may run the step may give it any name."""
    place = apart()
    place.gateway("--sweep", "1s")
    for name in ["foo bar", "ünï", "x" * 200, "%d"]:
        step = Step(place.redis.client, session)
        step.keys = [key.replace(session, name) for key in step.keys]
        step.put("stream", ["event", "end", "response", "r1"])
    end(place, session)
    wait_for(lambda: not place.recorded(), 60, "nothing is left")
    assert place.receiver.ids(session) != []


# Who sends


def test_another_node_takes_over_and_nothing_is_lost(apart, session):
    place = apart(status=503)
    first, second = place.gateway(), place.gateway()
    sender = lambda: [node for node in place.nodes if node.process.alive and node.metric("baton_webhooks_sender") == 1]  # noqa: E731
    wait_for(sender, 20, "one sends")
    assert sender() == [first]
    for number in range(20):
        end(place, session, f"r{number}")
    place.told(session)
    first.kill()
    end(place, session, "between")
    place.receiver.status = 204
    wait_for(lambda: len(set(place.receiver.ids(session))) == 21 and not place.recorded(), 60, "all are told")
    wait_for(lambda: sender() == [second], 20, "the second sends")
    # One that goes away in good order hands over at once, and what is on its way is not sent twice.
    third = place.gateway()
    sessions = [f"{session}-{number}" for number in range(20)]
    place.receiver.held = threading.Event()
    end(place, sessions[0])
    place.told(sessions[0])
    second.terminate()
    place.receiver.held.set()
    for one in sessions[1:]:
        end(place, one)
    for one in sessions:
        place.told(one)
    wait_for(lambda: sender() == [third] and not place.recorded(), 30, "the third sends")
    assert all(len(place.receiver.of(one)) == 1 for one in sessions)


def test_events_of_before_are_not_told_and_no_redis_is_needed_to_start(place, gateway, apart):
    end(place, "after")
    place.told("after")
    assert place.receiver.of("before") == []
    nowhere = apart(url=f"redis://127.0.0.1:{free_port()}/0")
    late = Gateway(nowhere.folder, nowhere.url, "gw-late", "--webhook", nowhere.receiver.url, env=HOOKS, ready=False)
    assert late.get("/healthz").status == 200
    late.kill()


@pytest.mark.parametrize("keeps", ["yes", "no"])
def test_redis_restarts(apart, tmp_path, session, keeps):
    place = apart(status=503)
    place.redis.kill()
    place.redis.options = ("--appendonly", keeps, "--appendfsync", "always")
    place.redis.start()
    gateway = place.gateway()
    end(place, session)
    place.told(session)
    place.redis.kill()
    place.redis.start()
    place.receiver.status = 204
    # The node claims again, and records again where Redis has lost it.
    wait_for(lambda: len(place.redis.client.keys("baton:{webhooks:*}:pending")) == 16384, 60, "what ends is recorded")
    end(place, session, "r2")
    wait_for(lambda: "r2" in [event["data"]["response"] for event in place.receiver.of(session)], 60, "the new one")
    wait_for(lambda: not place.recorded(), 60, "all are told")
    if keeps == "yes":
        wait_for(lambda: gateway.metric("baton_webhooks_attempts_total", outcome="delivered") == 2, 20, "it is counted")
    ids = [headers["webhook-id"] for headers, event in place.receiver.got if event["data"]["response"] == "r1"]
    assert len(set(ids)) == 1


def test_a_cluster(tmp_path, session):
    cluster = Cluster(tmp_path)
    place = Place(tmp_path, url=cluster.url)
    try:
        place.gateway()
        sessions = [f"{session}-{number}" for number in range(12)]
        assert {cluster.owner(one) for one in sessions} == set(cluster.masters)
        for one in sessions:
            with Producer(cluster.url, one, "r1") as answer:
                answer.delta("x")
        for one in sessions:
            assert place.told(one)[0]["data"]["text"] == "x"
        assert "can't be read" not in place.nodes[0].process.logged()
    finally:
        place.close()
        cluster.close()


@pytest.mark.parametrize("length", [1, 17, 128])
def test_a_record_lies_in_the_slot_of_its_session(place, gateway, length):
    session = ("s:~@.-_" * 20)[:length]
    place.receiver.held = threading.Event()
    try:
        end(place, session)
        mine = [name for field, name in place.recorded().items() if field.startswith(f"{session} ")]
        assert [redis.crc.key_slot(name.encode()) for name in mine] == [redis.crc.key_slot(key(session).encode())]
    finally:
        place.receiver.held.set()
        place.receiver.held = None


# The options


def test_what_is_wrong_stops_the_start_and_no_secret_is_shown(tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")

    def serve(*options, **env):
        done = subprocess.run([BATON, "serve", "--print-config", *options], capture_output=True, text=True, timeout=60, env=env)
        assert SECRET not in done.stdout + done.stderr
        return done

    url = "https://app.example/hooks/T0P"
    for env in ({}, {"BATON_WEBHOOK_SECRET": "whsec_short"}, {"BATON_WEBHOOK_SECRET": SECRET[6:]}):
        assert serve("--webhook", url, **env).returncode == 78
    for options in (["--webhook", "app.example"], ["--webhook", f"{url},{url}"], ["--webhook", "https://u:p@h/"],
                    ["--webhook", url, "--webhook-events", "start"], ["--webhook", url, "--webhook-timeout", "1ms"],
                    ["--webhook", url, "--webhook-secret-file", str(tmp_path / "none")]):  # fmt: skip
        done = serve(*options, **HOOKS)
        assert done.returncode == 78 and "T0P" not in done.stderr, (options, done.stderr)
    for done in (serve("--webhook", url, **HOOKS), serve("--webhook", url, "--webhook-secret-file", str(file))):
        assert done.returncode == 0 and "T0P" not in done.stdout and "webhook: https://app.example/(hidden)" in done.stdout
    two = serve("--webhook", url, "--webhook", "http://b.example/T0P", **HOOKS)
    assert two.returncode == 0 and "webhook: https://app.example/(hidden),http://b.example/(hidden)" in two.stdout


def test_only_what_is_wanted_is_told_and_signed_by_each_secret(apart, session, tmp_path):
    place = apart()
    file = tmp_path / "secrets"
    file.write_text(f"{secret()}\n{SECRET}\n")
    place.gateway("--webhook-events", "error", "--webhook-secret-file", str(file))
    end(place, session)
    Step(place.redis.client, session).open("r2", "w", items=[("error",)])
    [event] = place.told(session)
    assert event["data"]["response"] == "r2"
    assert len(place.receiver.got[0][0]["webhook-signature"].split(" ")) == 2
    wait_for(lambda: not place.recorded(), 20, "nothing is left")


def test_over_tls_only_who_is_trusted_is_told(apart, tmp_path, session):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True)  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    place = apart(context=context)
    first = place.gateway()
    end(place, session)
    wait_for(lambda: first.metric("baton_webhooks_attempts_total", outcome="unreachable") >= 1, 20, "nobody is trusted by default")
    assert "TLS" in first.process.logged() and place.receiver.got == []
    first.kill()
    place.gateway("--webhook-ca-file", tmp_path / "cert.pem")
    assert len(place.told(session)) == 1


def test_the_articles_receiver(apart, tmp_path, session):
    article = (REPOSITORY / "Sources/BatonGateway/BatonGateway.docc/Webhooks.md").read_text()
    [code] = re.findall(r"<!-- tested: receiver -->\n```python\n(.*?)```", article, re.S)
    (tmp_path / "app.py").write_text(code)
    port, place = free_port(), apart()
    command = f"cd {tmp_path} && exec {sys.executable} -m uvicorn app:app --port {port}"
    app = Process(tmp_path, "app", ["bash", "-c", command], HOOKS)
    app_url = f"http://127.0.0.1:{port}/hooks/baton"
    try:
        place.urls = [app_url]
        gateway = place.gateway()
        end(place, session, text="whole")
        wait_for(lambda: gateway.metric("baton_webhooks_attempts_total", outcome="delivered") == 1, 30, "it was taken")
        assert request(port, "POST", "/hooks/baton", "{}", {"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": "v1,x"}).status == 401
        saved = sqlite3.connect(tmp_path / "answers.db").execute("SELECT session, response, how, text FROM answers").fetchall()
        assert saved == [(session, "r1", "end", "whole")]
    finally:
        app.kill()


# Last, as it has taken its time.


def test_an_answer_whose_producer_died_unseen(place, gateway):
    [event] = place.told("lost", seconds=120)
    assert (event["type"], event["data"]["reason"], event["data"]["text"]) == ("error", "producer_lost", "half an ans")
    log = gateway.process.logged()
    assert "lost" in log and "half an ans" not in log and SECRET not in log
