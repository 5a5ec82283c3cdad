"""The transcripts that every Baton client runs, by `baton_stream`'s machine."""

import json

import pytest
from baton_stream._machine import Limits, Machine
from support.process import REPOSITORY

FOLDER = REPOSITORY / "Tests/Conformance/client"
CASES = json.loads((FOLDER / "core.json").read_text())
NAMES = {"renewsToken": "renews_token", "maxUnanswered": "max_unanswered"}


def named(action, expected):
    """Of a frame the members that the case names; the receiver ignores the others."""
    if "frame" not in action or "frame" not in expected:
        return action
    return {**action, "frame": {name: value for name, value in action["frame"].items() if name in expected["frame"]}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_transcript(case):
    machine = Machine(**{NAMES.get(name, name): value for name, value in case.get("options", {}).items()})
    at = 0
    for number, step in enumerate(case["steps"], 1):
        step = dict(step)
        at = step.pop("at", at)
        expected, offset = step.pop("then", []), step.pop("offset", None)
        actions = machine.handle(at=at, random=step.pop("random", 0.5), **step)
        assert [named(*pair) for pair in zip(actions, expected)] == expected and len(actions) == len(expected), f"step {number}: {actions}"
        assert offset is None or machine.offset == offset, f"the offset after step {number}"


def test_there_are_cases():
    assert len(CASES) >= 91


def test_the_constants_are_those_of_every_client():
    (case,) = json.loads((FOLDER / "limits.json").read_text())
    ours = {name: value for name, value in vars(Limits).items() if not name.startswith("_")}
    snake = lambda name: "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    assert ours == {snake(name): value for name, value in case["limits"].items()}
