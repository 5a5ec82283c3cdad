"""Section 11: the audit log, one line for each refusal and each administrative act; nobody waits for it."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest
from support.event_stream import EventStream
from support.process import BATON, wait_for
from support.servers import Gateway
from support.tokens import bearer, token

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory, redis, secret):
    folder = tmp_path_factory.mktemp("audit")
    gateway = Gateway(folder, redis.url, "gw-audit", "--auth-secret-file", secret, "--tenant-claim", "tenant", "--audit-log", folder / "audit.log",
                      "--trusted-proxies", "127.0.0.0/8", "--max-bytes-per-tenant", "64KiB")  # fmt: skip
    gateway.audit = folder / "audit.log"
    yield gateway
    gateway.kill()


def lines(gateway, **members):
    """Those that hold these members."""
    whole = gateway.audit.read_text().rpartition("\n")[0].splitlines()
    told = [json.loads(line) for line in whole]
    return [line for line in told if members.items() <= line.items()]


def of(**claims):
    return bearer(token(tenant="a", iat=int(time.time()) - 60, **claims))


def from_(address):
    return {"X-Forwarded-For": address}


def told(gateway, **members):
    return wait_for(lambda: lines(gateway, **members), 20, f"a line with {members}")[0]


def test_refusals(audited, session):
    path = f"/v1/sessions/{session}"
    audited.request("GET", path, headers=from_("198.51.100.1"))
    line = told(audited, address="198.51.100.1")
    assert line == {"time": line["time"], "node": "gw-audit", "event": "refused", "status": 401, "reason": "unauthenticated",
                    "address": "198.51.100.1", "session": session}  # fmt: skip
    audited.request("GET", f"{path}?token=a-token-of-nobody", headers={**bearer("a-secret.of.nobody"), **from_("2001:db8:1:2:3::4")})
    assert told(audited, address="2001:db8:1:2::/64")["status"] == 401
    narrow = {"sub": "ada", "sessions": ["other"], "scope": ["read", "publish"]}
    audited.request("GET", path, headers={**of(**narrow), **from_("198.51.100.2")})
    line = told(audited, address="198.51.100.2")
    assert (line["status"], line["reason"], line["tenant"], line["subject"]) == (403, "not-allowed", "a", "ada")
    audited.upgrade(path, {**of(**narrow), **from_("198.51.100.3")})
    assert told(audited, address="198.51.100.3", subject="ada")["status"] == 403
    body = json.dumps({"data": "what nobody else may read"})
    audited.request("POST", path, body, {**JSON, **of(sub="eve", scope=["read"]), **from_("198.51.100.4")})
    assert told(audited, address="198.51.100.4", subject="eve")["reason"] == "not-allowed"
    # What is merely wrong is nobody's business here.
    audited.request("GET", "/v1/sessions/a%20b", headers={**of(), **from_("198.51.100.5")})
    audited.request("GET", path, headers={**of(), **from_("198.51.100.5")})
    audited.request("GET", path, headers=from_("198.51.100.6"))
    told(audited, address="198.51.100.6")
    assert lines(audited, address="198.51.100.5") == []
    whole = audited.audit.read_text()
    for secret in ("a-token-of-nobody", "a-secret", "what nobody else", "eyJ", "Bearer"):
        assert secret not in whole


def test_a_quota_names_whose_it_is(audited, session):
    """The target has the session's own name; names of tenants may be the same."""
    tenant = f"q-{session}"
    headers = {**JSON, **bearer(token(tenant=tenant)), **from_("198.51.100.7")}
    statuses = [audited.request("POST", f"/v1/sessions/{session}", json.dumps({"data": "x" * 240_000}), headers).status for _ in range(4)]
    assert statuses[-1] == 429
    line = told(audited, address="198.51.100.7")
    assert (line["reason"], line["tenant"], line["session"]) == ("too-much-of-tenant", tenant, session)


def test_acts_and_who_is_sent_away(audited, redis, session, attach):
    redis.add(f"a/{session}", data="x")
    ada = of(sub=f"ada-{session}")
    device = attach(audited, session, headers={**ada, **from_("198.51.100.20")}).until_live()
    stream = EventStream(audited, session, headers=ada)
    operator = {**of(sub="operator", scope=["revoke", "delete"]), **from_("198.51.100.21"), **JSON}
    assert audited.request("POST", "/v1/revocations", json.dumps({"subject": f"ada-{session}"}), operator).status == 204
    line = told(audited, event="revoked", address="198.51.100.21")
    assert (line["what"], line["name"], line["subject"], line["tenant"]) == ("subject", f"ada-{session}", "operator", "a")
    assert float(line["until"]) > time.time()
    assert device.until_closed() == 4401
    stream.until_ended()
    wait_for(lambda: len(lines(audited, event="closed", code=4401, session=session, subject=f"ada-{session}")) == 2, 20, "both wires")
    assert lines(audited, event="closed", address="198.51.100.20", reason="the token was revoked")
    assert audited.request("DELETE", f"/v1/sessions/{session}", headers=operator).status == 204
    assert told(audited, event="deleted", session=session)["subject"] == "operator"


def test_devices_frames_that_are_refused(redis, secret, session, tmp_path, new_gateway, attach):
    gateway = new_gateway(redis.url, "gw-frames", "--auth-secret-file", secret, "--audit-log", tmp_path / "audit.log", "--max-messages-per-second", "1",
                          "--max-connections-per-address", "12")  # fmt: skip
    gateway.audit = tmp_path / "audit.log"
    reader = attach(gateway, session, headers=bearer(token(sub="eve", scope=["read"]))).until_live()
    reader.send({"type": "input", "key": "k", "data": "what nobody else may read"})
    reader.until_type("error")
    line = told(gateway, reason="forbidden")
    assert (line["event"], line["status"], line["session"], line["subject"]) == ("refused", 403, session, "eve")
    for n in range(12):
        reader.send({"type": "cancel", "key": f"k{n}", "response": "r"})
    assert told(gateway, reason="rate_limited")["status"] == 429
    device = attach(gateway, session, headers=bearer(token(sub="bob"))).until_live()
    device.socket.send("nonsense")
    assert device.until_closed() == 1008
    assert told(gateway, event="closed", code=1008)["subject"] == "bob"
    # Nobody has spoken yet: an address is all that is known.
    held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(20)]
    assert told(gateway, reason="too-many-connections")["address"] == "127.0.0.1"
    for one in held:
        one.close()
    assert "what nobody" not in gateway.audit.read_text()


def test_what_comes_again_and_again_is_counted(audited, session):
    for _ in range(60):
        audited.request("GET", f"/v1/sessions/{session}", headers=from_("198.51.100.40"))

    def counted():
        return sum(line.get("unlogged", 0) + (line["event"] == "refused") for line in lines(audited, address="198.51.100.40"))

    wait_for(lambda: counted() == 60, 60, "the rest")
    assert len(lines(audited, address="198.51.100.40")) < 12
    assert lines(audited, address="198.51.100.40", event="repeated")


def test_it_is_opened_again(audited, session):
    moved = audited.audit.with_suffix(".1")
    audited.audit.rename(moved)
    audited.process.signal(signal.SIGHUP)
    wait_for(lambda: audited.audit.exists() and lines(audited, event="keys-read"), 20, "the new file")
    before = moved.read_text()
    audited.request("GET", f"/v1/sessions/{session}", headers=from_("198.51.100.50"))
    told(audited, address="198.51.100.50")
    assert moved.read_text() == before and "198.51.100.50" not in before
    assert audited.audit.stat().st_mode & 0o007 == 0, "not for everybody"


def test_a_pipe_that_nobody_reads_holds_up_nobody(redis, secret, session, tmp_path, new_gateway):
    """It takes 64 KiB, and what is left waits in memory, up to a bound (unit tests have that)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    gateway = new_gateway(
        redis.url, "gw-pipe", "--auth-secret-file", secret, "--audit-log", pipe, "--trusted-proxies", "127.0.0.0/8", "--drain-delay", "0s")
    for n in range(500):
        answer = gateway.request("GET", f"/v1/sessions/{'x' * 128}", headers=from_(f"198.51.{n >> 8}.{n & 255}"))
        assert answer.status == 401
    assert gateway.metric("baton_audit_lines_dropped_total") == 0
    gateway.process.signal(signal.SIGTERM)
    assert gateway.process.wait(60) == 0


def test_a_reader_that_goes_away_holds_up_nobody(redis, secret, session, tmp_path):
    """Standard output, closed under it."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [BATON, "serve", "--listen", f"unix:{tmp_path}/socket", "--redis", redis.url, "--auth-secret-file", secret, "--audit-log", "-",
         "--drain-delay", "0s"],
        stdout=writing, stderr=subprocess.PIPE)  # fmt: skip
    os.close(writing)

    def ask():
        return subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", f"{tmp_path}/socket",
                               f"http://localhost/v1/sessions/{session}"], capture_output=True, text=True, timeout=30).stdout  # fmt: skip

    try:
        wait_for(lambda: os.path.exists(f"{tmp_path}/socket"), 20, "it listens")
        wait_for(lambda: ask() == "401", 20, "a refusal")
        line = json.loads(os.read(reading, 4096).splitlines()[0])
        assert (line["event"], line["status"]) == ("refused", 401) and "address" not in line
        os.close(reading)
        assert [ask() for _ in range(3)] == ["401"] * 3
    finally:
        process.terminate()
        process.wait(30)


def test_where_it_can_not_be_written(redis, secret, tmp_path):
    ended = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis.url, "--audit-log", tmp_path / "absent/audit.log"],
                           capture_output=True, text=True, timeout=30)  # fmt: skip
    assert ended.returncode == 78 and "--audit-log" in ended.stderr
