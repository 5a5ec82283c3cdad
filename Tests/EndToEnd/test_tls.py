"""The listener's certificate: read again by SIGHUP, under attached devices."""

import http.client
import shutil
import signal
import socket
import ssl
import subprocess

import pytest
from support.process import wait_for
from support.servers import Gateway


def make(folder, name):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.pem"],
        check=True, capture_output=True, cwd=folder)  # fmt: skip


def put(folder, cert, key):
    for source, target in ((f"{cert}.pem", "cert"), (f"{key}.key", "key")):
        shutil.copy(folder / source, folder / target)


class Secure(Gateway):
    """Its readiness is asked for over TLS."""

    def _listening(self):
        return int(wait_for(lambda: "listening on https://" in self.process.logged() and self.process.logged().split("listening on https://127.0.0.1:")[1]
                            .split()[0], 20, "it says where it listens"))  # fmt: skip


@pytest.fixture
def gateway(tmp_path, redis, started):
    for name in ("old", "new"):
        make(tmp_path, name)
    put(tmp_path, "old", "old")
    started.append(Secure(tmp_path, redis.url, "gw-tls", "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key", ready=False))
    return started[-1]


def connect(gateway, trusts, **versions):
    """`trusts`: a file with whose certificates, or a context."""
    context = trusts if isinstance(trusts, ssl.SSLContext) else ssl.create_default_context(cafile=trusts)
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in versions.items():
        setattr(context, name, value)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", gateway.port), 10), server_hostname="127.0.0.1")


def is_ready(connection):
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status == 200


def test_a_new_certificate_for_new_connections(gateway, tmp_path):
    before = connect(gateway, tmp_path / "old.pem")
    assert is_ready(before) and before.selected_alpn_protocol() == "http/1.1"
    put(tmp_path, "new", "new")
    gateway.process.signal(signal.SIGHUP)
    wait_for(lambda: "the certificate was read again" in gateway.process.logged(), 10, "the certificate")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(gateway, tmp_path / "old.pem")
    assert is_ready(connect(gateway, tmp_path / "new.pem"))
    assert is_ready(before)


def test_files_that_do_not_fit_leave_the_old_one(gateway, tmp_path):
    put(tmp_path, "new", "old")
    gateway.process.signal(signal.SIGHUP)
    wait_for(lambda: "the certificate stays as it was" in gateway.process.logged(), 10, "a word")
    assert is_ready(connect(gateway, tmp_path / "old.pem"))


def test_it_speaks_http_1_1_alone(gateway, tmp_path):
    context = ssl.create_default_context(cafile=tmp_path / "old.pem")
    for offered, chosen in ((["h2"], None), (["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["http/1.0"], None)):
        context.set_alpn_protocols(offered)
        try:
            with context.wrap_socket(socket.create_connection(("127.0.0.1", gateway.port), 10), server_hostname="127.0.0.1") as connection:
                assert connection.selected_alpn_protocol() == chosen and is_ready(connection)
        except ssl.SSLError:
            # A server may refuse who offers nothing that it has (RFC 7301 section 3.2).
            assert chosen is None


def test_nothing_older_than_1_2(gateway, tmp_path):
    assert is_ready(connect(gateway, tmp_path / "old.pem", maximum_version=ssl.TLSVersion.TLSv1_2))
    with pytest.raises(ssl.SSLError):
        connect(gateway, tmp_path / "old.pem", minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
