"""What an entry costs on its way from Redis' reply to the frames, in instructions that callgrind counts: the same each time.

After a change that is meant to cost more or less: `.venv/bin/python Tests/EndToEnd/test_instructions.py` prints the figures.
"""

import os
import re
import shutil
import subprocess
import tempfile

import pytest
from support.process import BUILD

# For each delivered entry, by Swift 6.3.1, hiredis 0.14 and zlib 1.2.13, x86-64.
RECORDED = {"sessions": 18_399, "fanout": 544, "storm": 4_251}


def instructions(workload):
    """For each delivered entry: what 20 rounds more need, so that what happens once is left out."""
    with tempfile.TemporaryDirectory() as folder:
        # Without the debugging sections, which valgrind can't read.
        program = shutil.copy(BUILD / "count", folder)
        subprocess.run(["strip", "-g", program], check=True)

        def run(rounds):
            done = subprocess.run(
                ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", program, workload, str(rounds)],
                env={**os.environ, "SWIFT_DETERMINISTIC_HASHING": "1"}, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-2000:]
            return int(re.search(r"Collected : (\d+)", done.stderr)[1]), int(done.stdout.split()[0])

        (few, delivered), (many, more) = run(10), run(30)
        return (many - few) / (more - delivered)


@pytest.mark.parametrize("workload", RECORDED)
def test_no_entry_costs_more_than_it_did(workload):
    counted = instructions(workload)
    assert counted <= RECORDED[workload] * 1.05, f"{counted:.0f} instructions for each delivered entry of {workload}"


if __name__ == "__main__":
    for workload in RECORDED:
        print(workload, round(instructions(workload)))
