"""Sentinel and Cluster as real processes, started by the scripts in `Deploy/redis` on free loopback ports."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import time

import redis

from .process import REPOSITORY, Process, wait_for
from .servers import key
from .versions import SERVER, debugging

FAILED = (redis.RedisError, OSError)


def free_ports(count, bus):
    """The first of `count` ports in a row that nobody listens on, nor, with `bus`, 10,000 further on."""
    while True:
        # Below those that systems give to outgoing connections, the cluster's bus among them.
        first = random.randrange(20000, 22700, 20)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(first, first + count):
                for number in (port, port + 10000)[: 1 + bus]:
                    probe = held.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", number))
            return first


ARTICLE = (REPOSITORY / "Sources/BatonGateway/BatonGateway.docc/ChoosingARedis.md").read_text()


class Deployment:
    """Servers by their ports. Those of `self.ports` are Redis servers."""

    def __init__(self, script, folder, ports, bus=False, hosts=None, tls=None, **environment):
        assert re.search(rf"^Deploy/redis/{script} \S+ \d+$", ARTICLE, re.MULTILINE), "as the article starts it"
        self.first = free_ports(ports, bus)
        self.folder = pathlib.Path(folder) / script
        self.hosts, self.tls = hosts, tls
        if hosts:
            environment |= {"HOSTS": " ".join(hosts.addresses), "REDIS_SERVER": hosts.server}
        if tls:
            environment |= {"TLS": str(tls)}
        self.script = Process(folder, script, [REPOSITORY / "Deploy/redis" / script, self.folder, self.first], environment)
        self.restarted = {}

        def line():
            told = re.search(r"^rediss?\+\w+://\S+$", self.script.logged(), re.MULTILINE)
            assert told or self.script.alive, self.script.logged()[-1000:]
            return told

        self.url = wait_for(line, 60, f"{script} is ready")[0]

    def close(self):
        """Ends all of them, and sees that they have ended: nothing of a test is to be there in the next."""
        pids = [int(file.read_text()) for file in self.folder.glob("*.pid")]
        self.script.signal(signal.SIGTERM)
        self.script.wait(30)
        for process in self.restarted.values():
            process.kill()
        if self.hosts:
            self.hosts.close()
        assert not (left := [pid for pid in pids if alive(pid)]), left

    def host(self, port):
        """The address of the server at this port."""
        return self.hosts.addresses[self.number(port)] if self.hosts else "127.0.0.1"

    def number(self, port):
        """Which host it is on."""
        return (port - self.first) % 10

    def client(self, port, **options):
        if self.tls:
            options |= {"ssl": True, "ssl_ca_certs": self.tls / "ca.pem", "ssl_certfile": self.tls / "cert.pem",
                        "ssl_keyfile": self.tls / "key.pem"}  # fmt: skip
        return redis.Redis(self.host(port), port, protocol=2, socket_timeout=3, socket_connect_timeout=1, **options)

    def ask(self, port, *command):
        """The reply; None where the server does not answer, or refuses."""
        with contextlib.suppress(*FAILED):
            connection = self.client(port).connection_pool.get_connection()
            try:
                connection.send_command(*command)
                return connection.read_response()
            finally:
                connection.disconnect()
        return None

    def pid(self, port):
        return int((self.folder / f"{port}.pid").read_text())

    def signal(self, port, number):
        os.kill(self.pid(port), number)

    def cut(self, port):
        """No other server's word reaches this one, nor its word them; clients go on as if nothing had happened."""
        self.hosts.cut(self.number(port))

    def heal(self, port):
        self.hosts.heal(self.number(port))

    def stop(self, port):
        self.signal(port, signal.SIGSTOP)

    def cont(self, port):
        self.signal(port, signal.SIGCONT)

    def kill(self, port):
        """SIGKILL; `restart` starts it again as it was."""
        pid = self.pid(port)
        os.kill(pid, signal.SIGKILL)
        if port in self.restarted:
            self.restarted.pop(port).kill()
        wait_for(lambda: not alive(pid), 10, f"{port} is gone")

    def restart(self, port, *options):
        self.restarted[port] = Process(self.folder, f"{port}-again", [*self.arguments(port), *options])
        (self.folder / f"{port}.pid").write_text(str(self.restarted[port].pid))
        wait_for(lambda: self.ask(port, "PING"), 20, f"{port} answers")

    def arguments(self, port):
        server = self.hosts.server if self.hosts else SERVER
        return [server, "--bind", self.host(port), "--protected-mode", "no", "--port", port, "--dir", self.folder / str(port),
                "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", *debugging()]  # fmt: skip

    def role(self, port):
        """`master`, `slave` or None."""
        told = self.ask(port, "ROLE")
        return told and told[0].decode()

    def connections(self, port, begins="baton-"):
        """Gateways' connections to this server."""
        told = self.ask(port, "CLIENT", "LIST") or b""
        return len(re.findall(rf"name={begins}", told.decode()))

    def stream(self, session, port):
        return [
            (id.decode(), list(zip(fields[::2], fields[1::2])))
            for id, fields in self.ask(port, "XRANGE", key(session), "-", "+") or []
        ]


class Sentinel(Deployment):
    """One master, two replicas, three Sentinels."""

    def __init__(self, folder, **how):
        super().__init__("sentinel", folder, 13, **how)
        self.ports = [self.first + number for number in range(3)]
        self.sentinels = [self.first + 10 + number for number in range(3)]

    def arguments(self, port):
        if port not in self.sentinels:
            return super().arguments(port)
        return [SERVER, self.folder / f"{port}.conf", "--sentinel", "--bind", self.host(port), "--protected-mode", "no",
                "--port", port, "--dir", self.folder / str(port)]  # fmt: skip

    @property
    def master(self):
        """Where most Sentinels say that it is."""
        told = [self.ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster") for port in self.sentinels]
        named = [int(address[1]) for address in told if address]
        return max(set(named), key=named.count) if named else None

    def failover(self):
        """A planned one. Returns the new master's port once all Sentinels name it and it is one."""
        before, asked = self.master, []

        def begun():
            # A Sentinel gives up where another one took the promoted replica back before it had heard of it. Then it is asked again.
            if self.master == before and (not asked or time.monotonic() - asked[-1] > 15):
                if any(self.ask(port, "SENTINEL", "FAILOVER", "mymaster") for port in self.sentinels):
                    asked.append(time.monotonic())
            return asked and self.master not in (None, before)

        wait_for(begun, 90, "a failover")
        return self.switched(before, 60)

    def switched(self, before, seconds=30):
        def now():
            master = self.master
            return master not in (None, before) and self.role(master) == "master" and master

        return wait_for(now, seconds, "another master")


class Cluster(Deployment):
    """Three masters, each with a replica."""

    def __init__(self, folder, **how):
        # One more than there are, for one that joins.
        super().__init__("cluster", folder, 7, bus=True, **how)
        self.ports = [self.first + number for number in range(6)]

    def arguments(self, port):
        return [*super().arguments(port), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]

    def nodes(self):
        """What a node that answers believes: port to its line of CLUSTER NODES, in words."""
        return next(filter(None, map(self.nodes_by, self.ports)), {})

    def nodes_by(self, port):
        """What this one believes; nothing where it does not answer."""
        lines = [line.split() for line in (self.ask(port, "CLUSTER", "NODES") or b"").decode().splitlines()]
        return {int(re.search(r":(\d+)@", line[1])[1]): line for line in lines if "handshake" not in line[2]}

    @property
    def masters(self):
        """The ports of masters that have slots and are not known to have failed."""
        return sorted(port for port, line in self.nodes().items()
                      if "master" in line[2].split(",") and "fail" not in line[2].split(",") and len(line) > 8)  # fmt: skip

    def replaced(self, master):
        """Whether those who reach each other agree that others have its slots."""
        for port in self.ports:
            nodes = self.nodes_by(port) if port != master else {}
            have = [other for other, line in nodes.items()
                    if "master" in line[2].split(",") and "fail" not in line[2].split(",") and len(line) > 8]  # fmt: skip
            if len(have) == 3:
                return master not in have
        return False

    def synced(self, master):
        """Whether a replica has all that this master has written."""
        told = self.ask(master, "ROLE")
        return told and told[0] == b"master" and len(told[2]) > 0

    def id(self, port):
        return self.nodes()[port][0]

    def slot(self, session):
        return wait_for(lambda: next((slot for slot in (self.ask(port, "CLUSTER", "KEYSLOT", key(session))
                                                        for port in self.ports) if slot is not None), None), 10, "a slot")  # fmt: skip

    def owner(self, session):
        """The port of the master that has the session's slot."""
        slot = self.slot(session)
        for port, line in self.nodes().items():
            for span in line[8:]:
                first, _, last = span.partition("-")
                if first.isdigit() and int(first) <= slot <= int(last or first) and "fail" not in line[2].split(","):
                    return port
        return None

    def replicas(self, port):
        nodes = self.nodes()
        return [other for other, line in nodes.items() if line[3] == nodes[port][0] and "fail" not in line[2].split(",")]

    def failover(self, master, *how):
        """`CLUSTER FAILOVER` of a replica of this master. Returns the replica once it has the slots."""
        replica = wait_for(lambda: (self.replicas(master) or [None])[0], 20, f"a replica of {master}")
        wait_for(lambda: self.ask(replica, "CLUSTER", "FAILOVER", *how), 20, "the failover begins")
        wait_for(lambda: replica in self.masters, 20, "the replica is a master")
        return replica

    def migrate(self, session, to, pause=lambda step: None):
        """Moves the session's slot, key by key; `pause` is told `begun`, `key` and `moved` on the way."""
        slot, source = self.slot(session), self.owner(session)
        source_id, target_id = self.id(source), self.id(to)
        # A master that has just joined answers CLUSTERDOWN for a while.
        wait_for(lambda: "cluster_state:ok" in str(self.ask(to, "CLUSTER", "INFO")), 60, f"{to} serves")
        assert self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        assert self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        pause("begun")
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            for name in keys:
                # Where an answer came too late the key is there already.
                move = ("MIGRATE", self.host(to), to, name, 0, 5000, "REPLACE")
                wait_for(lambda: self.ask(source, *move), 60, f"{name} moves")
                pause("key")
        pause("moved")
        for port in [to, source, *self.masters]:
            self.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", target_id)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
