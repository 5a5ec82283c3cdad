"""The files in Deploy and the compose file, by other means than Docker."""

import os
import re
import subprocess

from support.process import BUILD, REPOSITORY
from support.producer import Model
import sys


def test_haproxy_accepts_its_file():
    environment = {"BATON_LISTEN": "127.0.0.1:1", "BATON_GATEWAY_1": "127.0.0.1:2", "BATON_GATEWAY_2": "127.0.0.1:3"}
    done = subprocess.run(["haproxy", "-c", "-f", REPOSITORY / "Deploy/haproxy/haproxy.cfg"],
                          env={**os.environ, **environment}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


def test_the_compose_files_paths_and_options_exist(baton):
    compose = (REPOSITORY / "docker-compose.yml").read_text()
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


def test_the_demo_shows_an_answer_that_survives_a_killed_gateway():
    """Deploy/demo itself, with a stand-in for the model."""
    words = [f"word{n} " for n in range(600)]
    model = Model(words, pause=0.005)
    try:
        done = subprocess.run(
            [REPOSITORY / "Deploy/demo", "--openai", model.url, "--model", "m", "--prompt", "Tell."],
            env={**os.environ, "BATON_BUILD": str(BUILD), "BATON_PYTHON": sys.executable}, capture_output=True, text=True, timeout=120)
    finally:
        model.kill()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "".join(words).strip() in done.stdout
    assert "was killed with SIGKILL" in done.stdout and "exactly the 600 tokens" in done.stdout
