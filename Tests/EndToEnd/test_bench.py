"""`baton bench`: small measures of everything, against the bare send and against nchan."""

import json
import subprocess

import pytest
from support.process import BATON

SMALL = ["--scale", "0.02", "--seconds", "1"]
FIGURES = {
    "sessions": {"server", "redis", "generator", "rate", "p50", "p90", "p99", "p999", "max", "attached"},
    "fanout": {"server", "redis", "p50"},
    "llm": {"server", "redis", "p50"},
    "llm-off": {"server", "redis", "p50"},
    "storm": {"server", "redis", "rate"},
    "storm-auto": {"server", "redis", "rate"},
    "idle": {"attached", "deviceBytes", "idle"},
    "attach": {"attached", "server"},
    "attach-1000": {"attached", "server"},
    "trickle": {"server", "redis", "p50"},
    "attached": {"server", "redis", "p50"},
    "memory": {"entryBytes"},
}


def bench(*arguments):
    return subprocess.run([BATON, "bench", *arguments], capture_output=True, text=True, timeout=300)


def test_every_workload_is_measured_and_nothing_is_lost_or_doubled():
    done = bench(*SMALL, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout)
    assert [one["workload"] for one in measured] == list(dict.fromkeys(one["workload"] for one in measured))
    assert {one["workload"] for one in measured} == set(FIGURES)
    for one in measured:
        assert one["contender"] == "baton" and one["faults"] == [], one
        assert all(one[figure] > 0 for figure in FIGURES[one["workload"]]), one
    assert "measuring for 1 s" in done.stderr, "it tells how far it is"


def test_others_do_the_same_work():
    done = bench("sessions", "storm", *SMALL, "--against", "limit,nchan,nchan-redis", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    measured = {(one["workload"], one["contender"]): one for one in json.loads(done.stdout)}
    assert set(measured) == {
        (workload, contender) for workload in ("sessions", "storm") for contender in ("baton", "limit", "nchan", "nchan-redis")}
    for one in measured.values():
        assert one["server"] > 0 and one["deliveries"] > 0 and one["faults"] == [], one
    assert measured["sessions", "nchan-redis"]["redis"] > 0 and "redis" not in measured["sessions", "nchan"]
    assert measured["storm", "limit"]["deliveries"] == measured["storm", "baton"]["deliveries"] == 20 * 2 * 500


def test_the_table_has_ratios():
    done = bench("trickle", "--seconds", "1", "--against", "limit", "--runs", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line[1].strip() for line in lines] == ["trickle", "-" * 15, "baton", "limit", "baton / limit"]
    server = [float(line[2]) for line in lines[2:]]
    assert server[2] == pytest.approx(server[0] / server[1], rel=0.02)
    assert "2 of 2" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["session"], "There is no workload 'session'; there are sessions, "),
        (["sessions", "--against", "ably"], "--against takes limit, nchan and nchan-redis, not 'ably'."),
        (["sessions", "--seconds", "0"], "--seconds must be from 1 to 3600."),
        (["sessions", "--scale", "2"], "--scale must be from 0.001 to 1."),
    ])
def test_what_is_asked_wrongly_is_said(arguments, words):
    done = bench(*arguments)
    assert done.returncode == 64 and words in done.stderr and "Usage" in done.stderr
