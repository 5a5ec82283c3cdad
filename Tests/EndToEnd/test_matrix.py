"""The representative part of the fault matrix; `Tests/run matrix` is the whole."""

import matrix
import pytest

ROWS = ["gateway: SIGKILL", "redis: SIGKILL, without persistence", "redis: full, noeviction", "redis: evicts, volatile-lru",
        "network: cut", "network: half-open, then reset", "producer: frozen for 3 s", "producer: two write one answer",
        "clock: an hour ahead, and back", "sentinel: the master is cut off, and goes on taking writes",
        "cluster: a master is cut off"]  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_lost_doubled_or_undisclosed(name, tmp_path):
    findings, resets, _ = matrix.run(name, tmp_path)
    tolerated = matrix.TOLERATED.get(name, set())
    assert {kind: count for kind, count in findings.items() if count and kind not in tolerated} == {}
    assert [one for one in resets if matrix.NO_CAUSE in one] == []


@pytest.mark.parametrize("had, last, why", [
    ("0", "5-0.aa", "it had no entry to prove its place by"), ("4-0.ee", "5-0.aa", "what it had is lost"),
    ("4-0.bb", "5-0.ff", "told from a master that had been replaced"), ("5-0.aa", "4-0.bb", "told from a master that had been replaced"),
    ("1-0.dd", "5-0.aa", "what it had is lost"), ("4-0.bb", "5-0.aa", matrix.NO_CAUSE), ("4-0.bb", None, matrix.NO_CAUSE),
])  # fmt: skip
def test_a_reset_without_a_cause_is_told_from_others(had, last, why):
    assert matrix.cause(had, {"reason": "diverged", "last": last}, ["3-0.cc", "4-0.bb", "5-0.aa"]) == why
