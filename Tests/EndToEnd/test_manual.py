"""Completions and manual pages know every option, `serve`'s among them."""

import re
import subprocess

import pytest
from support.process import BATON

COMMANDS = ["serve", "dev", "attach", "publish", "check", "token", "manual", "bench"]


def printed(*arguments):
    return subprocess.run([BATON, *arguments], capture_output=True, text=True, check=True).stdout


def options(command):
    return set(re.findall(r"^  (--[a-z][a-z-]*)", printed(command, "--help"), re.M)) - {"--version"}


@pytest.fixture(scope="module")
def serve():
    found = options("serve")
    assert len(found) > 60
    return found


def complete(script, *words):
    line = f'source {script}; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _baton baton "{words[-1]}" "{words[-2]}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return {word.strip() for word in subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout.split()}


def test_bash_completes_the_options_of_serve(serve, tmp_path):
    script = tmp_path / "baton.bash"
    script.write_text(printed("--generate-completion-script", "bash"))
    assert serve <= complete(script, "baton", "serve", "--")
    assert complete(script, "baton", "serve", "--redis", "redis://a", "--listen-b") == {word for word in serve if word.startswith("--listen-b")}
    assert complete(script, "baton", "serve", "--wakeup", "t") == {"tracking"}
    (tmp_path / "keys.json").touch()
    assert complete(script, "baton", "serve", "--auth-jwks", f"{tmp_path}/ke") == {f"{tmp_path}/keys.json"}
    assert "--sessions" in complete(script, "baton", "token", "--")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_of_them(serve, shell):
    script = printed("--generate-completion-script", shell)
    assert {option for option in serve if f"'{option}" in script or f"-l '{option[2:]}'" in script} == serve


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_manual_pages(command, tmp_path):
    page = tmp_path / "baton.1"
    page.write_text(printed("manual", *filter(None, [command])))
    checked = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    # The same page whenever it is printed.
    assert [line for line in checked.stdout.splitlines() if "missing date" not in line] == []
    shown = subprocess.run(["mandoc", "-T", "ascii", "-O", "width=400", page], capture_output=True, text=True, check=True).stdout
    shown = re.sub(r".\x08", "", shown)
    for one in [command] if command else COMMANDS:
        assert {option for option in options(one) if not re.search(rf"^ +{option}\b", shown, re.M)} == set()
    assert re.search(r"^ +78\b", shown, re.M)
    if command == "serve":
        assert "Environment: BATON_REDIS." in shown


def test_a_manual_of_nothing():
    done = subprocess.run([BATON, "manual", "nothing"], capture_output=True, text=True)
    assert done.returncode == 64 and "nothing" in done.stderr
