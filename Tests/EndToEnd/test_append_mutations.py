"""Each rule of the script, broken on purpose, is noticed by the case that is named for it."""

import json

import pytest
import redis

import baton_stream._redis
from test_append_script import CASES, redis_server, run_case

MUTATIONS = {
    "forgets the fence": ("return { 'fenced', int(is.epoch) }", "is.token = token", "fencing"),
    "does not cut overlaps": ("math.max(n - position, 0)", "0", "retries"),
    "cuts one too few": ("at + known + 1, at + count)", "at + known, at + count)", "retries"),
    "takes gaps": ("if position > is.n then return", "if false then return", "gaps"),
    "forgets declared gaps": ("position = math.max(position, number())", "number()", "gaps"),
    "does not join": ("if joined > 1 then", "if false then", "whole"),
    "goes on after the end": ("if is.state ~= 'open' then\n    if not mine", "if false then\n    if not mine", "ended"),
    "starts again": ("if new then entries[#entries + 1] = extend({ 'event', 'start'", "if true then entries[#entries + 1] = extend({ 'event', 'start'", "fencing"),
    "forgets deletions": ("if opened ~= '' and deleted", "if false and deleted", "deleted"),
    "overlooks a DEL by hand": ("if types[1] == 'none'", "if false", "deleted-by-hand"),
    "takes loss for a beginning": ("if op == 'append' then return { 'lost' } end", "", "loss"),
    "expires any token": ("or is.token ~= token then return { 'changed' }", "then return { 'changed' }", "lease"),
    "expires any epoch": ("or is.epoch ~= epoch or", "or", "lease"),
    "lets any writer go on": ("local mine = is and writer(is.token) == writer(token)", "local mine = is and true", "fencing"),
    "forgets who took over": ("math.max(epoch, is.epoch)", "is.epoch", "take-over-lost"),
    "forgets keys": ("if scope ~= '' then redis.call('HSET'", "if false then redis.call('HSET'", "put"),
    "takes any body for the same": ("if seen ~= print then", "if false then", "put"),
    "overlooks another type": ("if is ~= types[i] and is ~= 'none'", "if false", "wrong-type"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_server("redis-server", tmp_path_factory.mktemp("redis")) as client:
        yield client


@pytest.mark.parametrize("name", MUTATIONS)
def test_is_noticed(name, server, monkeypatch):
    right, wrong, case = MUTATIONS[name]
    assert baton_stream._redis.SCRIPT.count(right) == 1, "the script has changed: mend the mutation"
    path = next(path for path in CASES if path.stem == case)
    run_case(server, f"{case}-right-{abs(hash(name))}", json.loads(path.read_text()))
    monkeypatch.setattr(baton_stream._redis, "SCRIPT", baton_stream._redis.SCRIPT.replace(right, wrong))
    with pytest.raises((AssertionError, redis.ResponseError)):
        run_case(server, f"{case}-wrong-{abs(hash(name))}", json.loads(path.read_text()))
