"""Section 3: clients that prove by a certificate who they are, before any request."""

import http.client
import json
import shutil
import signal
import ssl
import subprocess
import time

import pytest
from support.process import BATON, wait_for
from support.servers import UPGRADE
from support.tokens import token
from test_tls import Secure, connect, is_ready

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two authorities; certificates of the first, of the second, of nobody, and one that has expired."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    for name in ("ours", "theirs"):
        openssl("req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl("req", "-x509", *KEY, "-days", "2", "-subj", "/CN=alone", "-keyout", "alone.key", "-out", "alone.pem")

    def sign(name, authority, usage, *times):
        (folder / f"{name}.ext").write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\nsubjectAltName=IP:127.0.0.1\n")
        openssl("req", *KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
                "-extfile", f"{name}.ext", *(times or ("-days", "2")), "-out", f"{name}.pem")  # fmt: skip

    sign("server", "ours", "serverAuth")
    sign("right", "ours", "clientAuth")
    sign("wrong", "theirs", "clientAuth")
    sign("expired", "ours", "clientAuth", "-days", "-1")
    sign("for-servers", "ours", "serverAuth")
    return folder


def start(folder, where, redis, *options):
    return Secure(where, redis.url, "gw-certificates", "--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key",
                  "--tls-client-ca", where / "ca.pem", *options, ready=False)  # fmt: skip


@pytest.fixture(scope="module", params=["require", "request"])
def gateway(request, folder, tmp_path_factory, redis):
    where = tmp_path_factory.mktemp(request.param)
    shutil.copy(folder / "ours.pem", where / "ca.pem")
    gateway = start(folder, where, redis, "--tls-client-auth", request.param)
    gateway.how, gateway.ca = request.param, where / "ca.pem"
    yield gateway
    gateway.kill()


def lets_in(gateway, folder, name):
    """Of TLS 1.3 the refusal comes after the client's half of the handshake."""
    context = ssl.create_default_context(cafile=folder / "ours.pem")
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    try:
        with connect(gateway, context) as connection:
            return is_ready(connection)
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.parametrize("name", ["right", "wrong", "expired", "alone", "for-servers", None])
def test_who_is_let_in(gateway, folder, name):
    assert lets_in(gateway, folder, name) == (name == "right" or name is None and gateway.how == "request")


def test_older_tls_and_other_clients(gateway, folder):
    context = ssl.create_default_context(cafile=folder / "ours.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "wrong.pem", folder / "wrong.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(gateway, context)

    def curl(*options):
        return subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", folder / "ours.pem", *options,
                               f"https://127.0.0.1:{gateway.port}/healthz"], capture_output=True, text=True, timeout=30).stdout  # fmt: skip

    assert curl("--cert", folder / "right.pem", "--key", folder / "right.key") == "200"
    assert curl("--cert", folder / "wrong.pem", "--key", folder / "wrong.key") == "000"
    assert curl() == ("200" if gateway.how == "request" else "000")
    told = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-CAfile", folder / "ours.pem"],
                          input="", capture_output=True, text=True, timeout=30).stdout  # fmt: skip
    assert "CN=ours" in told.partition("Acceptable client certificate CA names")[2].replace(" = ", "="), "it says whose it takes"


def test_another_authority_by_a_signal(gateway, folder):
    before = ssl.create_default_context(cafile=folder / "ours.pem")
    before.load_cert_chain(folder / "right.pem", folder / "right.key")
    with connect(gateway, before) as held:
        assert is_ready(held)

        def reload(source, words):
            told = gateway.process.logged().count(words)
            if source:
                shutil.copy(folder / source, gateway.ca)
            else:
                gateway.ca.write_text("nothing\n")
            gateway.process.signal(signal.SIGHUP)
            wait_for(lambda: gateway.process.logged().count(words) > told, 20, words)

        reload("theirs.pem", "the certificate was read again")
        assert lets_in(gateway, folder, "wrong") and not lets_in(gateway, folder, "right") and is_ready(held)
        reload(None, "the certificate stays as it was")
        assert lets_in(gateway, folder, "wrong")
        reload("ours.pem", "the certificate was read again")
        assert lets_in(gateway, folder, "right") and not lets_in(gateway, folder, "wrong")


def test_who_has_lost_a_certificate_is_shut_out_by_its_tokens(folder, tmp_path, redis, secret, session, started):
    """No list of revoked certificates is read: what the article says in its place."""
    shutil.copy(folder / "ours.pem", tmp_path / "ca.pem")
    gateway = start(folder, tmp_path, redis, "--auth-secret-file", secret)
    started.append(gateway)
    context = ssl.create_default_context(cafile=folder / "ours.pem")
    context.load_cert_chain(folder / "right.pem", folder / "right.key")
    ago = int(time.time()) - 60
    lost, other = (token(sub=f"{name}-{session}", iat=ago) for name in ("lost", "other"))

    def ask(value, method="GET", path=f"/v1/sessions/{session}", body=""):
        with connect(gateway, context) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {value}\r\nContent-Type: application/json\r\n"
                               f"Content-Length: {len(body)}\r\n\r\n{body}".encode())  # fmt: skip
            answer = http.client.HTTPResponse(connection, method=method)
            answer.begin()
            return answer.status

    with connect(gateway, context) as attached:
        upgrade = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        attached.sendall(f"GET /v1/sessions/{session}?token={lost} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n".encode())
        got = b""
        while b'"live"' not in got:
            got += attached.recv(4096)
        assert ask(lost) == ask(other) == 404
        operator = token(sub="operator", scope=["revoke"], iat=ago)
        assert ask(operator, "POST", "/v1/revocations", json.dumps({"subject": f"lost-{session}"})) == 204
        while part := attached.recv(4096):
            got += part
    assert int.from_bytes(got.rpartition(b"\x88")[2][1:3], "big") == 4401
    assert ask(lost) == 401 and ask(other) == 404


def test_refusals_are_told(gateway, folder):
    assert not lets_in(gateway, folder, "wrong")
    wait_for(lambda: "--tls-client-ca" in gateway.process.logged(), 20, "a line in the log")


def test_what_does_not_fit_together(folder, tmp_path, redis):
    def refused(*options):
        ended = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis.url, *options], capture_output=True, text=True, timeout=30)
        return ended.returncode == 78 and ended.stderr

    tls = ("--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key")
    assert "--tls-cert" in refused("--tls-client-ca", folder / "ours.pem")
    assert "--tls-client-ca" in refused(*tls, "--tls-client-ca", tmp_path / "absent.pem")
    (tmp_path / "empty.pem").write_text("")
    assert "--tls-client-ca" in refused(*tls, "--tls-client-ca", tmp_path / "empty.pem")
