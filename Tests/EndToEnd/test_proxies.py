"""Deploy/haproxy and Deploy/nginx in front of gateways that die, drain, return and move."""

import http.client
import json
import ssl
import subprocess
import time

import pytest
from support.names import Names
from support.process import free_port, wait_for
from support.servers import UPGRADE, request

PROXIES = ["haproxy", "nginx"]


@pytest.fixture
def pair(redis, new_gateway):
    """Two gateways whose listeners can be started again on the same ports."""
    return [new_gateway(redis.url, f"gw-{n}", "--drain-delay", "1s", "--drain-time", "1s") for n in (1, 2)]


@pytest.mark.parametrize("kind", PROXIES)
def test_operators_paths_are_not_for_everybody(pair, new_proxy, session, kind):
    proxy = new_proxy(kind, pair)
    for path in ("/metrics", "/demo", "/demo.js", "/", "/dev/gateways"):
        assert request(proxy.port, "GET", path).status == 404, path
    for path in ("/healthz", "/readyz", "/baton.js", "/baton.d.ts", "/openapi.json", "/asyncapi.json"):
        assert request(proxy.port, "GET", path).status == 200, path


def test_haproxy_shows_the_demo_page_where_it_is_told_to(pair, new_proxy):
    proxy = new_proxy("haproxy", pair, env={"BATON_DEMO": "yes"})
    assert request(proxy.port, "GET", "/demo").status == 200
    assert request(proxy.port, "GET", "/metrics").status == 404


@pytest.mark.parametrize("kind", PROXIES)
def test_a_device_that_is_refused_takes_nobody_down(redis, new_gateway, new_proxy, session, attach, kind):
    full = [new_gateway(redis.url, f"gw-full-{n}", "--max-devices", "1") for n in (1, 2)]
    proxy = new_proxy(kind, full)
    for gateway in full:
        attach(gateway, session).until_live()
    redis.add(session, data="x")
    statuses = []
    for _ in range(6):
        statuses.append(request(proxy.port, "GET", f"/v1/sessions/{session}", headers=UPGRADE).status)
        statuses.append(request(proxy.port, "GET", f"/v1/sessions/{session}").status)
    assert statuses == [503, 200] * 6


@pytest.mark.parametrize("kind", PROXIES)
def test_a_gateway_that_returns_is_used_again_without_anybody_polling(redis, new_gateway, new_proxy, session, attach, kind):
    ports = [free_port(), free_port()]
    gateways = [new_gateway(redis.url, f"gw-back-{n}", listen=f"127.0.0.1:{port}") for n, port in enumerate(ports)]
    proxy = new_proxy(kind, gateways)
    devices = [attach(proxy.url, session, follow=True).until_live() for _ in range(6)]
    for turn, n in enumerate((0, 1, 0)):
        gateways[n].kill()
        id = redis.add(session, data=f"without {n} ")
        for device in devices:
            device.until_at(id, 15)
        gateways[n] = new_gateway(redis.url, f"gw-again-{turn}", listen=f"127.0.0.1:{ports[n]}")
    for device in devices:
        device.judge(redis.stream(session))
        assert device.resets == []


@pytest.mark.parametrize("kind", PROXIES)
def test_a_draining_gateway_lets_its_devices_go_itself(redis, pair, new_proxy, session, attach, kind):
    proxy = new_proxy(kind, pair)
    devices = [attach(proxy.url, session).until_live() for _ in range(8)]
    leaving = next(gateway for gateway in pair if gateway.metric("baton_devices"))
    count = leaving.metric("baton_devices")
    leaving.terminate()
    assert leaving.process.wait(30) == 0

    def told():
        return [device for device in devices if any(frame.get("type") == "draining" for frame in device.frames)]

    # The last ones may still be on their way through the proxy.
    wait_for(lambda: len(told()) >= count, 10, "they are told")
    assert len(told()) == count
    for device in told():
        assert device.until_closed() == 1001


@pytest.mark.parametrize("kind", PROXIES)
def test_tokens_are_not_written_down(pair, new_proxy, session, kind):
    proxy = new_proxy(kind, pair)
    for gateway in pair:
        gateway.kill()
    for _ in range(4):
        request(proxy.port, "GET", f"/v1/sessions/{session}?token=a-secret")
    request(proxy.port, "GET", "/nothing?token=a-secret")
    assert "a-secret" not in proxy.process.logged()


@pytest.mark.parametrize("kind", PROXIES)
def test_names_may_be_missing_and_move(redis, new_gateway, new_proxy, started, session, attach, kind):
    """Containers come back under new addresses; nobody starts the proxy again."""
    names = Names()
    started.append(names)
    port = free_port()
    first = new_gateway(redis.url, "gw-name-1", listen=f"127.0.0.2:{port}", ready=False)
    names["gw-1.test"] = "127.0.0.2"

    def edit(text):
        if kind == "nginx":
            return text.replace("resolver 127.0.0.11 ", f"resolver 127.0.0.1:{names.port} ")
        return text.replace("parse-resolv-conf", f"nameserver test 127.0.0.1:{names.port}")

    proxy = new_proxy(kind, [f"gw-1.test:{port}", f"gw-2.test:{port}"], edit=edit)
    for _ in range(10):
        assert request(proxy.port, "GET", "/healthz").status == 200
    second = new_gateway(redis.url, "gw-name-2", listen=f"127.0.0.3:{port}", ready=False)
    names["gw-2.test"] = "127.0.0.3"
    wait_for(lambda: is_used(proxy, second, "127.0.0.3"), 30, "the second one is found")
    first.kill()
    second.kill()
    moved = new_gateway(redis.url, "gw-name-3", listen=f"127.0.0.4:{port}", ready=False)
    names["gw-1.test"] = "127.0.0.4"
    del names["gw-2.test"]
    wait_for(lambda: request(proxy.port, "GET", "/readyz").status == 200, 30, "the moved one is found")
    device = attach(proxy.url, session).until_live()
    assert device.attached["node"] == moved.node


def is_used(proxy, gateway, host):
    """Whether a request through the proxy reaches it: each is counted as a refusal there."""
    def refusals():
        connection = http.client.HTTPConnection(host, gateway.port, timeout=10)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().count(b'reason="no-such-session"')

    request(proxy.port, "GET", "/v1/sessions/nobody")
    return refusals()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True)  # fmt: skip
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return folder


@pytest.mark.parametrize("kind", PROXIES)
def test_tls_as_the_files_show_it(redis, pair, new_proxy, session, certificate, kind):
    port = free_port()

    def edit(text):
        text = text.replace("#tls ", "")
        return (text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace("/etc/nginx/baton.crt", str(certificate / "cert.pem"))
                .replace("/etc/nginx/baton.key", str(certificate / "key.pem")))  # fmt: skip

    options = {} if kind == "nginx" else {
        "env": {"BATON_LISTEN_TLS": f"127.0.0.1:{port}", "BATON_CERTIFICATE": str(certificate / "both.pem")}}
    new_proxy(kind, pair, edit=edit, **options)
    trust = ssl.create_default_context(cafile=certificate / "cert.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=20)
    redis.add(session, data="x")
    connection.request("GET", f"/v1/sessions/{session}")
    assert json.load(connection.getresponse())["entries"][0]["data"] == "x"


@pytest.mark.parametrize("kind", PROXIES)
def test_a_silent_upload_passes(redis, pair, new_proxy, session, kind):
    """The files' times, each a hundred times shorter: silent for longer than devices may be."""
    proxy = new_proxy(kind, pair, edit=lambda text: text.replace("31m", "19s").replace("65s", "1s"))
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    connection.putrequest("POST", f"/v1/sessions/{session}?epoch=1")
    connection.putheader("Content-Type", "application/x-ndjson")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()

    def send(text):
        connection.send(f"{len(text):x}\r\n{text}\r\n".encode())

    send('{"response":"r","n":1,"data":"a"}\n')
    wait_for(lambda: redis.stream(session), 20, "the first line")
    time.sleep(3)
    send('{"response":"r","event":"end"}\n')
    connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status == 201
    assert len(redis.stream(session)) == 2
