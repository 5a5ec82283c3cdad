"""The representative part of the fault matrix; `Tests/run matrix` is the whole."""

import matrix
import pytest

ROWS = ["gateway: SIGKILL", "redis: SIGKILL, without persistence", "redis: full, noeviction", "redis: evicts, volatile-lru",
        "network: cut", "network: half-open, then reset", "producer: frozen for 3 s", "producer: two write one answer",
        "clock: an hour ahead, and back", "sentinel: the master is cut off, and goes on taking writes",
        "cluster: a master is cut off"]  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_lost_doubled_or_undisclosed(name, tmp_path):
    findings, _, _ = matrix.run(name, tmp_path)
    tolerated = matrix.TOLERATED.get(name, set())
    assert {kind: count for kind, count in findings.items() if count and kind not in tolerated} == {}
