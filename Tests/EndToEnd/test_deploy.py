"""The files in Deploy and the compose file, by other means than Docker."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from support.process import BUILD, REPOSITORY, Process, free_port, wait_for
from support.producer import Model
from support.servers import request


def test_haproxy_accepts_its_file():
    environment = {"BATON_LISTEN": "127.0.0.1:1", "BATON_GATEWAY_1": "127.0.0.1:2", "BATON_GATEWAY_2": "127.0.0.1:3"}
    done = subprocess.run(["haproxy", "-c", "-f", REPOSITORY / "Deploy/haproxy/haproxy.cfg"],
                          env={**os.environ, **environment}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


@pytest.mark.parametrize("file", ["docker-compose.yml", "Deploy/redis/sentinel.yml", "Deploy/redis/cluster.yml"])
def test_the_compose_files_paths_and_options_exist(baton, file):
    compose = (REPOSITORY / file).read_text()
    for path in re.findall(r"(?:dockerfile: |\"\./)([\w./-]+)", compose):
        assert (REPOSITORY / path.partition(":")[0]).exists(), path
    help_ = subprocess.run([baton, "serve", "--help"], capture_output=True, text=True).stdout
    for option in re.findall(r"command: serve (.*)", compose):
        for name in re.findall(r"--[\w-]+", option):
            assert name in help_, name


def test_the_dockerfile_copies_what_exists_and_installs_what_the_binary_needs(baton):
    dockerfile = (REPOSITORY / "Deploy/Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, re.M):
        assert (REPOSITORY / source).exists(), source
    needed = subprocess.run(["ldd", baton], capture_output=True, text=True).stdout
    final = dockerfile.rpartition("FROM ")[2]
    assert "libhiredis.so.0.14" not in needed or "libhiredis0.14" in final
    assert "USER baton" in final


@pytest.mark.parametrize("words", ["nonsense", "format twice", "unit one two", "browser some", "repeat", "repeat 0", "repeat x"])
def test_the_test_command_says_what_it_takes(words):
    told = subprocess.run([REPOSITORY / "Tests/run", *words.split()], capture_output=True, text=True)
    assert told.returncode == 64 and told.stdout == ""
    for part in ("format", "unit [FILTER]", "browser", "e2e [ARGUMENTS]", "versions [ARGUMENTS]", "matrix [WORD…]", "repeat N"):
        assert f"Tests/run {part}" in told.stderr, part


SYSTEM = {"Foundation", "Dispatch", "Glibc", "Darwin", "Synchronization", "Testing"}


def test_what_is_declared_is_imported_and_nothing_else():
    package = json.loads(subprocess.run(["swift", "package", "dump-package"], cwd=REPOSITORY, capture_output=True, check=True).stdout)
    assert len(package["targets"]) > 15
    for target in package["targets"]:
        declared = {(one.get("byName") or one.get("product"))[0] for one in target["dependencies"]}
        folder = target.get("path") or ("Tests" if target["type"] == "test" else "Sources") + "/" + target["name"]
        imported = set()
        for file in (REPOSITORY / folder).rglob("*.swift"):
            imported |= set(re.findall(r"^\s*(?:@testable |package |public |internal )?import (\w+)", file.read_text(), re.M))
        assert imported - SYSTEM == declared, target["name"]


def test_the_unit_gives_the_gateway_little():
    unit = REPOSITORY / "Deploy/systemd/baton.service"
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=11", unit], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_an_app_gets_no_more_packages_than_the_libraries_need(tmp_path):
    """As the README's Swift section adds it."""
    line = re.search(r'^\.package\(url: ".*?", branch: "main", (.*?)\)', (REPOSITORY / "README.md").read_text(), re.M)[1]
    (tmp_path / "Package.swift").write_text(f"""// swift-tools-version: 6.2
import PackageDescription
let package = Package(
  name: "app", dependencies: [.package(path: "{REPOSITORY}", {line})],
  targets: [.executableTarget(name: "App", dependencies: [.product(name: "BatonClient", package: "{REPOSITORY.name}")])])
""")
    (tmp_path / "Sources/App").mkdir(parents=True)
    (tmp_path / "Sources/App/main.swift").write_text("import BatonClient\n")
    done = subprocess.run(["swift", "package", "show-dependencies", "--format", "json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(re.findall(r'"identity": "(.*?)"', done.stdout)) - {tmp_path.name.lower(), REPOSITORY.name.lower()}
    assert names == {"swift-nio", "swift-nio-ssl", "swift-log", "swift-atomics", "swift-collections", "swift-system"}


def test_the_demo_shows_an_answer_that_survives_a_killed_gateway():
    """Deploy/demo itself, with a stand-in for the model."""
    words = [f"word{n} " for n in range(600)]
    model = Model(words, pause=0.005)
    try:
        done = subprocess.run(
            [REPOSITORY / "Deploy/demo", "--terminal", "--openai", model.url, "--model", "m", "--prompt", "Tell."],
            env={**os.environ, "BATON_BUILD": str(BUILD), "BATON_PYTHON": sys.executable}, capture_output=True, text=True, timeout=120)
    finally:
        model.kill()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "".join(words).strip() in done.stdout
    assert "was killed with SIGKILL" in done.stdout and "exactly the 600 tokens" in done.stdout


def test_the_demo_serves_the_page_and_leaves_nothing_behind(tmp_path):
    """Deploy/demo as a newcomer starts it, with a stand-in for the model, ended by Ctrl-C."""
    port = free_port()
    model = Model(["x "])
    demo = Process(tmp_path, "demo", [REPOSITORY / "Deploy/demo", "--listen", f"127.0.0.1:{port}", "--openai", model.url],
                   {"BATON_BUILD": str(BUILD), "BATON_PYTHON": sys.executable})  # fmt: skip
    try:
        wait_for(lambda: serves_a_page(port, demo), 40, "the page")
        demo.signal(signal.SIGTERM)
        demo.wait(30)
        with pytest.raises(OSError):
            request(port, "GET", "/demo")
    finally:
        model.kill()
        demo.kill()


def serves_a_page(port, demo):
    assert demo.alive, demo.logged()
    with contextlib.suppress(OSError):
        return request(port, "GET", "/demo").status == 200
