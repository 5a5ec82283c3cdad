"""What the README says runs: its marked blocks as they are, but for the ports and the folder of the build."""

import re
import subprocess
import sys

import pytest
from support.process import BATON, REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCKS = {
    name: text
    for name, text in re.findall(r"<!-- tested: ([\w-]+) -->\n```\w+\n(.*?)```", README, re.S)
}


def run(block, redis, gateway):
    text = re.sub(r"\.build/release/baton( publish)?", lambda found: BATON + (f" publish --redis {redis.url}" if found[1] else ""), block)
    text = text.replace("redis-cli ", f"redis-cli -p {redis.port} ").replace("redis.Redis()", f"redis.Redis(port={redis.port})")
    text = text.replace("127.0.0.1:8080", gateway.address)
    shell = [sys.executable, "-c", text] if "import redis" in text else ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh(redis):
    redis.client.delete("baton:{chat-42}")
    return redis


@pytest.mark.parametrize("name, text", [
    ("redis-cli", "Hello, world."), ("python", "One more answer."), ("publish", "One line\nis one delta.\n"),
])  # fmt: skip
def test_each_producer_reaches_the_terminal(fresh, gateway, name, text):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    run(BLOCKS[name], fresh, gateway)
    assert run(BLOCKS["attach"], fresh, gateway).rstrip("\n") == text.rstrip("\n")


def test_history_is_one_page(fresh, gateway):
    fresh.client.delete("baton:{chat-42}", "baton:{chat-42}:producers")
    run(BLOCKS["redis-cli"], fresh, gateway)
    assert "\"entries\"" in run(BLOCKS["history"], fresh, gateway)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target):
    assert (REPOSITORY / target).exists(), target


@pytest.mark.parametrize("option", sorted(set(re.findall(r"^\| `(--[\w-]+)", README, re.M))))
def test_an_option_exists(option):
    assert option in subprocess.run([BATON, "serve", "--help"], capture_output=True, text=True).stdout
