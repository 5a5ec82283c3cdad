"""`baton check` on recordings of real processes: a gateway is killed in the middle, and then the recordings are tampered with."""

import json
import re
import signal
import subprocess

import pytest
from support.process import BATON, REPOSITORY, Process, free_port, wait_for
from support.tokens import token
from support.topology import free_ports

WORD = "lorem"


def run(*arguments, input=None):
    return subprocess.run([BATON, *map(str, arguments)], capture_output=True, input=input, timeout=60)


def check(*arguments):
    """The exit status, the kinds of what was found, and the summary."""
    done = run("check", "--json", *arguments)
    assert WORD.encode() not in done.stdout + done.stderr, "texts are shown"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    summary = lines[-1]["summary"] if lines and "summary" in lines[-1] else None
    return done, [line for line in lines if "finding" in line], summary


def lines(file):
    return file.read_text().splitlines()


def says(file, words, times=1):
    """Whether a recording that is being written has come to this."""
    return file.exists() and file.read_text().count(words) >= times


def frames(file):
    """The numbers of the lines that hold an entry's frame with a delta."""
    return [at for at, line in enumerate(lines(file)) if "n" in json.loads(line).get("frame", {})]


class Publisher:
    def __init__(self, folder, session, *arguments):
        self.process = Process(folder, "publish", [
            BATON, "publish", session, "--response", "r1", "--record", folder / "publish.ndjson", *arguments,
        ], stdin=subprocess.PIPE)  # fmt: skip
        self.record, self.written = folder / "publish.ndjson", 0

    def write(self, count):
        for _ in range(count):
            self.written += 1
            self.process.process.stdin.write(f"{WORD} {self.written}\n".encode())
        self.process.process.stdin.flush()

    def write_in_turns(self, turns, count=5):
        """So that there is an entry for each turn at least."""
        for _ in range(turns):
            self.write(count)
            wait_for(self._all_acknowledged, 30, "the deltas are acknowledged")

    def _all_acknowledged(self):
        return says(self.record, f'"type":"acknowledged","n":{self.written},')

    def end(self):
        self.process.process.stdin.close()
        assert self.process.wait(60) == 0, self.process.logged()


@pytest.fixture(scope="module", params=["redis", "url"])
def recorded(request, redis, tmp_path_factory):
    """An answer that is written while its gateway is killed and comes back; the recordings' folder, and the session."""
    from support.servers import Gateway

    folder = tmp_path_factory.mktemp("recorded")
    session, listen = f"check-{request.param}", f"127.0.0.1:{free_port()}"
    gateway = Gateway(folder, redis.url, "gw-1", listen=listen)
    publisher = Publisher(folder, session, *(["--redis", redis.url] if request.param == "redis" else ["--url", gateway.url]))

    def device(name, *options):
        record = folder / f"{name}.ndjson"
        return record, Process(folder, name, [
            BATON, "attach", session, "--url", gateway.url, "--until", "end", "--device", name, "--record", record, *options])  # fmt: skip

    publisher.write_in_turns(10)
    one, first = device("one", "--rollup", "off")
    wait_for(lambda: says(one, '"type":"live"'), 30, "the first device is live")
    gateway.kill()
    publisher.write(50)
    wait_for(lambda: says(one, '"type":"lost"'), 30, "the first device has lost its connection")
    gateway = Gateway(folder, redis.url, "gw-2", listen=listen)
    _, second = device("two")
    wait_for(lambda: says(one, '"type":"live"', 2), 30, "the first device is live again")
    publisher.write_in_turns(10)
    publisher.end()
    assert [first.wait(60), second.wait(60)] == [0, 0], first.logged() + second.logged()
    gateway.kill()
    done = run("check", "--redis", redis.url, "--session", session, "--record", folder / "stream.ndjson")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, session


RECORDINGS = ["publish.ndjson", "one.ndjson", "two.ndjson", "stream.ndjson"]


def test_an_honest_run_passes(recorded, redis):
    folder, session = recorded
    done, found, summary = check("--to-end", *(folder / name for name in RECORDINGS))
    assert (done.returncode, found) == (0, []), done.stdout + done.stderr
    assert summary["judged"]["deltas"] == 150 and summary["judged"]["devices"] == 2 and summary["judged"]["streams"] == 1
    assert summary["judged"]["attaches"] >= 3, "the first device was cut off"
    assert set(summary["findings"].values()) == {0}
    # The stream may also be read now, and the order of the files does not matter.
    done, found, _ = check("--redis", redis.url, *(folder / name for name in reversed(RECORDINGS[:3])))
    assert (done.returncode, found) == (0, []), done.stdout + done.stderr
    assert len(frames(folder / "two.ndjson")) < 150, "nothing was joined"


def changed(line):
    """The same frame with another text of the same length."""
    line = json.loads(line)
    line["frame"]["data"] = line["frame"]["data"].replace("o", "0")
    return json.dumps(line)


def checked_otherwise(line):
    line = json.loads(line)
    id, _, check = line["frame"]["id"].partition(".")
    line["frame"]["id"] = f"{id}.{int(check, 16) ^ 1:08x}"
    return json.dumps(line)


TAMPERING = {
    "removed": (lambda told, a, b: told[:a] + told[a + 1 :], {"lost"}),
    "doubled": (lambda told, a, b: told[:b] + [told[a]] + told[b:], {"doubled"}),
    "swapped": (lambda told, a, b: told[:a] + [told[b]] + told[a + 1 : b] + [told[a]] + told[b + 1 :], {"reordered"}),
    "changed": (lambda told, a, b: told[:a] + [changed(told[a])] + told[a + 1 :], {"foreign"}),
    "checked": (lambda told, a, b: told[:a] + [checked_otherwise(told[a])] + told[a + 1 :], {"foreign"}),
}


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("how", TAMPERING)
def test_what_was_tampered_with_is_found(recorded, tmp_path, how, name):
    folder, session = recorded
    told, places = lines(folder / f"{name}.ndjson"), frames(folder / f"{name}.ndjson")
    tamper, kinds = TAMPERING[how]
    at = len(places) // 2
    bad = tmp_path / f"{name}.ndjson"
    bad.write_text("\n".join(tamper(told, places[at], places[at + 1])) + "\n")
    others = [folder / other for other in RECORDINGS if other != bad.name]
    done, found, summary = check(bad, *others)
    assert done.returncode == 1, done.stdout
    assert {finding["finding"] for finding in found} == kinds, found
    assert all(finding["session"] == session and finding["device"] == name for finding in found), found
    assert all(finding["response"] == "r1" and finding["n"] >= 1 for finding in found), found
    assert sum(summary["findings"].values()) == len(found)
    # As people read it.
    plain = run("check", bad, *others).stdout.decode()
    assert re.search(rf"^{next(iter(kinds))} session={session} device={name} offset=\d+-\d+\.[0-9a-f]{{8}} response=r1 n=\d+: ", plain, re.M)
    assert re.search(r"^  undisclosed +0$", plain, re.M), plain


def test_what_the_stream_has_lost_is_found(recorded, tmp_path):
    folder, _ = recorded
    told = lines(folder / "stream.ndjson")
    entry = next(at for at, line in enumerate(told) if json.loads(line).get("fields") and "\"n\"" in line)
    bad = tmp_path / "stream.ndjson"
    bad.write_text("\n".join(told[:entry] + told[entry + 1 :]) + "\n")
    done, found, _ = check(bad, folder / "publish.ndjson")
    assert done.returncode == 1 and {finding["finding"] for finding in found} == {"lost"}
    assert all("device" not in finding for finding in found)
    # Unless somebody says that it was on purpose.
    deletions, id = tmp_path / "deletions.ndjson", json.loads(told[entry])["id"]
    at = json.loads(told[0])["at"]
    deletions.write_text("".join(json.dumps(line) + "\n" for line in [
        {"recording": 1, "kind": "deletions", "at": at, "session": json.loads(told[0])["session"]},
        {"at": at, "type": "deleted", "ids": [id]},
    ]))  # fmt: skip
    done, found, _ = check(bad, folder / "publish.ndjson", folder / "one.ndjson", folder / "two.ndjson", deletions)
    assert (done.returncode, found) == (0, []), done.stdout


def test_late_is_measured_from_the_acknowledgement(recorded, tmp_path):
    folder, _ = recorded
    told = [json.loads(line) for line in lines(folder / "one.ndjson")]
    live = max(at for at, line in enumerate(told) if line.get("frame", {}).get("type") == "live")
    for line in told[live + 1 :]:
        line["at"] += 60_000
    slow = tmp_path / "one.ndjson"
    slow.write_text("".join(json.dumps(line) + "\n" for line in told))
    files = [slow, folder / "publish.ndjson", folder / "stream.ndjson"]
    assert check(*files)[0].returncode == 0
    done, found, _ = check("--late", "50000", *files)
    assert done.returncode == 1 and {finding["finding"] for finding in found} == {"late"}
    assert check("--late", "600000", *files)[0].returncode == 0


def test_what_redis_lost_and_got_again_is_no_finding(new_redis, new_gateway, session, tmp_path):
    """Redis comes back with an older state; the producer appends again what was lost, and the devices are told."""
    redis = new_redis("redis-check", "--appendonly", "no")
    gateway = new_gateway(redis.url, "gw-lossy", "--sweep", "500ms")
    publisher = Publisher(tmp_path, session, "--redis", redis.url)
    publisher.write_in_turns(5)
    redis.client.save()
    records, devices = [tmp_path / "one.ndjson", tmp_path / "two.ndjson"], []
    for record in records:
        devices.append(Process(tmp_path, record.stem, [
            BATON, "attach", session, "--url", gateway.url, "--until", "end", "--device", record.stem, "--record", record,
        ]))  # fmt: skip
        wait_for(lambda: says(record, '"type":"live"'), 30, "the device is live")
    publisher.write_in_turns(5)
    last = f'"n":{publisher.written},'
    for record in records:
        wait_for(lambda: any(last in line and '"id"' in line for line in lines(record)), 30, "the device is shown all")
    devices[1].signal(signal.SIGSTOP)
    redis.kill()
    redis.start()
    wait_for(lambda: says(records[0], '"type":"reset"'), 60, "the device is told")
    devices[1].signal(signal.SIGCONT)
    publisher.write_in_turns(5)
    publisher.end()
    assert [device.wait(60) for device in devices] == [0, 0]
    files = [tmp_path / "publish.ndjson", *records]
    done, found, summary = check("--to-end", "--redis", redis.url, "--record", tmp_path / "stream.ndjson", *files)
    assert (done.returncode, found) == (0, []), done.stdout
    assert summary["judged"]["resets"] >= 1
    # Without the reset it is what it is: another history.
    silent = tmp_path / "silent.ndjson"
    silent.write_text("".join(line + "\n" for line in lines(records[0]) if '"type":"reset"' not in line))
    done, found, _ = check(tmp_path / "stream.ndjson", tmp_path / "publish.ndjson", silent)
    assert done.returncode == 1 and {"undisclosed", "doubled"} <= {finding["finding"] for finding in found}, done.stdout


def test_streams_are_read_from_a_cluster(new_redis, session, tmp_path):
    redis = new_redis("redis-cluster", "--cluster-enabled", "yes", port=free_ports(1, bus=True))
    redis.client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    wait_for(lambda: redis.client.execute_command("CLUSTER", "INFO").startswith(b"cluster_state:ok"), 20, "the cluster is there")
    address = f"redis+cluster://127.0.0.1:{redis.port}"
    record = tmp_path / "publish.ndjson"
    done = run("publish", session, "--redis", address, "--record", record, input=b"one\ntwo\n")
    assert done.returncode == 0, done.stderr
    done, found, summary = check("--redis", address, record)
    assert (done.returncode, found, summary["judged"]["entries"]) == (0, [], 4), done.stdout + done.stderr


def test_a_killed_device_leaves_what_it_was_shown(redis, gateway, session, tmp_path):
    redis.add_tokens(session, [f"{WORD} {n} " for n in range(20)], "r1")
    record = tmp_path / "device.ndjson"
    command = [BATON, "attach", session, "--url", gateway.url, "--rollup", "off", "--device", "d", "--record", record]
    first = Process(tmp_path, "first", command)
    wait_for(lambda: says(record, '"type":"live"'), 30, "the device is shown all")
    first.signal(signal.SIGKILL)
    first.wait()
    # A line of which only a part was written, and then the device comes back.
    with record.open("a") as file:
        file.write(lines(record)[-2][:40])
    redis.add(session, event="end", response="r1")
    again = run("attach", session, "--url", gateway.url, "--until", "end", "--device", "d", "--record", record)
    assert again.returncode == 0, again.stderr
    done, found, summary = check("--redis", redis.url, record)
    assert (done.returncode, found) == (0, []), done.stdout + done.stderr
    assert summary["judged"]["devices"] == 2
    assert record.stat().st_mode & 0o777 == 0o600, "others can read the texts"


@pytest.mark.parametrize("command", ["attach", "publish"])
def test_a_recording_that_cannot_be_made_stops_the_command(redis, gateway, session, tmp_path, command):
    where = ["--redis", redis.url] if command == "publish" else ["--url", gateway.url]
    done = run(command, session, *where, "--record", tmp_path / "missing" / "file", input=b"one\n")
    assert done.returncode == 74 and b"missing/file can't be written: No such file" in done.stderr, done.stderr
    assert redis.stream(session) == []


def test_a_recording_that_fails_later_changes_nothing_else(redis, gateway, session):
    done = run("publish", session, "--redis", redis.url, "--record", "/dev/full", input=b"one\ntwo\n")
    assert done.returncode == 0 and done.stderr.count(b"/dev/full can't be written: No space left on device; it ends here") == 1
    done = run("attach", session, "--url", gateway.url, "--until", "end", "--record", "/dev/full")
    assert (done.returncode, done.stdout) == (0, b"one\ntwo\n")
    assert done.stderr.count(b"/dev/full") == 1, done.stderr


def test_what_is_wrong_is_said(redis, tmp_path):
    bad = tmp_path / "bad.ndjson"
    bad.write_text('{"recording":1,"kind":"device","at":1,"session":"s"}\n{"secret\n{"at":1,"type":"closed"}\n')
    done = run("check", bad)
    assert done.returncode == 65 and f"{bad}: line 2 is not JSON".encode() in done.stderr and b"secret" not in done.stderr
    done = run("check", tmp_path / "none")
    assert done.returncode == 65 and b"none can't be read" in done.stderr, done.stderr
    done = run("check", tmp_path)
    assert done.returncode == 65 and b"can't be read" in done.stderr, done.stderr
    for arguments in [], ["--session", "s", bad], ["--redis", redis.url], ["--redis", redis.url, "--session", "a/b/c"], ["--late", "-1", bad]:
        assert run("check", *arguments).returncode == 64, arguments
    assert run("check", "--redis", f"redis://127.0.0.1:{free_port()}", "--session", "s").returncode == 69
    done = run("check", "--redis", redis.url, "--session", "s", "--record", tmp_path / "missing" / "file")
    assert done.returncode == 74, done.stderr


def test_the_articles_commands(redis, gateway, tmp_path):
    article = (REPOSITORY / "Sources/BatonGateway/BatonGateway.docc/CheckingAHistory.md").read_text()
    (block,) = re.findall(r"<!-- tested: check -->\n```sh\n(.*?)```", article, re.S)
    text = re.sub(r"\bbaton (attach|publish|check)", rf"{BATON} \1", block)
    text = text.replace("redis://127.0.0.1:6379/0", redis.url).replace("127.0.0.1:8080", gateway.address).replace("chat-42", "chat-checked")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and re.search(r"^  deltas +2$", done.stdout, re.M), done.stdout + done.stderr
    again = run("check", *tmp_path.glob("*.ndjson"))
    assert again.returncode == 0, again.stdout


def test_nobody_who_reads_is_no_failure(redis, recorded):
    folder, _ = recorded
    done = subprocess.run(f"{BATON} check {folder}/one.ndjson | true", shell=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_sessions_of_a_tenant(redis, secret, session, tmp_path, new_gateway):
    """Two tenants' sessions of one name, each with a device, a producer and its stream; a stream of the other's is found out."""
    gateway = new_gateway(redis.url, "gw-tenants", "--auth-secret-file", secret, "--tenant-claim", "tenant")
    for tenant, text in (("a", f"{WORD} of a\n"), ("b", f"{WORD} of b\n")):
        record = ["--record", tmp_path / f"{tenant}.producer"]
        to = ["--redis", redis.url, f"{tenant}/{session}"] if tenant == "a" else ["--url", gateway.url, "--token", token(tenant=tenant), session]
        published = run("publish", *to, "--response", "r1", *record, input=text.encode())
        assert published.returncode == 0, published.stderr
        attached = run("attach", session, "--url", gateway.url, "--token", token(tenant=tenant), "--until", "end", "--record", tmp_path / f"{tenant}.device")
        assert attached.returncode == 0, attached.stderr
        done, findings, summary = check("--tenant", tenant, "--redis", redis.url, "--record", tmp_path / f"{tenant}.stream", "--to-end",
                                        tmp_path / f"{tenant}.device", tmp_path / f"{tenant}.producer")  # fmt: skip
        assert done.returncode == 0 and not findings, done.stdout + done.stderr
        assert (summary["judged"]["sessions"], summary["judged"]["streams"], summary["judged"]["devices"]) == (1, 1, 1)
    # Named on the command line, and judged from files alone.
    named = run("check", "--redis", redis.url, "--session", f"a/{session}", "--json")
    assert named.returncode == 0 and json.loads(named.stdout.splitlines()[-1])["summary"]["judged"]["entries"] > 0
    files = [tmp_path / f"a.{kind}" for kind in ("device", "stream", "producer")]
    assert check("--tenant", "a", *files)[0].returncode == 0
    wrong = [tmp_path / "a.device", tmp_path / "b.producer"]
    done, findings, _ = check("--tenant", "b", "--redis", redis.url, *wrong)
    assert done.returncode == 1 and {finding["finding"] for finding in findings} >= {"foreign"} and {finding["session"] for finding in findings} == {f"b/{session}"}
    absent = run("check", "--redis", redis.url, "--session", f"c/{session}", "--json")
    assert absent.returncode == 0 and json.loads(absent.stdout.splitlines()[-1])["summary"]["judged"]["entries"] == 0, absent.stderr
    for wrong in ("a/b", "", "a b"):
        assert run("check", "--tenant", wrong, *files).returncode == 64
