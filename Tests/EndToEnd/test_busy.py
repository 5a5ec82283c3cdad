"""`--on-busy`: a question while its session is answering another one, on every wire, with the two on different nodes."""

import concurrent.futures
import json
import signal
import socket
import threading

import httpx
import openai
import pytest
from support.process import wait_for
from support.servers import Gateway, gateways, key
from support.step import Step
from support.tokens import SECRET, token
from test_ai_sdk import answer, sse
from test_relay import Upstream, chunks, client, sparse

WIRES = {
    "responses": ("/v1/responses", lambda text: {"model": "m", "stream": True, "input": text}),
    "chat": ("/v1/chat/completions", lambda text: {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}),
    "ai-sdk": ("/v1/ai-sdk", lambda text: {"messages": [{"id": f"m-{text}", "role": "user", "parts": [{"type": "text", "text": text}]}]}),
    "relay": ("/agent", lambda text: {"input": text}),
}
EVENTS = {
    "responses": lambda text: sparse([text]),
    "chat": lambda text: [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks([text])), "data: [DONE]\n\n"],
    "ai-sdk": lambda text: sse(*answer([text])),
    "relay": lambda text: [f"data: {text}\n\n", "data: over\n\n"],
}


class Backend(Upstream):
    """A model server and a backend: it says the beginning of an answer to each question, and the rest once that is let go."""

    def __init__(self):
        super().__init__([])
        self.begun, self.left, self.let, self.answering = [], set(), set(), []
        # It says nothing to whoever asks before this is set.
        self.speaks = threading.Event()
        self.speaks.set()
        self.server.RequestHandlerClass.do_POST = lambda handler: self.post(handler)

    def post(self, handler):
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        wire = next(name for name in WIRES if handler.path.endswith({"chat": "/completions", "ai-sdk": "/ui"}.get(name, f"/{name}")))
        text = next(word for word in json.dumps(asked).split('"') if word.startswith("q-"))
        self.begun.append(text)
        self.answering.append(text)
        events = EVENTS[wire](text)
        self.speaks.wait(60)
        handler.begin()
        try:
            handler.tell(events[0])
            while text not in self.let:
                handler.tell(": wait\n\n")
                threading.Event().wait(0.02)
            handler.tell(*events[1:])
        except (BrokenPipeError, ConnectionResetError):
            self.left.add(text)
        finally:
            self.answering.remove(text)


class Asked:
    """A question, and what is answered."""

    def __init__(self, gateway, wire, session, text, headers=None):
        self.text, self.status, self.told, self.headers = text, None, "", {}
        path, body = WIRES[wire]
        self.sent = {"url": f"{gateway.url}{path}", "json": body(text), "headers": {"Baton-Session": session, **(headers or {})}}
        if wire == "ai-sdk":
            self.sent["json"]["id"] = session
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            with httpx.stream("POST", **self.sent, timeout=90) as response:
                self.status, self.headers = response.status_code, response.headers
                for piece in response.iter_text():
                    self.told += piece
        except httpx.HTTPError as error:
            self.told += f"\n({type(error).__name__})"

    def result(self):
        self.thread.join(90)
        assert not self.thread.is_alive()
        return self.status


@pytest.fixture(scope="module")
def backend():
    return Backend()


@pytest.fixture(autouse=True)
def afresh(backend):
    yield
    backend.let.update(backend.begun)
    wait_for(lambda: not backend.answering, 60, "all is answered")
    for told in (backend.begun, backend.left, backend.let):
        told.clear()


def busy(backend, folder, redis, policy, *options, **more):
    url = f"http://127.0.0.1:{backend.port}"
    return gateways(folder, redis, f"busy-{policy}", "--on-busy", policy, "--openai", url, "--ai-sdk", f"{url}/ui", "--relay", f"/agent={url}/relay", *options, **more)


def nodes(policy, *options):
    @pytest.fixture(scope="module")
    def started(backend, tmp_path_factory, redis):
        with busy(backend, tmp_path_factory.mktemp(policy), redis, policy, *options) as gateways:
            yield gateways

    return started


queueing = nodes("queue", "--max-queued", "2")
rejecting = nodes("reject")
cancelling = nodes("cancel")


def begun(backend, *texts):
    wait_for(lambda: backend.begun == list(texts), 60, f"{texts} have begun: {backend.begun}")


def waiting(redis, session, count):
    """The responses that so many questions wait for, in the order in which they came."""

    def there():
        fields = {name.decode(): value.decode().split() for name, value in redis.client.hgetall(key(session) + ":questions").items()}
        found = sorted((int(value[0]), name) for name, value in fields.items() if value[2] == "waiting")
        return found if len(found) == count else None

    return [name for _, name in wait_for(there, 20, f"{count} questions wait")] if count else wait_for(lambda: there() == [], 20, "none waits")


def entries(redis, session):
    return [{name.decode(): value.decode() for name, value in pairs} for _, pairs in redis.stream(session)]


def ends(redis, session):
    return [entry["event"] for entry in entries(redis, session) if entry.get("event") in ("end", "error", "cancelled")]


@pytest.mark.parametrize("wire", WIRES)
def test_questions_wait_their_turn(queueing, backend, redis, session, wire):
    texts = [f"q-{wire}-{number}" for number in range(3)]
    first = Asked(queueing[0], wire, session, texts[0])
    begun(backend, texts[0])
    second = Asked(queueing[1], wire, session, texts[1])
    waiting(redis, session, 1)
    third = Asked(queueing[0], wire, session, texts[2])
    waiting(redis, session, 2)
    fourth = Asked(queueing[1], wire, session, "q-too-many")
    assert fourth.result() == 429 and "too" in fourth.told and "questions" in fourth.told
    assert backend.begun == texts[:1] and ends(redis, session) == []
    for place, asked in enumerate((first, second, third)):
        begun(backend, *texts[: place + 1])
        backend.let.add(asked.text)
        assert asked.result() == 200 and asked.text in asked.told
    kinds = [entry["event"] for entry in entries(redis, session) if entry.get("event") in ("start", "end")]
    assert kinds == ["start", "end"] * 3
    wait_for(lambda: not redis.client.exists(key(session) + ":questions"), 20, "nothing is left")


def left(gateway, session, text, wire="responses", headers=""):
    """A question whose caller goes away."""
    path, body = WIRES[wire]
    body = json.dumps(body(text))
    raw = socket.create_connection(("127.0.0.1", gateway.port), 20)
    raw.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{headers}Baton-Session: {session}\r\n\r\n{body}".encode())  # fmt: skip
    return raw


def test_who_waits_may_go_away(queueing, backend, redis, session):
    first = Asked(queueing[0], "responses", session, "q-stays")
    begun(backend, "q-stays")
    gone = left(queueing[1], session, "q-gone")
    waiting(redis, session, 1)
    gone.close()
    backend.let.update(("q-stays", "q-gone"))
    assert first.result() == 200
    begun(backend, "q-stays", "q-gone")
    wait_for(lambda: ends(redis, session) == ["end", "end"], 20, "both are answered")


def test_one_that_waits_is_cancelled_by_its_name(queueing, backend, redis, session):
    first = Asked(queueing[0], "responses", session, "q-runs")
    begun(backend, "q-runs")
    second = Asked(queueing[1], "responses", session, "q-waits")
    (name,) = waiting(redis, session, 1)
    assert queueing[0].request("POST", f"/v1/sessions/{session}/responses/{name}/cancel").status == 202
    assert second.result() == 409 and json.loads(second.told)["error"]["code"] == "question_cancelled"
    assert second.headers["x-should-retry"] == "false"
    backend.let.add("q-runs")
    assert first.result() == 200 and backend.begun == ["q-runs"]


def test_stop_is_for_what_runs_and_what_waits(queueing, backend, redis, session):
    first = Asked(queueing[0], "ai-sdk", session, "q-ui")
    begun(backend, "q-ui")
    second = Asked(queueing[1], "ai-sdk", session, "q-ui-waits")
    waiting(redis, session, 1)
    # A page that is reloaded is shown what runs, and does not wait with what waits.
    with httpx.stream("GET", f"{queueing[1].url}/v1/ai-sdk/{session}/stream", timeout=20) as page:
        assert page.status_code == 200 and page.headers["baton-response"] == first.headers["baton-response"]
    assert queueing[0].request("POST", f"/v1/ai-sdk/{session}/stop").status == 204
    assert second.result() == 409 and json.loads(second.told)["type"] == "urn:baton:problem:question-cancelled"
    assert first.result() == 200 and '"abort"' in first.told and backend.begun == ["q-ui"]


def test_the_same_key_waits_with_the_question(queueing, backend, redis, session):
    first = Asked(queueing[0], "responses", session, "q-before")
    begun(backend, "q-before")
    headers = {"Idempotency-Key": "k"}
    twice = [Asked(gateway, "responses", session, "q-once", headers) for gateway in queueing]
    waiting(redis, session, 1)
    backend.let.update(("q-before", "q-once"))
    assert [first.result(), *(asked.result() for asked in twice)] == [200] * 3
    assert backend.begun == ["q-before", "q-once"] and all('"q-once"' in asked.told for asked in twice)


def test_a_killed_node_s_answer_is_waited_for_until_its_lease_is_over(backend, tmp_path, redis, session):
    with busy(backend, tmp_path, redis, "queue") as (dying, living):
        others = f"{session}-2"
        Asked(dying, "responses", session, "q-dies")
        begun(backend, "q-dies")
        second = Asked(living, "chat", session, "q-after")
        waiting(redis, session, 1)
        # One whose node dies while it waits is forgotten, and the next one is asked.
        first = Asked(living, "relay", others, "q-others")
        begun(backend, "q-dies", "q-others")
        Asked(dying, "relay", others, "q-lost")
        waiting(redis, others, 1)
        last = Asked(living, "relay", others, "q-last")
        waiting(redis, others, 2)
        dying.kill()
        backend.let.update(("q-others", "q-after", "q-last"))
        assert (first.result(), last.result(), second.result()) == (200, 200, 200)
        assert "q-last" in last.told and "q-after" in second.told and "q-lost" not in backend.begun
        assert ends(redis, session) == ["error", "end"] and "producer_lost" in str(entries(redis, session))
        assert ends(redis, others) == ["end", "end"]


def test_what_waits_is_refused_after_its_time_and_by_a_drain(backend, tmp_path, redis, session):
    with busy(backend, tmp_path, redis, "queue", "--queue-timeout", "1s", count=1) as (gateway,):
        first = Asked(gateway, "responses", session, "q-long")
        begun(backend, "q-long")
        late = Asked(gateway, "relay", session, "q-late")
        assert late.result() == 409 and json.loads(late.told)["type"] == "urn:baton:problem:session-busy"
        assert json.loads(late.told)["response"] == first.headers["baton-response"]
        backend.let.add("q-long")
        assert first.result() == 200
    with busy(backend, tmp_path, redis, "queue", "--drain-delay", "0s", "--drain-time", "20s", count=1) as (gateway,):
        first = Asked(gateway, "responses", session, "q-drained")
        begun(backend, "q-long", "q-drained")
        second = Asked(gateway, "responses", session, "q-not-asked")
        waiting(redis, session, 1)
        gateway.process.signal(signal.SIGTERM)
        assert second.result() == 503 and json.loads(second.told)["error"]["code"] == "draining"
        backend.let.add("q-drained")
        assert first.result() == 200 and backend.begun == ["q-long", "q-drained"]


# In the background


def told(stream):
    return [event.to_dict() for event in stream]


def of_response(gateway, id, after=None):
    query = "" if after is None else f"&starting_after={after}"
    with httpx.stream("GET", f"{gateway.url}/v1/responses/{id}?stream=true{query}", timeout=60) as answer:
        assert answer.status_code == 200
        yield from (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))


def queued(gateway, session, text, **more):
    return client(gateway).responses.create(
        model="m", input=text, background=True, extra_headers={"Baton-Session": session, **more})  # fmt: skip


def test_in_the_background_it_is_queued_at_once(queueing, backend, redis, session):
    first = Asked(queueing[0], "responses", session, "q-before")
    begun(backend, "q-before")
    waits = queued(queueing[0], session, "q-behind", **{"Idempotency-Key": "k"})
    assert waits.status == "queued" and waits.background and backend.begun == ["q-before"]
    assert queued(queueing[1], session, "q-behind", **{"Idempotency-Key": "k"}).id == waits.id
    assert [client(gateway).responses.retrieve(waits.id).status for gateway in queueing] == ["queued"] * 2
    streams = [of_response(gateway, waits.id) for gateway in queueing]
    opening = [[next(stream), next(stream)] for stream in streams]
    assert [one["type"] for one in opening[0]] == ["response.created", "response.queued"] and opening[0] == opening[1]
    behind = of_response(queueing[1], waits.id, 0)
    assert next(behind) == opening[0][1]
    assert ends(redis, session) == [] and waits.id.split("~")[0] not in str(entries(redis, session))
    backend.let.update(("q-before", "q-behind"))
    assert first.result() == 200
    whole = [events + list(stream) for events, stream in zip(opening, streams)]
    assert whole[0] == whole[1] == list(of_response(queueing[0], waits.id))
    assert [one["sequence_number"] for one in whole[0]] == list(range(len(whole[0])))
    assert whole[0][2]["type"] == "response.in_progress" and whole[0][2]["response"]["status"] == "in_progress"
    assert whole[0][-1]["type"] == "response.completed" and list(behind) == whole[0][2:]
    for place in range(len(whole[0])):
        assert list(of_response(queueing[place % 2], waits.id, place)) == whole[0][place + 1 :]
    done = client(queueing[1]).responses.retrieve(waits.id)
    assert done.status == "completed" and done.output_text == "q-behind"
    assert backend.begun == ["q-before", "q-behind"]


def test_the_official_helper_streams_what_is_queued(queueing, backend, session):
    first = Asked(queueing[0], "responses", session, "q-long")
    begun(backend, "q-long")
    with client(queueing[1]).responses.stream(model="m", input="q-helped", background=True, extra_headers={"Baton-Session": session}) as stream:
        types = [next(stream).type for _ in range(2)]
        backend.let.update(("q-long", "q-helped"))
        types += [event.type for event in stream]
        assert types[:3] == ["response.created", "response.queued", "response.in_progress"] and types.count("response.created") == 1
        assert stream.get_final_response().output_text == "q-helped"
    assert first.result() == 200


def test_what_is_queued_is_cancelled(queueing, backend, redis, session):
    first = Asked(queueing[0], "responses", session, "q-runs")
    begun(backend, "q-runs")
    waits = queued(queueing[1], session, "q-waits")
    stream = of_response(queueing[0], waits.id)
    next(stream)
    assert client(queueing[0]).responses.cancel(waits.id).status == "cancelled"
    assert list(stream)[-1]["response"]["status"] == "cancelled"
    assert [client(gateway).responses.retrieve(waits.id).status for gateway in queueing] == ["cancelled"] * 2
    waiting(redis, session, 0)
    backend.let.add("q-runs")
    assert first.result() == 200 and backend.begun == ["q-runs"] and ends(redis, session) == ["cancelled", "end"]


def test_what_is_refused_after_it_was_queued_has_failed(queueing, backend, redis, session, monkeypatch):
    first = Asked(queueing[0], "responses", session, "q-accepted")
    begun(backend, "q-accepted")
    waits = queued(queueing[1], session, "q-refused")
    assert waits.status == "queued"
    refusal = json.dumps({"error": {"message": "no such model", "type": "invalid_request_error", "param": None, "code": None}})
    monkeypatch.setattr(backend.server.RequestHandlerClass, "do_POST", lambda handler: (
        handler.rfile.read(int(handler.headers["Content-Length"])), handler.whole(400, refusal, Content_Type="application/json")))
    backend.let.add("q-accepted")
    assert first.result() == 200
    failed = wait_for(lambda: (now := client(queueing[0]).responses.retrieve(waits.id)).status == "failed" and now, 20, "it has failed")
    assert failed.error.message == "no such model"
    assert [one["type"] for one in of_response(queueing[1], waits.id)] == ["response.created", "response.queued", "response.failed"]
    assert json.loads(entries(redis, session)[-1]["data"])["reason"] == "model_error"
    waiting(redis, session, 0)


def test_what_is_queued_and_drained_or_too_late_has_failed(backend, tmp_path, redis, session):
    with busy(backend, tmp_path, redis, "queue", "--queue-timeout", "1s", "--drain-delay", "0s", "--drain-time", "20s") as (leaving, staying):
        first = Asked(staying, "responses", session, "q-long")
        begun(backend, "q-long")
        late = queued(staying, session, "q-late")
        last = list(of_response(leaving, late.id))[-1]
        assert last["type"] == "response.failed" and "still answering" in last["response"]["error"]["message"]
        backend.let.add("q-long")
        assert first.result() == 200
    with busy(backend, tmp_path, redis, "queue", "--drain-delay", "0s", "--drain-time", "20s") as (leaving, staying):
        first = Asked(staying, "responses", session, "q-longer")
        begun(backend, "q-long", "q-longer")
        waits = queued(leaving, session, "q-drained")
        leaving.process.signal(signal.SIGTERM)
        last = list(of_response(staying, waits.id))[-1]
        assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
        assert "relay_drained" in str(entries(redis, session))
        backend.let.add("q-longer")
        assert first.result() == 200 and backend.begun == ["q-long", "q-longer"]


def test_what_was_queued_on_a_killed_node_has_failed(backend, tmp_path, redis, session):
    with busy(backend, tmp_path, redis, "queue") as (dying, living):
        first = Asked(living, "responses", session, "q-lives")
        begun(backend, "q-lives")
        waits = queued(dying, session, "q-lost")
        stream = of_response(living, waits.id)
        assert next(stream)["type"] == "response.created"
        dying.kill()
        told = list(stream)
        assert [one["type"] for one in told] == ["response.queued", "response.failed"]
        assert client(living).responses.retrieve(waits.id).status == "failed" and "producer_lost" in str(entries(redis, session))
        backend.let.add("q-lives")
        assert first.result() == 200 and backend.begun == ["q-lives"]


@pytest.mark.parametrize("wire", ["responses", "chat"])
def test_who_says_so_leaves_the_line_by_going_away(queueing, backend, redis, session, wire):
    first = Asked(queueing[0], wire, session, "q-stays")
    begun(backend, "q-stays")
    gone = left(queueing[1], session, "q-gone", wire, "Baton-Detach: off\r\n")
    waiting(redis, session, 1)
    gone.close()
    waiting(redis, session, 0)
    assert backend.begun == ["q-stays"] and ends(redis, session) == []
    backend.let.update(("q-stays", "q-gone"))
    assert first.result() == 200 and backend.begun == ["q-stays"]


# Refused


@pytest.mark.parametrize("wire", WIRES)
def test_a_second_question_is_refused(rejecting, backend, redis, session, wire):
    first = Asked(rejecting[0], wire, session, "q-first")
    begun(backend, "q-first")
    second = Asked(rejecting[1], wire, session, "q-second")
    assert second.result() == 409 and second.headers["x-should-retry"] == "false"
    told = json.loads(second.told)
    if wire in ("responses", "chat"):
        assert told["error"]["code"] == "session_busy" and told["error"]["type"] == "invalid_request_error"
        detail = told["error"]["message"]
    else:
        assert told["type"] == "urn:baton:problem:session-busy" and told["response"] == first.headers["baton-response"]
        detail = told["detail"]
    assert f"POST /v1/sessions/{session}/responses/{first.headers['baton-response']}/cancel" in detail
    backend.let.add("q-first")
    assert first.result() == 200 and backend.begun == ["q-first"]
    # It may be asked now, with the same key.
    third = Asked(rejecting[1], wire, session, "q-second")
    begun(backend, "q-first", "q-second")
    backend.let.add("q-second")
    assert third.result() == 200


def test_of_questions_at_the_same_time_one_is_asked(rejecting, backend, session):
    backend.speaks.clear()
    try:
        asked = [Asked(rejecting[number % 2], "responses", session, f"q-{number}") for number in range(6)]
        wait_for(lambda: sum(one.status == 409 for one in asked) == 5 or len(backend.begun) > 1, 60, "the others are refused")
    finally:
        backend.speaks.set()
    assert len(backend.begun) == 1
    backend.let.update(backend.begun)
    assert sorted(one.result() for one in asked) == [200] + [409] * 5


def test_who_has_read_the_end_asks_at_once(rejecting, backend, session):
    backend.let.update(f"q-next-{number}" for number in range(8))
    for number in range(8):
        stream = client(rejecting[number % 2]).responses.create(
            model="m", input=f"q-next-{number}", stream=True, extra_headers={"Baton-Session": session})  # fmt: skip
        # No further than the last event: the stream's end is not waited for.
        next(event for event in stream if event.type == "response.completed")
    assert len(backend.begun) == 8


def test_what_ends_soon_is_waited_for(rejecting, backend, redis, session):
    """What is answered ends once the question has looked for it a second time. A machine that is too slow for that is asked again."""
    for attempt in range(10):
        name = f"{session}-{attempt}"
        step = Step(redis.client, name)
        assert step.open("r1", "w.1", items=[("deltas", "x")])[0] == "ok"
        backend.let.add(f"q-{attempt}")
        asked = Asked(rejecting[0], "relay", name, f"q-{attempt}")

        def looks():
            return set(redis.client.hvals(key(name) + ":questions"))

        first = wait_for(lambda: looks() or asked.status, 20, "it waits, or is refused")
        wait_for(lambda: asked.status or looks() not in (set(), first), 20, "it has looked again")
        assert step.append("r1", "w.2", 2, [("end",)])[0] == "ok"
        if asked.result() == 200:
            return
    raise AssertionError("all were refused")


def test_the_official_client_says_why(rejecting, backend, session):
    first = Asked(rejecting[0], "responses", session, "q-official")
    begun(backend, "q-official")
    with pytest.raises(openai.ConflictError, match="still answering") as refused:
        # It repeats a 409 by itself, unless it is told not to.
        openai.OpenAI(base_url=f"{rejecting[1].url}/v1", api_key="none", max_retries=2).responses.create(
            model="m", input="q-other", extra_headers={"Baton-Session": session})  # fmt: skip
    assert refused.value.body["code"] == "session_busy" and "x-stainless-retry-count" in refused.value.request.headers
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"
    backend.let.add("q-official")
    first.result()


def test_whoever_answers_counts(rejecting, backend, session):
    lines = {"Content-Type": "application/x-ndjson"}
    line = json.dumps({"response": "r1", "n": 1, "data": "x"})
    assert rejecting[0].request("POST", f"/v1/sessions/{session}?epoch=1&lease=keep", line, lines).status == 201
    assert Asked(rejecting[1], "responses", session, "q-beside").result() == 409
    end = json.dumps({"response": "r1", "event": "end"})
    assert rejecting[0].request("POST", f"/v1/sessions/{session}?epoch=1", end, lines).status == 201
    backend.let.add("q-behind")
    assert Asked(rejecting[1], "responses", session, "q-behind").result() == 200 and backend.begun == ["q-behind"]


# Cancelling


@pytest.mark.parametrize("wire", WIRES)
def test_a_second_question_cancels_the_first(cancelling, backend, redis, session, wire):
    first = Asked(cancelling[0], wire, session, "q-old")
    begun(backend, "q-old")
    backend.let.add("q-new")
    second = Asked(cancelling[1], wire, session, "q-new")
    assert (second.result(), first.result()) == (200, 200) and "q-new" in second.told
    wait_for(lambda: backend.left == {"q-old"}, 20, "the first one's request is closed")
    assert ends(redis, session) == ["cancelled", "end"] and backend.begun == ["q-old", "q-new"]


def test_of_several_questions_the_last_one_is_answered(cancelling, backend, redis, session):
    asked = [Asked(cancelling[0], "relay", session, "q-0")]
    begun(backend, "q-0")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for each in pool.map(lambda number: Asked(cancelling[number % 2], "relay", session, f"q-{number}"), range(1, 6)):
            asked.append(each)
        wait_for(lambda: sum(one.thread.is_alive() for one in asked) == 1, 60, "one is left")
        last = next(one for one in asked if one.thread.is_alive())
        wait_for(lambda: last.text in backend.begun, 60, "it is asked")
        backend.let.add(last.text)
        assert last.result() == 200 and last.text in last.told
    assert ends(redis, session)[-1] == "end" and set(ends(redis, session)[:-1]) == {"cancelled"}


def test_to_cancel_takes_the_right_to(backend, tmp_path, redis, session):
    (tmp_path / "secret").write_bytes(SECRET)
    with busy(backend, tmp_path, redis, "cancel", "--auth-secret-file", tmp_path / "secret", count=1) as (gateway,):
        def headers(*scope):
            return {"Authorization": f"Bearer {token(scope=['read', 'publish', *scope])}"}

        first = Asked(gateway, "relay", session, "q-mine", headers())
        begun(backend, "q-mine")
        assert Asked(gateway, "relay", session, "q-theirs", headers()).result() == 403
        backend.let.add("q-then")
        assert Asked(gateway, "relay", session, "q-then", headers("cancel")).result() == 200
        assert first.result() == 200 and backend.begun == ["q-mine", "q-then"]


def test_parallel_unless_told_otherwise(backend, tmp_path, redis, session):
    url = f"http://127.0.0.1:{backend.port}"
    gateway = Gateway(tmp_path, redis.url, "parallel", "--openai", url)
    try:
        both = [Asked(gateway, "responses", session, f"q-{word}") for word in ("this", "that")]
        wait_for(lambda: sorted(backend.begun) == ["q-that", "q-this"], 30, "both are asked")
        backend.let.update(backend.begun)
        assert [asked.result() for asked in both] == [200, 200]
        assert redis.client.exists(key(session) + ":questions") == 0
    finally:
        gateway.kill()
