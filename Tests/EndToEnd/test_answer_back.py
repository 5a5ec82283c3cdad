"""Sections 5, 8 and 9 at the gateway: idempotency keys, responses line by line, what devices send back, lost producers."""

import json
import socket

import pytest
from support.process import wait_for

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def post(gateway, session, body, **headers):
    return gateway.request("POST", f"/v1/sessions/{session}", json.dumps(body), {**JSON, **headers})


def upload(gateway, session, lines, epoch=1, tail=""):
    body = "".join(json.dumps(line) + "\n" for line in lines) + tail
    return gateway.request("POST", f"/v1/sessions/{session}?epoch={epoch}", body, NDJSON)


def deltas(*numbers, response="r"):
    return [{"response": response, "n": n, "data": f"{n} "} for n in numbers]


def texts(redis, session):
    return [dict(fields).get(b"data") for _, fields in redis.stream(session)]


def inbox(redis, session):
    return [fields for _, fields in redis.client.xrange(f"baton:{{{session}}}:inbox")]


# Idempotency


def test_a_repeated_post_is_appended_once(redis, gateway, gateway2, session):
    first = post(gateway, session, {"data": "x"}, **{"Idempotency-Key": "k"})
    again = post(gateway2, session, {"data": "x"}, **{"Idempotency-Key": "k"})
    assert (first.status, again.status) == (201, 201) and first.json == again.json
    assert len(redis.stream(session)) == 1


def test_the_same_key_with_another_body_is_a_conflict(redis, gateway, session):
    assert post(gateway, session, {"data": "x"}, **{"Idempotency-Key": "k"}).status == 201
    post(gateway, session, {"data": "y"}, **{"Idempotency-Key": "k"}).problem(409)
    assert post(gateway, session, {"data": "y"}, **{"Idempotency-Key": "k2"}).status == 201


def test_ndjson_with_an_idempotency_key_is_a_400(gateway, session):
    gateway.request("POST", f"/v1/sessions/{session}?epoch=1", "", {**NDJSON, "Idempotency-Key": "k"}).problem(400)


# Responses, line by line


def test_a_response_is_posted_line_by_line(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    lines = [{"response": "r", "event": "start"}, *deltas(1, 2, 3), {"response": "r", "event": "end", "data": "{}"}]
    answer = upload(gateway, session, lines)
    assert answer.status == 201 and len(answer.json["ids"]) == 5
    device.until_at(answer.json["ids"][-1])
    device.judge(redis.stream(session))
    assert gateway.get(f"/v1/sessions/{session}/responses/r").json == {"response": "r", "n": 3, "state": "end", "epoch": 1}


def test_a_post_that_was_cut_is_repeated_without_doubling(redis, gateway, gateway2, session):
    host, port = gateway.address.split(":")
    sent = "".join(json.dumps(line) + "\n" for line in deltas(1, 2)) + json.dumps(deltas(3)[0])
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/sessions/{session}?epoch=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 5000\r\n\r\n"
        connection.sendall((head + sent).encode())
        wait_for(lambda: len(redis.stream(session)) == 2, 20, "two lines")
    record = gateway2.get(f"/v1/sessions/{session}/responses/r").json
    assert (record["n"], record["state"]) == (2, "open")
    assert upload(gateway2, session, deltas(1, 2, 3, 4)).status == 201
    assert texts(redis, session) == [b"1 ", b"2 ", b"3 ", b"4 "]


def test_a_gap_is_refused_with_what_the_stream_has(redis, gateway, session):
    told = upload(gateway, session, deltas(1, 2, 4)).problem(409)
    assert told["n"] == 2 and told["response"] == "r"
    assert texts(redis, session) == [b"1 ", b"2 "]


def test_an_older_epoch_is_fenced(redis, gateway, session):
    assert upload(gateway, session, deltas(1), epoch=2).status == 201
    assert upload(gateway, session, deltas(2), epoch=1).problem(409)["epoch"] == 2
    assert upload(gateway, session, deltas(2), epoch=2).status == 201
    assert texts(redis, session) == [b"1 ", b"2 "]


def test_nothing_follows_an_end(gateway, session):
    assert upload(gateway, session, [*deltas(1), {"response": "r", "event": "end"}]).status == 201
    assert upload(gateway, session, deltas(2)).problem(409)["state"] == "end"


@pytest.mark.parametrize("line", ["[]", "{}", '{"response":"r","n":0,"data":"x"}', '{"response":"r","data":"x"}',
                                  '{"response":"r","event":"end","n":2}', '{"response":"r","n":1,"data":"x","more":1}'])  # fmt: skip
def test_a_wrong_line_is_a_400_that_names_it(redis, gateway, session, line):
    answer = gateway.request("POST", f"/v1/sessions/{session}?epoch=1", json.dumps(deltas(1)[0]) + "\n" + line + "\n", NDJSON)
    assert "Line 2" in answer.problem(400)["detail"]
    assert texts(redis, session) == [b"1 "]


@pytest.mark.parametrize("query", ["", "?epoch=0", "?epoch=x"])
def test_ndjson_needs_an_epoch(gateway, session, query):
    gateway.request("POST", f"/v1/sessions/{session}{query}", "", NDJSON).problem(400)


def test_an_unknown_response_is_a_404(gateway, session):
    gateway.get(f"/v1/sessions/{session}/responses/r").problem(404)


def test_a_deleted_session_is_gone_for_who_wrote_before(redis, gateway, session):
    assert upload(gateway, session, deltas(1)).status == 201
    assert gateway.request("DELETE", f"/v1/sessions/{session}").status == 204
    assert [name for name in redis.client.keys(f"baton:{{{session}}}*") if not name.endswith(b":producers")] == []
    assert upload(gateway, session, deltas(2)).problem(409)["n"] == 0


# From devices


def test_an_input_is_shown_to_all_and_reaches_the_inbox_once(redis, gateway, gateway2, session, attach):
    phone, laptop = attach(gateway, session, device="phone").until_live(), attach(gateway2, session).until_live()
    for _ in range(2):
        phone.send({"type": "input", "key": "k", "data": "and then?"})
    first, again = phone.until_type("accepted"), phone.until_type("accepted", 2)
    assert first == again
    (entry,) = redis.stream(session)
    for device in (phone, laptop):
        device.until_at(entry[0])
        device.judge(redis.stream(session))
    (kept,) = inbox(redis, session)
    assert kept[b"event"] == b"input" and kept[b"data"] == b"and then?"
    assert kept[b"device"] == b"phone" and kept[b"key"] == b"k"


def test_a_key_with_another_body_is_a_conflict(gateway, session, attach):
    device = attach(gateway, session).until_live()
    device.send({"type": "input", "key": "k", "data": "a"})
    device.until_type("accepted")
    device.send({"type": "input", "key": "k", "data": "b"})
    told = device.until_type("error")
    assert (told["code"], told["key"]) == ("key_conflict", "k")


def test_a_cancel_goes_to_the_inbox_only(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    device.send({"type": "cancel", "key": "k", "response": "r"})
    device.until_type("accepted")
    (kept,) = inbox(redis, session)
    assert (kept[b"event"], kept[b"response"]) == (b"cancel", b"r")
    assert redis.stream(session) == []


@pytest.mark.parametrize("frame", [{"type": "input", "data": "x"}, {"type": "input", "key": "k"}, {"type": "cancel", "key": "k"},
                                   {"type": "input", "key": "x" * 65, "data": "x"}, {"type": "input", "key": "k", "data": 1}])  # fmt: skip
def test_a_wrong_command_is_told_what_to_mend(redis, gateway, session, attach, frame):
    device = attach(gateway, session).until_live()
    device.send(frame)
    assert device.until_type("error")["code"] == "bad_request"
    assert redis.stream(session) == [] and inbox(redis, session) == []


# Lost producers


def test_a_lost_producer_ends_its_response_once_and_before_live(redis, gateway, gateway2, session, attach):
    seconds, micros = redis.client.time()
    redis.add(session, data="abc", response="r", n=3, joined=3)
    redis.client.hset(f"baton:{{{session}}}:producers", "r", f"1 3 open w.1 1-1 {seconds * 1000 + micros // 1000 - 60_000}")
    devices = [attach(gateway, session), attach(gateway2, session)]
    for device in devices:
        device.until_live(seconds=60)
        # Both gateways end it at the same moment; the one that comes second may read the other's entry just after.
        device.until(lambda device: device.entries[-1]["event"] == "error", 20, "the end")
        device.judge(redis.stream(session))
        assert [frame["event"] for frame in device.frames if "event" in frame] == ["token", "error"]
    assert texts(redis, session) == [b"abc", b'{"reason":"producer_lost"}']
    assert gateway.get(f"/v1/sessions/{session}/responses/r").json["state"] == "error"


# What people want, over HTTP


def say(gateway, path, body=None, **headers):
    text = "" if body is None else json.dumps(body)
    return gateway.request("POST", f"/v1/sessions/{path}", text, {**(JSON if text else {}), **headers})


def test_an_input_over_http_is_an_input(redis, gateway, gateway2, session, attach):
    device = attach(gateway2, session).until_live()
    answer = say(gateway, f"{session}/input?device=phone", {"data": "Go on", "response": "r"}, **{"Idempotency-Key": "k"})
    assert answer.status == 202 and answer.json["key"] == "k" and answer.headers["baton-session"] == session
    device.until(lambda device: [frame["data"] for frame in device.entries] == ["Go on"], 20, "the input")
    fields = dict(inbox(redis, session)[0])
    assert fields == {b"event": b"input", b"response": b"r", b"data": b"Go on", b"device": b"phone", b"key": b"k"}
    again = say(gateway2, f"{session}/input?device=phone", {"data": "Go on", "response": "r"}, **{"Idempotency-Key": "k"})
    assert (again.status, again.json, again.headers["idempotent-replayed"]) == (202, answer.json, "true")
    assert len(redis.stream(session)) == 1 and len(inbox(redis, session)) == 1
    say(gateway, f"{session}/input?device=phone", {"data": "No"}, **{"Idempotency-Key": "k"}).problem(409)


def test_keys_are_one_set_over_both_ways(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    device.send({"type": "input", "key": "k", "data": "x"})
    accepted = device.until_type("accepted")
    answer = say(gateway, f"{session}/input", {"data": "x"}, **{"Idempotency-Key": "k"})
    assert answer.json["inboxId"] == accepted["inboxId"] and len(redis.stream(session)) == 1


def test_a_cancel_over_http_reaches_the_inbox_alone(redis, gateway, session):
    answer = say(gateway, f"{session}/responses/r1/cancel")
    assert answer.status == 202 and answer.headers["baton-response"] == "r1" and answer.json["key"]
    fields = dict(inbox(redis, session)[0])
    assert fields[b"event"] == b"cancel" and fields[b"response"] == b"r1" and fields[b"device"].startswith(b"d-")
    assert redis.stream(session) == []
    assert say(gateway, f"{session}/responses/r1/cancel", {}).status == 202


@pytest.mark.parametrize("path, body, status", [
    ("{}/input", {"text": "x"}, 400), ("{}/input", {"data": 1}, 400), ("{}/input", [], 400), ("{}/input", {}, 400),
    ("{}/input", {"data": "x", "response": "a/b"}, 400), ("{}/input?device=a%20b", {"data": "x"}, 400),
    ("{}/input", {"data": "x" * 300_000}, 413), ("{}/input", None, 415),
    ("{}/responses/r/cancel", {"data": "x"}, 400), ("{}/responses/a%20b/cancel", {}, 400), ("a%20b/input", {"data": "x"}, 400),
])  # fmt: skip
def test_what_can_not_be_taken_says_what_to_mend(redis, gateway, session, path, body, status):
    say(gateway, path.format(session), body).problem(status)
    assert inbox(redis, session) == []


def test_only_post_says_what_people_want(gateway, session):
    for path in (f"{session}/input", f"{session}/responses/r/cancel"):
        answer = gateway.get(f"/v1/sessions/{path}")
        assert answer.status == 405 and "POST" in answer.headers["allow"]


# Which responses there are


def test_responses_are_listed_newest_first(redis, gateway, gateway2, session):
    assert gateway.get(f"/v1/sessions/{session}/responses").json == {"responses": []}
    redis.client.xadd(f"baton:{{{session}}}", {"data": "of nobody"})
    for name in ("r1", "r2", "r3"):
        upload(gateway, session, [*deltas(1, 2, response=name), *([{"response": name, "event": "end"}] if name == "r2" else [])])
    listed = gateway2.get(f"/v1/sessions/{session}/responses").json["responses"]
    last = {dict(fields).get(b"response"): id for id, fields in redis.stream(session)}
    assert [(one["response"], one["n"], one["state"], one["epoch"], one["offset"]) for one in listed] == [
        ("r3", 2, "open", 1, last[b"r3"]), ("r2", 2, "end", 1, last[b"r2"]), ("r1", 2, "open", 1, last[b"r1"])]  # fmt: skip
    answer = gateway.get(f"/v1/sessions/{session}/responses?state=open")
    assert [one["response"] for one in answer.json["responses"]] == ["r3", "r1"] and answer.headers["baton-session"] == session
    gateway.get(f"/v1/sessions/{session}/responses?state=running").problem(400)


def test_a_list_of_responses_is_bounded(redis, gateway, session):
    key = f"baton:{{{session}}}:producers"
    names = [f"r{number}" for number in range(12_000)]
    redis.client.hset(key, mapping={name: f"1 0 end - - {number}" for number, name in enumerate(names)})
    answer = gateway.get(f"/v1/sessions/{session}/responses").json
    assert len(answer["responses"]) == 1000 and answer["more"] is True


# Parts


def test_parts_over_http(redis, gateway, session, attach):
    device = attach(gateway, session).until_live()
    lines = [
        {"response": "r", "n": 1, "part": "reasoning:0", "data": "hm"},
        {"response": "r", "n": 2, "event": "tool", "part": "tool:c1", "more": True, "data": "{"},
        {"response": "r", "n": 3, "event": "tool", "part": "tool:c1", "data": "}"},
    ]
    assert upload(gateway, session, lines).status == 201
    assert post(gateway, session, {"data": "x", "part": "text:1", "more": False}).status == 201
    device.until(lambda device: len(device.entries) == 4, 20, "all parts")
    device.judge(redis.stream(session))
    assert [(frame["part"], frame.get("more")) for frame in device.entries] == [
        ("reasoning:0", None), ("tool:c1", True), ("tool:c1", None), ("text:1", None)]  # fmt: skip
    for wrong in ({"part": "text"}, {"part": 1}, {"more": 1}, {"fields": {"part": "a:b"}}, {"fields": {"more": "1"}}):
        post(gateway, session, {"data": "x", **wrong}).problem(400)
