"""Section 3: trusted proxies say whose connection each is, by the PROXY protocol; nobody else is believed."""

import contextlib
import http.client
import socket
import ssl
import struct
import subprocess
import tempfile

import pytest
from support.process import BATON, Process, free_port, wait_for
from support.servers import UPGRADE, Gateway
from support.tokens import SECRET, token
from test_tls import make

# Of the trusted network, of nobody, and of the public internet.
TRUSTED, STRANGER, PUBLIC, PUBLIC6 = "127.0.0.65", "127.0.0.1", "198.51.100.7", "2001:db8::7"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, redis):
    folder = tmp_path_factory.mktemp("proxied")
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    gateway = Gateway(
        folder, redis.url, "gw-proxied", "--trusted-proxies", "127.0.0.64/26, 10.0.0.0/8", "--proxy-protocol",
        "--max-connections-per-address", "3", "--header-timeout", "2s", "--auth-secret-file", secret, "--max-auth-failures-per-address", "3")  # fmt: skip
    yield gateway
    gateway.kill()


def v1(source, kind="TCP4", target=None):
    return f"PROXY {kind} {source} {target or ('::1' if kind == 'TCP6' else '127.0.0.1')} 4711 443\r\n".encode()


def v2(source=PUBLIC, command=0x21, family=None, tlvs=b"", body=None):
    packed = socket.inet_pton(socket.AF_INET6 if ":" in source else socket.AF_INET, source)
    family = family if family is not None else 0x21 if ":" in source else 0x11
    body = (packed * 2 + struct.pack("!HH", 4711, 443) if body is None else body) + tlvs
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(body)) + body


def connect(gateway, source=TRUSTED):
    return socket.create_connection(("127.0.0.1", gateway.port), 20, source_address=(source, 0))


def ask(connection, header=b"", path="/metrics", more=""):
    """The status; None where the connection is closed without an answer. /metrics is for private addresses."""
    try:
        connection.sendall(header + f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
    except (ConnectionError, http.client.BadStatusLine):
        return None
    return answer.status


@pytest.mark.parametrize(
    "header, status",
    [
        (v1(PUBLIC), 403), (v1("10.1.2.3"), 200), (v1(PUBLIC6, "TCP6"), 403), (v1("::1", "TCP6"), 200), (b"PROXY UNKNOWN\r\n", 200),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", 200),
        (v2(), 403), (v2("10.1.2.3"), 200), (v2(PUBLIC6), 403), (v2("::1"), 200), (v2("::ffff:198.51.100.7"), 403),
        (v2(command=0x20), 200), (v2(command=0x20, family=0, body=b""), 200), (v2(family=0, body=b""), 200),
        (v2(tlvs=b"\x04\x00\x03abc" + b"\xEE\x01\x00" + b"x" * 256), 403), (v2(family=0x31, body=b"/x".ljust(216, b"\0")), 200),
    ],
)  # fmt: skip
def test_a_header_says_whose_it_is(gateway, header, status):
    with connect(gateway) as connection:
        assert ask(connection, header) == status
        # It holds for the connection.
        assert ask(connection) == status


@pytest.mark.parametrize(
    "header",
    [
        b"", b"PROXY", b"PROXY TCP4 1.2.3.4 127.0.0.1 1\r\n", b"PROXY TCP4 1.2.3.4 127.0.0.1 1 70000\r\n", v1(PUBLIC6), v1(PUBLIC, "TCP6"),
        v1("nobody"), b"PROXY TCP4 1.2.3.4 127.0.0.1 1 2\n", b"PROXY " + b"x" * 200, b"proxy TCP4 1.2.3.4 127.0.0.1 1 2\r\n",
        v2(command=0x11), v2(command=0x22), v2(family=0x41), v2(body=b"\1\2\3"), v2(tlvs=b"x" * 5000), SIGNATURE[:-1] + b"X" + v2()[12:],
        b" " + v1(PUBLIC), b"\r\n" + v1(PUBLIC),
    ],
)  # fmt: skip
def test_what_is_none_is_closed_without_an_answer(gateway, header):
    before = gateway.metric("baton_http_refusals_total", reason="bad-proxy-header") or 0
    with connect(gateway) as connection:
        assert ask(connection, header) is None
    assert gateway.metric("baton_http_refusals_total", reason="bad-proxy-header") == before + 1


@pytest.mark.parametrize("header", [v1("10.1.2.3"), v2("10.1.2.3")])
def test_from_anybody_else_it_is_no_request(gateway, header):
    with connect(gateway, STRANGER) as connection:
        assert ask(connection, header) in (400, None)
    with connect(gateway, STRANGER) as connection:
        assert ask(connection) == 200, "who is no proxy speaks HTTP as ever"


@pytest.mark.parametrize("header", [v1(PUBLIC), v2()])
def test_byte_by_byte(gateway, header):
    with connect(gateway) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header:
            connection.sendall(bytes([byte]))
        assert ask(connection) == 403


def test_it_has_to_come_within_the_header_timeout(gateway):
    with connect(gateway) as connection:
        connection.sendall(v2()[:-1])
        assert connection.recv(1) == b""


def test_it_may_name_a_proxy_that_says_more(gateway):
    """Guesses are counted by who makes them."""
    def guess(source, more=""):
        with connect(gateway) as connection:
            return ask(connection, v1(source), "/v1/sessions/x", f"Authorization: Bearer a.b.c\r\n{more}")

    behind = "X-Forwarded-For: 198.51.100.99\r\n"
    wait_for(lambda: guess("10.0.0.5", behind) == 429, 20, "too many guesses")
    assert guess("198.51.100.99") == 429
    # Who is not trusted says nothing about others.
    assert guess("192.0.2.5", behind) == 401 and guess("10.0.0.5") == 401


def test_a_network_of_ipv6_is_one_address(gateway):
    """A host has 2^64 of them (RFC 4291 section 2.5.1); another network is not blamed for it."""
    def guess(source):
        with connect(gateway) as connection:
            return ask(connection, v2(source), "/v1/sessions/x", "Authorization: Bearer a.b.c\r\n")

    for n in range(3):
        assert guess(f"2001:db8:0:64:{n}::{n}") == 401
    assert guess("2001:db8:0:64:ffff:ffff:ffff:ffff") == 429 and guess("2001:db8:0:65::1") == 401
    held = [connect(gateway) for _ in range(3)]
    assert [ask(connection, v2(f"2001:db8:0:66::{n}")) for n, connection in enumerate(held)] == [403] * 3
    with connect(gateway) as connection:
        assert ask(connection, v2("2001:db8:0:66::9")) is None
    for connection in held:
        connection.close()


def test_connections_are_counted_by_the_client(gateway):
    held = [connect(gateway) for _ in range(3)]
    assert [ask(connection, v1(PUBLIC)) for connection in held] == [403] * 3
    with connect(gateway) as connection:
        assert ask(connection, v1(PUBLIC)) is None
    with connect(gateway) as connection:
        assert ask(connection, v1("198.51.100.8")) == 403
    assert gateway.metric("baton_limits_exceeded_total", limit="max-connections-per-address") >= 1
    held[0].close()

    def again():
        with connect(gateway) as connection:
            return ask(connection, v1(PUBLIC)) == 403

    wait_for(again, 20, "the place is given back")
    for connection in held:
        connection.close()


class HAProxy:
    """In front of a gateway, from a trusted address. It believes headers itself, so that a test can say who the client is."""

    def __init__(self, gateway, how, mode, server=""):
        folder = tempfile.mkdtemp(prefix="haproxy-")
        self.port = free_port()
        with open(f"{folder}/haproxy.cfg", "w") as out:
            out.write(f"""
defaults
  mode {mode}
  timeout connect 5s
  timeout check 20s
  timeout client 60s
  timeout server 60s
listen devices
  bind 127.0.0.1:{self.port} accept-proxy
  option httpchk GET /readyz
  source {TRUSTED}
  server gw 127.0.0.1:{gateway.port} {how} check inter 100ms fall 1000 {server}
""")
        self.process = Process(folder, "haproxy", ["haproxy", "-f", f"{folder}/haproxy.cfg"])

    def kill(self):
        self.process.kill()


@pytest.mark.parametrize("mode", ["http", "tcp"])
@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_behind_haproxy(gateway, redis, session, started, how, mode):
    proxy = HAProxy(gateway, how, mode)
    started.append(proxy)

    def through(source, path):
        with socket.create_connection(("127.0.0.1", proxy.port), 20) as connection:
            return ask(connection, v1(source, "TCP6" if ":" in source else "TCP4"), path)

    def is_up():
        with contextlib.suppress(ConnectionRefusedError):
            return through("10.1.2.3", "/readyz") == 200

    wait_for(is_up, 20, "HAProxy finds it ready: its own checks have a header, too")
    assert [through(source, "/metrics") for source in (PUBLIC, PUBLIC6, "10.1.2.3", "::1")] == [403, 403, 200, 200]
    id = redis.add(session, data="x")
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as connection:
        headers = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        connection.sendall(v1(PUBLIC) + f"GET /v1/sessions/{session}?token={token()} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        read = b""
        while id.encode() not in read:
            read += connection.recv(65536)
        assert read.startswith(b"HTTP/1.1 101")


@pytest.fixture(scope="module")
def secure(tmp_path_factory, redis):
    folder = tmp_path_factory.mktemp("secure")
    make(folder, "mine")
    port = free_port()
    process = Process(folder, "gw-secure", [
        BATON, "serve", "--listen", f"127.0.0.1:{port}", "--redis", redis.url, "--trusted-proxies", "127.0.0.64/26", "--proxy-protocol",
        "--tls-cert", folder / "mine.pem", "--tls-key", folder / "mine.key"])  # fmt: skip
    wait_for(lambda: "listening on" in process.logged(), 20, "it listens")
    process.port, process.cert = port, folder / "mine.pem"
    yield process
    process.kill()


@pytest.mark.parametrize("header", [v1(PUBLIC), v2()])
def test_before_tls(secure, header):
    """In the same packet as the beginning of the handshake, and alone."""
    context = ssl.create_default_context(cafile=secure.cert)
    raw = socket.create_connection(("127.0.0.1", secure.port), 20, source_address=(TRUSTED, 0))
    raw.sendall(header)
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
        assert ask(connection) == 403
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection(("127.0.0.1", secure.port), 20, source_address=(TRUSTED, 0)) as raw:
        raw.sendall(header + outgoing.read())
        assert raw.recv(1) == b"\x16", "the handshake goes on"
    with socket.create_connection(("127.0.0.1", secure.port), 20, source_address=(TRUSTED, 0)) as raw, pytest.raises(OSError):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_it_needs_somebody_to_believe(redis):
    ended = subprocess.run([BATON, "serve", "--redis", redis.url, "--proxy-protocol"], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 78 and "--trusted-proxies" in ended.stderr


def test_it_is_refused_where_it_would_not_be_read(redis, tmp_path):
    options = ["--listen", f"unix:{tmp_path}/gw.sock", "--trusted-proxies", TRUSTED, "--proxy-protocol"]
    ended = subprocess.run([BATON, "serve", "--redis", redis.url, *options], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 78 and "--listen" in ended.stderr
