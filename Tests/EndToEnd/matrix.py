"""The fault matrix: what can happen to gateways, Redis, networks and producers, on real processes, judged by `baton check`.

    .venv/bin/python Tests/EndToEnd/matrix.py            every row
    .venv/bin/python Tests/EndToEnd/matrix.py WORD…      rows whose names contain one of these words
    … --sessions 20 --devices 10 --rounds 5              larger, and each row so many times (with 4, 3 and once)
    … --minutes 2 "at random"                            the rows that do one thing after another, for so long (a minute)

Each row writes answers and has devices watch them (live ones, slow ones, ones whose connection is cut all the time, ones that come
late), lets its fault happen, and waits until every device is shown what is written afterwards. Then recordings of producers, devices and
the stream are judged. Findings must be 0. Resets are counted, by the fault before them and by their cause: one without a cause fails the row.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from support import checker  # noqa: E402
from support.hosts import Hosts  # noqa: E402
from support.load import Load  # noqa: E402
from support.process import BATON, Process, wait_for  # noqa: E402
from support.servers import Gateway, HAProxy, Redis  # noqa: E402
from support.switch import Switch  # noqa: E402
from support.topology import Cluster, Sentinel  # noqa: E402

# A flipped bit in a text, or in an id, makes one like any other: RESP has no checksum, only TLS tells. So this row shows that all
# goes on, and is no test.
TOLERATED = {"network: bytes are mangled": {"foreign", "lost", "undisclosed"}}
KINDS = ["lost", "doubled", "reordered", "foreign", "undisclosed"]
ROWS = {}


def row(name, place):
    """`place` makes the Redis; the function lets the fault happen, and returns when it is over."""

    def add(function):
        ROWS[name] = (place, function)
        return function

    return add


class Alone(Redis):
    """One server."""

    close = Redis.kill


def alone(*options):
    return lambda folder: Alone(folder, "redis", *options)


def on_hosts(kind, count):
    """On hosts of their own, which can be cut off from each other."""
    return lambda folder: kind(folder, hosts=Hosts(folder, count))


class Stage:
    """Gateways, answers and devices over one Redis."""

    def __init__(self, folder, place, sessions=4, devices=3, minutes=1):
        self.minutes, self.deeds = minutes, []
        sessions = [*"abcd", *(f"s{number}" for number in range(4, sessions))]
        self.folder, self.place = folder, place(folder)
        self.network = Switch(self.place.port) if isinstance(self.place, Redis) else None
        url = self.network.url if self.network else self.place.url
        self.gateways = [Gateway(folder, url, f"gw-{number}") for number in (1, 2)]
        self.line = Switch(self.gateways[0].port)
        self.load = Load(folder, self.place.url, [gateway.url for gateway in self.gateways], sessions, devices,
                         record=True, pause=0.01 * max(1, len(sessions) * devices / 20))  # fmt: skip
        self.recorders, self.others = [], []
        for session in sessions:
            self.record(session, "live", self.gateways[1].url)
            self.record(session, "cut", f"http://127.0.0.1:{self.line.port}")
        self.slow = self.record("a", "slow", self.gateways[0].url, stdout=subprocess.PIPE)
        self.load.grown()

    def record(self, session, name, url, stdout=subprocess.DEVNULL):
        """A device that records; with two gateways to go to."""
        process = Process(self.folder, f"{name}-{session}", [
            BATON, "attach", session, "--url", url, "--url", self.gateways[0].url, "--offset", "0", "--until", "end",
            "--record", f"{self.folder}/{name}-{session}.ndjson"], stdout=stdout)  # fmt: skip
        self.recorders.append(process)
        return process

    @contextlib.contextmanager
    def deed(self, words):
        """What is done meanwhile, or is over, is the fault that later resets are counted under."""
        self.deeds.append((time.monotonic(), words))
        yield

    def stream(self, session):
        if isinstance(self.place, Cluster):
            return self.place.stream(session, self.place.owner(session))
        return self.place.stream(session, self.place.master) if isinstance(self.place, Sentinel) else self.place.stream(session)

    def resets(self):
        """How many there were by fault, reason and cause, when all is over."""
        counts, ends = collections.Counter(), {}
        for device in self.load.devices:
            if device.resets_told and device.session not in ends:
                ends[device.session] = [checker.offset(entry) for entry in self.stream(device.session)]
            for at, had, frame in device.resets_told:
                fault = next((words for began, words in reversed(self.deeds) if began <= at), "nothing yet")
                counts[fault, frame["reason"], cause(had, frame, ends[device.session])] += 1
        return counts

    def judge(self):
        """The counts of findings, by kind."""
        for session in ("a", "b"):
            self.record(session, "late", self.gateways[1].url)
        self.load.judge()
        with contextlib.suppress(ValueError):
            self.slow.process.communicate(timeout=60)
        for recorder in self.recorders:
            assert recorder.wait(60) == 0, f"{recorder.name}: {recorder.logged()[-500:]}"
        done = subprocess.run(
            [BATON, "check", "--json", "--redis", self.place.url, "--to-end", *pathlib.Path(self.folder).glob("*.ndjson")],
            capture_output=True, text=True)  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        if done.returncode:
            print(*done.stdout.splitlines()[:20], sep="\n", file=sys.stderr)
        return json.loads(done.stdout.splitlines()[-1])["summary"]

    def close(self):
        self.load.close()
        for process in [*self.recorders, *self.others, *self.gateways, self.line, *filter(None, [self.network]), self.place]:
            (process.close if hasattr(process, "close") else process.kill)()


NO_CAUSE = "no cause"


def cause(had, frame, end):
    """Why a device that had this entry was reset, as far as the offsets of the stream at the end show it."""
    if "." not in had:
        return "it had no entry to prove its place by"
    if had not in end:
        return "what it had is lost"
    last = frame["last"]
    # Its entry is in the history that prevailed: this was another one, or an older state of it.
    if last and (last not in end or checker.place(last) < checker.place(had)):
        return "told from a master that had been replaced"
    return NO_CAUSE


def run(name, folder, **size):
    """Findings by kind, resets by fault, reason and cause, and the seconds until every device was shown what came after the fault."""
    place, fault = ROWS[name]
    stage = Stage(folder, place, **size)
    try:
        stage.line.cut()
        with stage.deed(name):
            fault(stage)
        recovered = stage.load.grown(10, 60)
        stage.line.cut()
        summary = stage.judge()
        return summary["findings"], stage.resets(), recovered
    finally:
        stage.close()


# Gateways


@row("gateway: SIGKILL", alone())
def gateway_killed(stage):
    gateway = stage.gateways[0]
    gateway.kill()
    stage.gateways[0] = Gateway(stage.folder, stage.network.url, "gw-1-again", listen=gateway.address)


@row("gateway: frozen for 3 s", alone())
def gateway_frozen(stage):
    stage.gateways[0].process.signal(signal.SIGSTOP)
    time.sleep(3)
    stage.gateways[0].process.signal(signal.SIGCONT)


@row("gateway: rolling restart behind HAProxy", alone())
def rolling_restart(stage):
    proxy = HAProxy(stage.folder, stage.gateways)
    device = stage.record("a", "proxied", proxy.url)
    for number, gateway in enumerate(stage.gateways):
        gateway.process.signal(signal.SIGTERM)
        gateway.process.wait(40)
        stage.gateways[number] = Gateway(stage.folder, stage.network.url, f"{gateway.node}-again", listen=gateway.address)
    assert device.alive
    stage.others.append(proxy)


# Redis


def _again(stage):
    stage.place.kill()
    stage.place.start()


ROWS["redis: SIGKILL, without persistence"] = (alone(), _again)
ROWS["redis: SIGKILL, AOF everysec"] = (alone("--appendonly", "yes"), _again)
ROWS["redis: SIGKILL, AOF always"] = (alone("--appendonly", "yes", "--appendfsync", "always"), _again)


@row("redis: SIGKILL, an RDB snapshot of some time ago", alone())
def snapshot(stage):
    stage.place.client.save()
    stage.load.grown(50)
    _again(stage)


def hung(seconds):
    def fault(stage):
        stage.place.pause()
        time.sleep(seconds)
        stage.place.resume()

    return fault


for _seconds in (1, 5, 20):
    ROWS[f"redis: hung for {_seconds} s"] = (alone(), hung(_seconds))


@row("redis: CLIENT PAUSE for 3 s", alone())
def paused(stage):
    stage.place.client.client_pause(3000)
    time.sleep(3)


@row("redis: full, noeviction", alone())
def full(stage):
    used = stage.place.client.info("memory")["used_memory"]
    stage.place.client.config_set("maxmemory", used // 2)
    time.sleep(3)
    stage.place.client.config_set("maxmemory", 0)


@row("redis: evicts, volatile-lru", alone("--maxmemory-policy", "volatile-lru"))
def evicting(stage):
    stage.place.client.config_set("maxmemory", stage.place.client.info("memory")["used_memory"] - 100_000)
    with contextlib.suppress(Exception):
        stage.place.client.set("filler", "x" * 200_000)
    wait_for(lambda: stage.place.client.info("stats")["evicted_keys"] > 0, 20, "Redis evicts")
    stage.place.client.config_set("maxmemory", 0)


@row("redis: a replica for 3 s", alone())
def read_only(stage):
    other = Alone(stage.folder, "other")
    stage.place.client.replicaof("127.0.0.1", other.port)
    time.sleep(3)
    stage.place.client.replicaof("NO", "ONE")
    other.kill()


@row("redis: loads its data for a while", alone("--key-load-delay", "100"))
def loading(stage):
    stage.place.client.save()
    stage.place.kill()
    stage.place.start()


def client_kill(kind):
    def fault(stage):
        for _ in range(20):
            stage.place.client.client_kill_filter(_type=kind, skipme=True)
            time.sleep(0.1)

    return fault


for _kind in ("normal", "pubsub"):
    ROWS[f"redis: CLIENT KILL TYPE {_kind}, over and over"] = (alone(), client_kill(_kind))


# Networks


@row("network: cut", alone())
def cut(stage):
    for _ in range(5):
        stage.network.cut()
        time.sleep(0.3)


@row("network: refused for 3 s", alone())
def refused(stage):
    stage.network.switch(None)
    time.sleep(3)
    stage.network.switch(stage.place.port)


def mood(**what):
    def fault(stage):
        for name, value in what.items():
            setattr(stage.network, name, value)
        time.sleep(4)
        stage.network.restore()

    return fault


ROWS["network: nothing comes from Redis for 4 s"] = (alone(), mood(deaf=True))
ROWS["network: nothing goes to Redis for 4 s"] = (alone(), mood(mute=True))
ROWS["network: half-open, then reset"] = (alone(), mood(deaf=True, mute=True))
ROWS["network: a slow drip"] = (alone(), mood(drip=20_000))
ROWS["network: bytes are mangled"] = (alone(), mood(mangles=0.02))


# Producers


@row("producer: frozen for 3 s", alone())
def producer_frozen(stage):
    process = stage.load.answers[0].process
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)


@row("producer: killed, and another goes on", alone())
def producer_killed(stage):
    stage.load.answers[0].replace()


@row("producer: frozen beyond its lease, and another goes on", alone())
def producer_zombie(stage):
    answer, device = stage.load.answers[0], stage.load.devices[0]
    old = answer.replace(signal.SIGSTOP)
    device.until(lambda device: any(frame.get("event") == "error" for frame in device.frames), 40, "its end")
    stage.load.grown()
    old.send_signal(signal.SIGCONT)
    assert old.wait(30) != 0, "it was told that its answer had ended"


@row("producer: two write one answer", alone())
def producers_two(stage):
    answer = stage.load.answers[0]
    old = answer.replace(None, answer.name)
    stage.load.grown()
    assert old.wait(30) != 0, "it was told that another writes its answer"


# Clocks


def timed(folder):
    """A server whose clock `step` puts so many seconds off."""
    library, offset = f"{folder}/clock.so", pathlib.Path(f"{folder}/clock")
    source = pathlib.Path(__file__).parent / "support/clock.c"
    subprocess.run(["clang", "-shared", "-fPIC", "-o", library, source], check=True)
    offset.write_bytes(struct.pack("l", 0))
    place = Alone(folder, "redis", environment={"LD_PRELOAD": library, "CLOCK": str(offset)})

    def step(seconds):
        with offset.open("r+b") as file:
            file.write(struct.pack("l", seconds))
        wait_for(lambda: abs(place.client.time()[0] - time.time() - seconds) < 60, 5, "the clock is another")

    place.step = step
    return place


@row("clock: an hour ahead, and back", timed)
def clock_ahead(stage):
    for seconds in (3600, 0):
        stage.place.step(seconds)
        stage.load.grown()


@row("clock: an hour back", timed)
def clock_back(stage):
    stage.place.step(-3600)


# Replication


def sentinel_row(name):
    return row(f"sentinel: {name}", Sentinel)


@sentinel_row("planned failover")
def planned(stage):
    stage.place.failover()


@sentinel_row("two failovers")
def twice(stage):
    stage.place.failover()
    stage.place.failover()


@sentinel_row("the master dies with a tail that nobody has")
def lost_tail(stage):
    master = stage.place.master
    for port in stage.place.ports:
        if port != master:
            stage.place.stop(port)
    stage.load.grown(20)
    stage.place.kill(master)
    for port in stage.place.ports:
        if port != master:
            stage.place.cont(port)
    stage.place.switched(master)


@sentinel_row("the master is frozen and thaws as a master")
def thawed(stage):
    master = stage.place.master
    stage.place.stop(master)
    stage.place.switched(master)
    stage.load.grown(20)
    stage.place.cont(master)
    wait_for(lambda: stage.place.role(master) == "slave", 30, "it is a replica")


@row("sentinel: the master is cut off, and goes on taking writes", on_hosts(Sentinel, 3))
def cut_off(stage):
    master = stage.place.master
    stage.place.cut(master)
    stage.place.switched(master)
    stage.load.grown()
    assert stage.place.role(master) == "master"
    stage.place.heal(master)
    wait_for(lambda: stage.place.role(master) == "slave", 30, "it is a replica")


@row("sentinel: most Sentinels are cut off, with a replica each", on_hosts(Sentinel, 3))
def minority(stage):
    master = stage.place.master
    others = [port for port in stage.place.ports if port != master]
    for port in others:
        stage.place.cut(port)
    stage.load.grown(50)
    assert stage.place.role(master) == "master"
    for port in others:
        stage.place.heal(port)
    wait_for(lambda: len((stage.place.ask(master, "ROLE") or [0, 0, []])[2]) == 2, 30, "its replicas are back")


@sentinel_row("all Sentinels die")
def no_sentinels(stage):
    for port in stage.place.sentinels:
        stage.place.stop(port)
    time.sleep(3)
    for port in stage.place.sentinels:
        stage.place.cont(port)


# Cluster


def cluster_row(name):
    return row(f"cluster: {name}", Cluster)


@cluster_row("planned failover of every master")
def planned_all(stage):
    for master in stage.place.masters:
        stage.place.failover(master)


@cluster_row("a master dies, its replica takes over")
def shard_dies(stage):
    master = stage.place.owner("a")
    stage.place.kill(master)
    wait_for(lambda: len(stage.place.masters) == 3 and master not in stage.place.masters, 30, "the replica takes over")


@cluster_row("a master without a replica dies and is started again")
def shard_without_replica(stage):
    master = stage.place.owner("a")
    for replica in stage.place.replicas(master):
        stage.place.kill(replica)
    stage.place.kill(master)
    time.sleep(1)
    stage.place.restart(master)
    wait_for(lambda: master in stage.place.masters, 30, "it is back")


@cluster_row("a master is frozen and thaws as a master")
def shard_thaws(stage):
    master = stage.place.owner("a")
    stage.place.stop(master)
    wait_for(lambda: len(stage.place.masters) == 3 and master not in stage.place.masters, 30, "the replica takes over")
    stage.load.grown(20)
    stage.place.cont(master)
    wait_for(lambda: stage.place.role(master) == "slave", 30, "it is a replica")


@row("cluster: a master is cut off", on_hosts(Cluster, 6))
def shard_cut_off(stage):
    master = stage.place.owner("a")
    stage.place.cut(master)
    wait_for(lambda: stage.place.replaced(master), 30, "the replica takes over")
    stage.load.grown()
    stage.place.heal(master)
    wait_for(lambda: stage.place.role(master) == "slave", 30, "it is a replica")


@cluster_row("slots move there and back")
def slots(stage):
    for session in ("a", "b", "c", "d"):
        owner = stage.place.owner(session)
        target = next(port for port in stage.place.masters if port != owner)
        stage.place.migrate(session, target)
        stage.load.grown(5)
        stage.place.migrate(session, owner)


@cluster_row("resharding by redis-cli while devices page")
def resharding(stage):
    source, target = stage.place.owner("a"), next(port for port in stage.place.masters if port != stage.place.owner("a"))
    for turn, (one, other) in enumerate([(source, target), (target, source)]):
        check = ["redis-cli", "--cluster", "check", f"127.0.0.1:{one}"]
        wait_for(lambda: subprocess.run(check, stdout=subprocess.DEVNULL).returncode == 0, 30, "all nodes say the same")
        done = subprocess.Popen(
            ["redis-cli", "--cluster", "reshard", f"127.0.0.1:{one}", "--cluster-from", stage.place.id(one), "--cluster-to",
             stage.place.id(other), "--cluster-slots", "2000", "--cluster-yes"], stdout=subprocess.DEVNULL)  # fmt: skip
        for number in range(5):
            stage.record("abcde"[number % 4], f"paging-{turn}-{number}", stage.gateways[number % 2].url)
            stage.load.grown(5)
        assert done.wait(120) == 0


@cluster_row("everything is killed and started again")
def whole(stage):
    for port in stage.place.ports:
        stage.place.kill(port)
    for port in stage.place.ports:
        stage.place.restart(port)
    wait_for(lambda: len(stage.place.masters) == 3, 60, "the cluster is back")


# At random


def at_random(deeds):
    """One deed after another; `BATON_CHAOS_SEED` repeats a run's choices."""

    def fault(stage):
        seed = int(os.environ.get("BATON_CHAOS_SEED") or random.randrange(1_000_000))
        print(f"BATON_CHAOS_SEED={seed}", file=sys.stderr, flush=True)
        dice, end = random.Random(seed), time.monotonic() + 60 * stage.minutes
        while time.monotonic() < end:
            deed = dice.choice(deeds)
            with stage.deed(deed.__doc__):
                deed(stage, dice)
            stage.line.cut()
            time.sleep(dice.choice([0, 0.5, 2]))

    return fault


def clients_killed(stage, dice):
    """connections are killed"""
    port = dice.choice(stage.place.ports)
    stage.place.ask(port, "CLIENT", "KILL", "TYPE", dice.choice(["normal", "pubsub"]))


def switched(stage, dice):
    """another master"""
    place, how = stage.place, dice.choice(["planned", "killed", "frozen", "cut off"])
    stage.deeds[-1] = (stage.deeds[-1][0], f"another master: {how}")
    down = {"killed": place.kill, "frozen": place.stop, "cut off": place.cut}.get(how)
    if isinstance(place, Sentinel):
        master = place.master
        wait_for(lambda: (place.ask(master, "ROLE") or [0, 0, []])[2:] and len(place.ask(master, "ROLE")[2]) == 2, 60, "replicas")
        if how == "planned":
            return place.failover()
        down(master)
        place.switched(master, 60)
    else:
        master = dice.choice(place.masters)
        wait_for(lambda: place.synced(master), 60, "a replica")
        if how == "planned":
            return place.failover(master)
        down(master)
        wait_for(lambda: place.replaced(master), 60, "the replica takes over")
    time.sleep(dice.choice([0, 1, 3]))
    {"killed": place.restart, "frozen": place.cont, "cut off": place.heal}[how](master)
    wait_for(lambda: place.role(master) == "slave", 60, "it is a replica")


def hiccup(stage, dice):
    """a server hangs for less than a second"""
    port = dice.choice(stage.place.ports)
    stage.place.stop(port)
    time.sleep(dice.choice([0.2, 0.8]))
    stage.place.cont(port)


def cut_for_a_while(stage, dice):
    """a server is cut off for up to 4 s"""
    port = dice.choice(stage.place.ports)
    stage.place.cut(port)
    time.sleep(dice.choice([0.3, 1, 4]))
    stage.place.heal(port)


def moved(stage, dice):
    """a slot moves"""
    session, pauses = dice.choice(stage.load.answers).session, dice.choice([0, 0.1, 0.5])
    owner = stage.place.owner(session)
    others = [port for port in stage.place.masters if port != owner]
    if owner and others:
        stage.place.migrate(session, dice.choice(others), lambda step: time.sleep(pauses))


ROWS["sentinel: at random"] = (on_hosts(Sentinel, 3), at_random([clients_killed, switched, hiccup, cut_for_a_while]))
ROWS["cluster: at random"] = (
    on_hosts(Cluster, 6), at_random([clients_killed, switched, hiccup, cut_for_a_while, moved, moved]))


def main(arguments):
    words = argparse.ArgumentParser(prog="matrix.py")
    words.add_argument("words", nargs="*", metavar="WORD")
    words.add_argument("--sessions", type=int, default=4)
    words.add_argument("--devices", type=int, default=3)
    words.add_argument("--rounds", type=int, default=1)
    words.add_argument("--minutes", type=float, default=1)
    given = words.parse_args(arguments)
    failed = 0
    print(f"{'':60}{'recovered':>10}{'resets':>8}  " + " ".join(KINDS), flush=True)
    for name in [name for name in ROWS if any(word in name for word in given.words or [""]) for _ in range(given.rounds)]:
        folder = tempfile.mkdtemp(prefix="baton-matrix-")
        try:
            findings, resets, recovered = run(
                name, folder, sessions=given.sessions, devices=given.devices, minutes=given.minutes)
            counts = [findings.get(kind, 0) for kind in KINDS]
            is_bad = any(findings.get(kind) for kind in KINDS if kind not in TOLERATED.get(name, ()))
            is_bad = is_bad or any(why == NO_CAUSE for _, _, why in resets)
            told = " ".join(f"{count:{len(kind)}}" for kind, count in zip(KINDS, counts))
            print(f"{name:60}{recovered:8.1f} s{resets.total():8}  {told}{f'  FAILED, see {folder}' if is_bad else ''}", flush=True)
            for (fault, reason, why), count in sorted(resets.items()):
                print(f"{count:10} × {reason}: {why}; {fault}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            is_bad = True
            print(f"{name:60} FAILED, see {folder}: {str(error)[:600]}", flush=True)
        failed += is_bad
        if not is_bad:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
