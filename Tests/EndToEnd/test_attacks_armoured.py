"""What test_attacks.py is about, on a gateway with all that companies have: tenants with quotas, trusted proxies' PROXY headers, TLS with client
certificates, an audit log that nobody reads, and an app that takes no webhooks. The devices that must not notice are another tenant's."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading

import pytest
from support.process import wait_for
from support.servers import UPGRADE, key
from support.tokens import token
from support.webhooks import Receiver
from support.webhooks import secret as webhook_secret
from test_attacks import exceeded, raw_token, unnoticed
from test_client_certificates import folder  # noqa: F401
from test_proxy_protocol import SIGNATURE, TRUSTED, v1, v2
from test_tls import Secure

QUIET = "192.0.2.1"


class Armoured(Secure):
    """Reached as by a trusted proxy that speaks for `source`, with the certificate `name`."""

    def connect(self, source=QUIET, name="right", header=None):
        raw = socket.create_connection(("127.0.0.1", self.port), 20, source_address=(TRUSTED, 0))
        try:
            raw.sendall(v2(source) if header is None else header)
            return self.context(name).wrap_socket(raw, server_hostname="127.0.0.1")
        except BaseException:
            raw.close()
            raise

    def context(self, name):
        if name not in self.contexts:
            self.contexts[name] = ssl.create_default_context(cafile=self.folder / "ours.pem")
            if name:
                self.contexts[name].load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return self.contexts[name]

    def ask(self, method, path, body="", who=None, source=QUIET, connection=None, **headers):
        """The status, and the answer's body."""
        headers = {"Host": "localhost", **({"Authorization": f"Bearer {who}"} if who else {}), **headers, "Content-Length": len(body.encode())}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        own = None if connection else self.connect(source)
        try:
            (connection or own).sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}".encode())
            answer = http.client.HTTPResponse(connection or own, method=method)
            answer.begin()
            return answer.status, answer.read()
        finally:
            if own:
                own.close()

    def request(self, method, path, body=None, headers=None, seconds=20):
        """For the metrics."""
        status, body = self.ask(method, path, source="10.0.0.1")
        return type("Answer", (), {"status": status, "body": body})


class Neighbour:
    """A device of the tenant that is named before the session."""

    def __init__(self, gateway, name, headers=None):
        tenant, session = name.split("/")
        self.socket, self.got = gateway.connect(), b""
        upgrade = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        self.socket.sendall(f"GET /v1/sessions/{session}?token={token(tenant=tenant)} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n".encode())

    def until(self, text, seconds=20):
        self.socket.settimeout(seconds)
        try:
            while text not in self.got:
                part = self.socket.recv(65536)
                assert part, f"closed: {self.got[-300:]}"
                self.got = self.got[-4096:] + part
        except TimeoutError as late:
            raise AssertionError(f"{text} has not come within {seconds} s") from late
        return self

    def until_live(self):
        return self.until(b'"type":"live"')

    def until_at(self, id, seconds):
        return self.until(id.encode(), seconds)


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver(word := webhook_secret())
    receiver.secret = word
    receiver.held = threading.Event()
    yield receiver
    receiver.held.set()
    receiver.close()


@pytest.fixture(scope="module")
def target(folder, tmp_path_factory, new_redis_of_module, secret, receiver):  # noqa: F811
    where = tmp_path_factory.mktemp("armoured")
    os.mkfifo(where / "audit")
    gateway = Armoured(
        where, new_redis_of_module.url, "gw-armoured", "--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key", "--tls-client-ca",
        folder / "ours.pem", "--trusted-proxies", "127.0.0.64/26, 10.9.0.0/16", "--proxy-protocol", "--auth-secret-file", secret, "--tenant-claim", "tenant",
        "--max-devices-per-tenant", "20", "--max-entries-per-tenant", "50", "--max-bytes-per-tenant", "64KiB", "--max-sessions-per-tenant", "20",
        "--audit-log", where / "audit", "--webhook", receiver.url, "--header-timeout", "2s", "--max-auth-failures-per-address", "20",
        env={"BATON_WEBHOOK_SECRET": receiver.secret}, ready=False)  # fmt: skip
    gateway.folder, gateway.contexts = folder, {}
    wait_for(lambda: gateway.ask("GET", "/readyz")[0] == 200, 20, "it is ready")
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def new_redis_of_module(tmp_path_factory):
    """Webhooks of a Redis have one sender: not that of other tests."""
    from support.servers import Redis

    server = Redis(tmp_path_factory.mktemp("armoured-redis"))
    yield server
    server.kill()


@pytest.fixture
def peaceful(new_redis_of_module, target, session):
    """Within it, another tenant's devices get their entries."""
    made = []

    def attach(gateway, name, headers=None):
        made.append(Neighbour(gateway, name))
        return made[-1]

    yield lambda megabytes=64: unnoticed(new_redis_of_module, target, attach, f"quiet/{session}", megabytes)
    for one in made:
        one.socket.close()


def raw(gateway, data=b""):
    connection = socket.create_connection(("127.0.0.1", gateway.port), 20, source_address=(TRUSTED, 0))
    connection.sendall(data)
    return connection


def is_closed(connection, seconds=20):
    """Without an answer."""
    connection.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


HELLO = bytes.fromhex("16030100c8010000c40303") + b"\0" * 60


@pytest.mark.parametrize("data", [
    b"", v2()[:11], v2()[:-1], v1("198.51.100.7")[:-1], v1("198.51.100.7"), v2(), v2() + HELLO, v2() + HELLO[:3],
], ids=["nothing", "half a signature", "half an address", "half a line", "no TLS", "no TLS after v2", "half a hello", "three bytes of one"])  # fmt: skip
def test_half_of_what_comes_first(peaceful, target, data):
    with peaceful():
        held = [raw(target, data) for _ in range(100)]
        assert all(is_closed(connection) for connection in held)
        for connection in held:
            connection.close()


# Each with whether it is a header's fault; the others get as far as TLS.
ELSE = {
    "64 KiB of TLVs": (v2(tlvs=b"\xee\xff\xff" + b"x" * 65000), True), "4 KiB of TLVs": (v2(tlvs=b"x" * 4096), True),
    "64 KiB announced": (SIGNATURE + b"\x21\x11\xff\xff", True), "a TLV beyond the end": (v2(tlvs=b"\x20\xff\xff\x01"), False), "version 3": (v2(command=0x31), True),
    "plain HTTP": (v2() + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", False), "two headers": (v2() + v2(), False), "a long line": (b"PROXY TCP4 " + b"1" * 100, True),
    "two lines": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\nPROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", False),
    "a record of 64 KiB": (v2() + b"\x16\x03\x01\xff\xff" + b"x" * 20_000, False), "line ends": (b"\r\n\r\n" * 5000, True),
}  # fmt: skip


@pytest.mark.parametrize("data, is_header", ELSE.values(), ids=ELSE.keys())
def test_what_comes_first_and_is_something_else(peaceful, target, data, is_header):
    refused = lambda: target.metric("baton_http_refusals_total", reason="bad-proxy-header") or 0  # noqa: E731
    before = refused()
    with peaceful():
        held = [raw(target) for _ in range(50)]
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(data)
        for connection in held:
            connection.settimeout(20)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(4096):
                    got += part
            # Of TLS an alert at the most.
            assert got[:1] in (b"", b"\x15"), got
            connection.close()
    assert refused() - before == (50 if is_header else 0)


@pytest.mark.parametrize("name", [None, "wrong", "expired", "alone"])
def test_a_flood_of_handshakes(peaceful, target, name):
    with peaceful():
        for n in range(60):
            with contextlib.suppress(OSError), target.connect(f"198.51.{n}.7", name) as connection:
                # Of TLS 1.3 the refusal comes after the client's half of the handshake.
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(100) == b""


ODD = ["a/b", "a/", "/a", "..", ".", "a\0b", "a\nb", "a b", "{a}", "a}b", "a%2Fb", "é", "\u202ea", "a" * 129, "", " ", "*", 7, True, ["quiet"], {"a": 1}, None]


@pytest.mark.parametrize("claim", ODD, ids=repr)
def test_a_tenant_of_an_odd_name(peaceful, target, new_redis_of_module, session, claim):
    """Told before anything is looked at in Redis; on every wire."""
    who = raw_token({"sub": "eve", "exp": 4e9, "sessions": ["*"], "scope": ["read", "publish", "input", "cancel", "delete", "revoke"], "tenant": claim})
    before = new_redis_of_module.client.dbsize()
    for method, path, body, headers in [
        ("GET", f"/v1/sessions/{session}", "", {}), ("GET", f"/v1/sessions/{session}", "", {"Accept": "text/event-stream"}),
        ("GET", f"/v1/sessions/{session}", "", UPGRADE), ("POST", f"/v1/sessions/{session}", '{"data":"x"}', {"Content_Type": "application/json"}),
        ("DELETE", "/v1/sessions?prefix=", "", {}), ("POST", "/v1/revocations", '{"subject":"ada"}', {"Content_Type": "application/json"}),
    ]:  # fmt: skip
        assert target.ask(method, path, body, who, source=f"198.51.100.{ODD.index(claim)}", **headers)[0] == 401, (method, path)
    assert new_redis_of_module.client.dbsize() == before


def test_a_name_of_a_session_leads_nowhere(peaceful, target, new_redis_of_module, session):
    """Percent-encoded separators, NUL, dots and braces; raw, once and twice encoded."""
    new_redis_of_module.add(f"quiet/{session}", data="secret")
    who = token(tenant="greedy")
    with peaceful():
        for name in (f"quiet/{session}", f"quiet%2F{session}", f"quiet%2f{session}", f"quiet%252F{session}", f"..%2Fquiet%2F{session}", f"../quiet/{session}",
                     f"x%00/../quiet%2F{session}", f"quiet%00{session}", f"quiet%5C{session}", f"%7Bquiet%2F{session}%7D", f"quiet%C0%AF{session}",
                     f"quiet%EF%BC%8F{session}", f"./quiet%2F{session}", f"{session}%0d%0aX: y", f"quiet%2F{session}%3f", "*", "%2A"):  # fmt: skip
            for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/responses"), ("GET", "/responses/r/controls")):
                status, body = target.ask(method, f"/v1/sessions/{name}{more}", who=who)
                assert status in (400, 404) and b"secret" not in body, (method, name, more, status)
    assert new_redis_of_module.client.exists(key(f"quiet/{session}"))


def test_a_tenant_that_takes_all_that_it_may(peaceful, target, new_redis_of_module, session):
    """Entries, bytes, sessions and devices, from several connections at once: it is refused, and its neighbour is not."""
    statuses, over = [], threading.Event()

    def take(number):
        with target.connect(f"203.0.113.{number}") as connection:
            n = 0
            while not over.is_set():
                n += 1
                body = json.dumps({"data": "x" * (20_000 if number % 2 else 1)})
                name = f"{session}-{number}-{n}" if number % 3 else f"{session}-one"
                statuses.append(target.ask("POST", f"/v1/sessions/{name}", body, token(tenant="greedy"), connection=connection, Content_Type="application/json")[0])

    with peaceful(), contextlib.ExitStack() as devices:
        threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
        for one in threads:
            one.start()
        try:
            for n in range(20):
                device = Neighbour(target, f"greedy/{session}-{n}")
                devices.callback(device.socket.close)
                device.until_live()
            assert target.ask("GET", f"/v1/sessions/{session}?wait=5s", who=token(tenant="greedy"))[0] == 429
            for n in range(10):
                status, told = target.ask("POST", f"/v1/sessions/{session}-mine", '{"data":"x"}', token(tenant="quiet"), Content_Type="application/json")
                assert status == 201, told
            wait_for(lambda: statuses.count(429) > 50, 30, "it is refused")
        finally:
            over.set()
            for one in threads:
                one.join()
    assert set(statuses) == {201, 429}
    assert len(list(new_redis_of_module.client.scan_iter("baton:{greedy/*}", count=10_000))) <= 20
    exceeded(target, "max-devices-per-tenant", "max-sessions-per-tenant")


def test_refusals_that_nobody_reads(peaceful, target, session):
    """The audit log is a pipe: it takes 64 KiB, and memory holds 1 MiB behind it."""
    with peaceful():
        for n in range(1500):
            if n % 100 == 0:
                connection = target.connect("10.9.0.1")
            # Each from another address, as a proxy behind the proxy says.
            status, _ = target.ask("GET", f"/v1/sessions/{'x' * 128}", connection=connection, X_Forwarded_For=f"198.{n >> 8}.{n & 255}.1")
            assert status in (401, 429)
            if n % 100 == 99:
                connection.close()


def test_an_app_that_takes_no_webhook(peaceful, target, receiver, session):
    """What it is to be told waits in Redis, up to a bound; the tenant's answers go on."""
    with peaceful():
        for n in range(40):
            lines = f'{{"response":"r{n}","n":1,"data":"x"}}\n{{"response":"r{n}","event":"end"}}\n'
            status, told = target.ask("POST", f"/v1/sessions/{session}?epoch=1", lines, token(tenant=f"told-{session}"), Content_Type="application/x-ndjson")
            assert status == 201, told
        wait_for(lambda: receiver.open > 0, 20, "it is told, and says nothing")
        assert receiver.most <= 16
