"""Redis, gateways and proxies as real processes on free loopback ports."""

import contextlib
import http.client
import json
import re
import signal
import socket
import tempfile

import redis

from .process import BATON, REPOSITORY, Process, free_port, wait_for
from .versions import COUNTS_ENTRIES, SERVER, debugging


class Redis:
    """A private redis-server. `kill`, `start`, `pause` and `resume` act on the process; its port stays the same."""

    server = SERVER

    def __init__(self, folder, name="redis", *options, environment=None, port=None):
        self.folder, self.name, self.options, self.environment = folder, name, options, environment
        self.data = tempfile.mkdtemp(prefix=f"{name}-", dir=folder)
        self.port = port or free_port()
        self.process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        self.process = Process(self.folder, self.name, [
            self.server, "--bind", "127.0.0.1", "--port", self.port, "--dir", self.data, "--save", "",
            *debugging(), "--repl-diskless-sync-delay", "0",
            # Redis 6 takes each word as an argument of its own.
            *(word for option in self.options for word in str(option).split(" ")),
        ], self.environment)  # fmt: skip
        self.client = redis.Redis(port=self.port, protocol=2, socket_timeout=30)
        wait_for(self._answers, 20, f"{self.name} answers")

    def _answers(self):
        assert self.process.alive, f"{self.name} ended: {self.process.logged()[-500:]}"
        try:
            return self.client.ping()
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False

    def kill(self):
        self.process.kill()

    def pause(self):
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        self.process.signal(signal.SIGCONT)

    def raw(self, *command):
        """A reply as it is, without redis-py's view of it (which loses repeated field names)."""
        connection = self.client.connection_pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            self.client.connection_pool.release(connection)

    def add(self, session, *fields, id="*", alone=False, **named):
        """XADD of alternating names and values, then `named` ones, and what `after` says unless they are to be `alone`. Returns
        the id as text."""
        pairs = [*fields, *(part for pair in (named | ({} if alone else self.after(session))).items() for part in pair)]
        return self.raw("XADD", key(session), id, *pairs).decode()

    def after(self, session):
        """What a producer says with the first entry of a stream that holds none, where entries are not counted."""
        if COUNTS_ENTRIES or self.client.type(key(session)) not in (b"none", b"stream") or self.client.xlen(key(session)):
            return {}
        exists = self.client.exists(key(session))
        return {"_after": self.client.xinfo_stream(key(session))["last-generated-id"] if exists else "0-0"}

    def add_tokens(self, session, texts, response=None, start=1):
        """One pipeline of deltas, numbered if they belong to a `response`."""
        pipeline, after = self.client.pipeline(transaction=False), self.after(session)
        for n, text in enumerate(texts, start):
            fields = {"data": text} if response is None else {"data": text, "response": response, "n": n}
            pipeline.xadd(key(session), fields | (after if n == start else {}))
        return [id.decode() for id in pipeline.execute()]

    def stream(self, session, first="-", last="+"):
        """The stream's entries: a list of `(id, [(name, value), …])`, names and values as bytes."""
        return [
            (id.decode(), list(zip(fields[::2], fields[1::2])))
            for id, fields in self.raw("XRANGE", key(session), first, last)
        ]

    def calls(self, *commands):
        """How often these commands were called since the server started."""
        stats = self.client.info("commandstats")
        return sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in commands)


def key(session):
    return f"baton:{{{session}}}"


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    def problem(self, status):
        """This refusal as RFC 9457 has it, with `status`; its JSON."""
        assert self.status == status, f"{self.status} {self.body[:300]!r}, expected {status}"
        assert self.headers["content-type"].startswith("application/problem+json"), self.headers
        told = self.json
        assert told["type"] and told["detail"], told
        assert told.get("status", status) == status, told
        return told


def request(port, method, path, body=None, headers=None, seconds=20):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        # A server may refuse a body before it has come whole.
        with contextlib.suppress(BrokenPipeError):
            connection.request(method, path, body=body, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Gateway:
    """`baton serve`, ready when the constructor returns (unless `ready=False`). `within` is a command that runs another."""

    def __init__(self, folder, redis_url, node, *options, env=None, ready=True, listen="127.0.0.1:0", within=()):
        self.node = node
        self.process = Process(
            folder, node, [*within, BATON, "serve", "--listen", listen, "--redis", redis_url, "--node", node, *options], env)
        self.port = self._listening()
        if ready:
            wait_for(lambda: self.get("/readyz").status == 200, 20, f"{node} is ready")

    def _listening(self):
        def line():
            told = re.search(r"listening on http://\S+:(\d+)", self.process.logged())
            assert told or self.process.alive, f"{self.node} ended: {self.process.logged()[-2000:]}"
            return told

        return int(wait_for(line, 20, f"{self.node} says where it listens")[1])

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"http://{self.address}"

    def request(self, method, path, body=None, headers=None, seconds=20):
        return request(self.port, method, path, body, headers, seconds)

    def get(self, path, **headers):
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def upgrade(self, path, headers=None):
        """The answer to a WebSocket upgrade as plain HTTP: for refusals."""
        return self.request("GET", path, headers={**UPGRADE, **(headers or {})})

    def history(self, session, query=""):
        return self.get(f"/v1/sessions/{session}{query}")

    def metric(self, name, **labels):
        """The sum of a metric's samples that carry `labels`; None where there is no such metric."""
        total = None
        for line in self.get("/metrics").body.decode().splitlines():
            told = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", line)
            if told and told[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', told[2] or ""))
                if all(has.get(label) == value for label, value in labels.items()):
                    total = (total or 0) + float(told[3])
        return total

    def kill(self):
        self.process.kill()

    def terminate(self):
        self.process.signal(signal.SIGTERM)


@contextlib.contextmanager
def gateways(folder, redis, name, *options, count=2, env=None):
    """So many with the same options, until they are needed no more."""
    started = [Gateway(folder, redis.url, f"{name}-{number}", *options, env=env) for number in range(count)]
    try:
        yield started
    finally:
        for one in started:
            one.kill()


class HAProxy:
    """HAProxy with the file in Deploy. `gateways` are addresses, or what has one; `edit` changes the file's text."""

    def __init__(self, folder, gateways, edit=lambda text: text, env=None, ready=True):
        self.port = free_port()
        first, second = map(_address, gateways)
        path = f"{tempfile.mkdtemp(prefix='haproxy-', dir=folder)}/haproxy.cfg"
        with open(path, "w") as out:
            out.write(edit((REPOSITORY / "Deploy/haproxy/haproxy.cfg").read_text()))
        self.process = Process(folder, "haproxy", ["haproxy", "-f", path], {
            "BATON_LISTEN": self.address, "BATON_GATEWAY_1": first, "BATON_GATEWAY_2": second, **(env or {})})
        if ready:
            wait_for(self._both_up, 20, "HAProxy has a ready gateway")

    def _both_up(self):
        assert self.process.alive, self.process.logged()
        return _ready(self.port)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"http://{self.address}"

    def kill(self):
        self.process.kill()


class Nginx:
    """nginx with the file in Deploy, its three variables filled in. `gateways` and `edit` are as for HAProxy."""

    def __init__(self, folder, gateways, edit=lambda text: text, ready=True):
        self.port = free_port()
        values = {"LISTEN": self.address, "GATEWAY_1": _address(gateways[0]), "GATEWAY_2": _address(gateways[1])}
        template = edit((REPOSITORY / "Deploy/nginx/baton.conf.template").read_text())
        filled = re.sub(r"\$\{BATON_(\w+)\}", lambda variable: values[variable[1]], template)
        data = tempfile.mkdtemp(prefix="nginx-", dir=folder)
        with open(f"{data}/baton.conf", "w") as out:
            out.write(filled)
        with open(f"{data}/nginx.conf", "w") as out:
            temporary = "".join(
                f"  {kind}_temp_path {data}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            out.write(f"pid {data}/pid;\nerror_log stderr;\nworker_rlimit_nofile 8192;\nevents {{ worker_connections 2048; }}\n"
                      f"http {{\n{temporary}  include {data}/baton.conf;\n}}\n")  # fmt: skip
        self.process = Process(
            folder, "nginx", ["nginx", "-c", f"{data}/nginx.conf", "-p", data, "-g", "daemon off; master_process off;"])
        if ready:
            wait_for(lambda: _ready(self.port), 20, "nginx has a ready gateway")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"http://{self.address}"

    def kill(self):
        self.process.kill()


def _address(gateway):
    return gateway if isinstance(gateway, str) else gateway.address


def _ready(port):
    try:
        return request(port, "GET", "/readyz", seconds=5).status == 200
    except (OSError, http.client.HTTPException, socket.timeout):
        return False
