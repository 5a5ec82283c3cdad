"""RFC 6455 conformance: the Autobahn cases, run by kosoku against Tests/WebSocketEcho.

BATON_BUILD names the directory of the built products (default: .build/release).
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

BUILD = pathlib.Path(os.environ.get("BATON_BUILD", ".build/release"))
GROUPS = {"framing": "1 2 3 4 5 6 7 10", "limits": "9"}
CASES = {"framing": 247, "limits": 54}


@pytest.fixture
def echo():
    """The address of an echo server with limits beyond what the cases send."""
    arguments = ["--max-message", str(64 << 20), "--max-fragments", str(1 << 20)]
    process = subprocess.Popen([BUILD / "websocket-echo", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on ws://"), f"websocket-echo did not start: {line!r}"
        yield line.split("//")[1].strip()
    finally:
        process.kill()
        process.wait()


def kosoku() -> str:
    beside = pathlib.Path(sys.executable).with_name("kosoku")
    found = str(beside) if beside.exists() else shutil.which("kosoku")
    assert found, "kosoku is missing: pip install kosoku"
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_autobahn_cases(group, echo, tmp_path):
    include = [word for number in GROUPS[group].split() for word in ("-i", f"{number}.*")]
    run = subprocess.run(
        [kosoku(), "-m", "fuzzingclient", *include, "-o", tmp_path, echo], capture_output=True, text=True, timeout=600
    )
    assert (tmp_path / "index.json").exists(), run.stdout + run.stderr
    (cases,) = json.loads((tmp_path / "index.json").read_text()).values()
    good = {"OK", "NON-STRICT", "INFORMATIONAL"}
    failed = {name: case for name, case in cases.items() if {case["behavior"], case["behaviorClose"]} - good}
    assert not failed
    assert len(cases) == CASES[group]
    assert run.returncode == 0, run.stdout + run.stderr
