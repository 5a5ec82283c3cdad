"""The package as it is installed from a checkout, and as a type checker sees it."""

import subprocess
import sys

import pytest
import test_readme
from support.process import REPOSITORY

PACKAGE = REPOSITORY / "Sources/BatonPython"


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory):
    """A fresh environment with the package, installed as the README says, but from no index: what it needs lies beside it."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    (ours,) = [path for path in sys.path if path.endswith("site-packages")]
    (site / "beside.pth").write_text(f"{ours}\n")
    line = test_readme.BLOCKS["pip"].replace("pip install", f"{folder}/venv/bin/pip install --no-index --no-deps --no-build-isolation")
    done = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "venv/bin/python"


def python(fresh_python, code, cwd="/"):
    done = subprocess.run([fresh_python, "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_whole(fresh_python):
    told = python(fresh_python, "import baton_stream, importlib.resources as r; print(baton_stream.__file__, *sorted(p.name for p in r.files(baton_stream).iterdir()))")
    where, *files = told.split()
    assert str(fresh_python.parents[1]) in where
    assert {path.name for path in (PACKAGE / "baton_stream").iterdir() if path.suffix != ".pyc"} - {"__pycache__"} <= set(files)


def test_the_readmes_lines_run(fresh_python, redis, gateway):
    redis.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    python(fresh_python, test_readme.command(test_readme.BLOCKS["python"], redis, gateway)[2])
    assert test_readme.run(test_readme.BLOCKS["attach"], redis, gateway).rstrip("\n") == "One more answer."


def test_a_device_needs_no_redis_client(fresh_python):
    python(fresh_python, "import sys; sys.modules['redis'] = None; import baton_stream, baton_stream.sync; baton_stream.attach('http://h', 's')")


def test_everything_that_is_promised_is_there(fresh_python):
    told = python(fresh_python, "import baton_stream, baton_stream.sync as s; print(len([getattr(m, n) for m in (baton_stream, s) for n in m.__all__]))")
    assert int(told) > 30


def test_its_version_is_that_of_the_other_clients(fresh_python):
    version = python(fresh_python, "import importlib.metadata, baton_stream; print(importlib.metadata.version('baton-stream'), baton_stream.__version__)")
    (line,) = [line for line in (REPOSITORY / "Sources/BatonGateway/Web/client/baton.js").read_text().splitlines() if line.startswith("export const version")]
    assert version.split() == [line.split("'")[1]] * 2


def test_its_types_are_right(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, "-p", "baton_stream"], cwd=PACKAGE, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_apps_types_are_checked(tmp_path):
    (tmp_path / "app.py").write_text(
        "import baton_stream\n\n\nasync def main() -> None:\n"
        "    async with baton_stream.Producer('redis://h', 's') as answer:\n        await answer.delta('x')\n"
        "    async for event in baton_stream.attach('http://h', 's', until='end'):\n"
        "        if isinstance(event, baton_stream.Entry):\n            reveal_type(event.text)\n"
        "    baton_stream.attach('http://h', 's', unti='end')\n"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, tmp_path / "app.py"], env={"MYPYPATH": str(PACKAGE)},
        capture_output=True, text=True, timeout=300)  # fmt: skip
    told = done.stdout.splitlines()
    assert "\"str\"" in told[0] and "unti" in told[1] and "1 error" in told[-1], done.stdout + done.stderr
