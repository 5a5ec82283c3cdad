"""Gateway and producers over every kind of address that leads to a Redis: TLS with client certificates, another database, a socket, a
name that leads elsewhere one day."""

import contextlib
import os
import subprocess

import pytest
import redis
from baton_stream.sync import Producer
from support.process import BATON, Process, wait_for
from support.servers import Gateway, Redis, key
from support.topology import Cluster, Sentinel
from support.versions import SERVER

# The packages of other versions bring servers without TLS.
TLS_SERVER = "redis-server"


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A folder with an authority, and a certificate for servers and clients."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-x509", *key, "-subj", "/CN=baton", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-CA", "ca.pem",
            "-CAkey", "ca.key", "-keyout", "key.pem", "-out", "cert.pem")  # fmt: skip
    return folder


class Alone(Redis):
    server = TLS_SERVER

    def __init__(self, folder, tls):
        self.tls = tls
        super().__init__(
            folder, "redis-tls", "--port", "0", "--tls-port", "TLS", "--tls-ca-cert-file", tls / "ca.pem", "--tls-cert-file",
            tls / "cert.pem", "--tls-key-file", tls / "key.pem", "--unixsocket", f"{folder}/redis.sock")  # fmt: skip

    def start(self):
        self.options = [self.port if option == "TLS" else option for option in self.options]
        super().start()

    def _answers(self):
        return os.path.exists(f"{self.folder}/redis.sock")

    @property
    def url(self):
        query = f"cacert={self.tls}/ca.pem&cert={self.tls}/cert.pem&key={self.tls}/key.pem"
        return f"rediss://127.0.0.1:{self.port}/3?{query}"

    close = Redis.kill


@pytest.fixture
def address(request, tmp_path, tls):
    kind = request.param
    if kind == "rediss+sentinel":
        place = Sentinel(tmp_path, tls=tls, REDIS_SERVER=TLS_SERVER)
    elif kind == "rediss+cluster":
        place = Cluster(tmp_path, tls=tls, REDIS_SERVER=TLS_SERVER)
    else:
        place = Alone(tmp_path, tls)
    yield f"unix://{tmp_path}/redis.sock?db=3" if kind == "unix" else place.url
    place.close()


@pytest.mark.parametrize("address", ["rediss", "rediss+sentinel", "rediss+cluster", "unix"], indirect=True)
def test_gateway_and_producers(address, tmp_path, started, session, attach):
    gateways = [Gateway(tmp_path, address, f"gw-{number}") for number in (1, 2)]
    started += gateways
    device = attach(gateways[0], session, offset=0)
    done = subprocess.run(
        [BATON, "publish", "--redis", address, session], input="one two\n", capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Producer(address, session, "r") as answer:
        answer.delta("three ")
        answer.delta("four")
    device.until(lambda device: device.view.text.endswith("four"), 20, "all of it")
    assert device.view.text == "one two\nthree four"
    assert gateways[1].history(session).json["last"] == device.view.offset
    checked = subprocess.run([BATON, "serve", "--check", "--redis", address], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    for gateway in gateways:
        told = [line for line in gateway.process.logged().splitlines() if "warning" in line]
        assert [line for line in told if "holds credentials" not in line] == []


def test_without_a_certificate_the_reason_is_told(tmp_path, tls, started):
    server = Alone(tmp_path, tls)
    started.append(server)
    gateway = Gateway(tmp_path, server.url.partition("&cert")[0], "gw-1", ready=False)
    started.append(gateway)
    wait_for(lambda: "certificate" in gateway.get("/readyz").body.decode().lower(), 20, "/readyz says why")


def serves(client):
    with contextlib.suppress(redis.RedisError):
        return client.ping()


def test_a_name_that_leads_elsewhere_is_followed(tmp_path, new_redis, started, session, attach):
    """Managed Redis: the address is a name, and one day it leads to another master, while the old one goes on."""
    old = new_redis()
    names = tmp_path / "hosts"
    names.write_text("127.0.0.1 managed.test\n")
    mine = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', names]
    gateway = Gateway(tmp_path, f"redis://managed.test:{old.port}", "gw-1", within=mine)
    started.append(gateway)
    device = attach(gateway, session)
    device.until_at(old.add(session, data="one "))
    new = Process(tmp_path, "new", [SERVER, "--bind", "127.0.0.2", "--protected-mode", "no", "--port", old.port, "--dir", tmp_path,
                                    "--save", "", "--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", old.port])  # fmt: skip
    started.append(new)
    client = redis.Redis("127.0.0.2", old.port, protocol=2)
    wait_for(lambda: serves(client) and client.xlen(key(session)) == 1, 20, "a replica with all of it")
    client.replicaof("NO", "ONE")
    names.write_text("127.0.0.2 managed.test\n")
    last = client.xadd(key(session), {"data": "two"}).decode()
    device.until_at(last, 30)
    assert device.view.text == "one two" and device.view.resets == []
