"""Section 10 under whatever can be done to a stream by hand, at random, with devices that come, go and move.

`BATON_CHAOS_SEED=7 pytest test_chaos.py` replays one seed; `BATON_CHAOS_ROUNDS` makes it longer.
"""

import contextlib
import os
import random

import pytest
from support.checker import Broken, frame_of, offset, place
from support.servers import key

ROUNDS = int(os.environ.get("BATON_CHAOS_ROUNDS", "500"))
SEEDS = [int(os.environ["BATON_CHAOS_SEED"])] if "BATON_CHAOS_SEED" in os.environ else [1, 2, 3, 4]


# `entries-added` is a count, and a proof (section 4): a history that is put in another's place gets one of its own.
OWN_COUNT = """
local is = redis.pcall('XINFO', 'STREAM', KEYS[1])
if is.err then return 'absent' end
local info = {}
for i = 1, #is, 2 do info[is[i]] = is[i + 1] end
return redis.call('XSETID', KEYS[1], info['last-generated-id'], 'ENTRIESADDED', info['entries-added'] + ARGV[1])
"""


class Hand:
    """Does one random thing to the stream, often several in one transaction. Every entry's content is new."""

    def __init__(self, redis, session, random_):
        self.redis, self.key, self.session, self.random = redis, key(session), session, random_
        self.written = 0
        # A history's own: a response that goes on by its numbers is a proof of continuity (section 4).
        self.history = 0
        self.taken = set()
        self.counted = 0

    def act(self):
        deeds = [self.add] * 12 + [self.cap, self.trim, self.drop, self.drop_last, self.delete, self.again, self.restore, self.smaller]
        pipeline = self.redis.client.pipeline()
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self.random.choice(deeds)(pipeline)
            if self.history != self.counted:
                pipeline.eval(OWN_COUNT, 1, self.key, 1000 * self.history)
            # What is decided next must know what was done.
            with contextlib.suppress(Exception):
                done = pipeline.execute()
                if self.history != self.counted and done[-1] != b"absent":
                    self.counted = self.history

    def new(self):
        self.written += 1
        return {"data": f"e{self.written} ", **self.random.choice([{}, {"response": f"r{self.history}", "n": self.written}, {"event": "note"}])}

    def ids(self):
        return [entry[0] for entry in self.redis.stream(self.session)]

    def gone(self, entries):
        self.taken.update(offset(entry) for entry in entries)

    def add(self, pipeline):
        for _ in range(self.random.choice([1, 1, 2, 10])):
            pipeline.xadd(self.key, self.new())

    def cap(self, pipeline):
        self.gone(self.redis.stream(self.session))
        for _ in range(self.random.randint(1, 12)):
            fields = [part for pair in self.new().items() for part in pair]
            pipeline.execute_command("XADD", self.key, "MAXLEN", self.random.choice([1, 3, 20]), "*", *fields)

    def trim(self, pipeline):
        self.gone(self.redis.stream(self.session))
        pipeline.xtrim(self.key, maxlen=self.random.choice([0, 1, 5, 50]), approximate=False)

    def drop(self, pipeline):
        stream = self.redis.stream(self.session)
        if stream:
            chosen = self.random.sample(stream, min(len(stream), self.random.randint(1, 3)))
            self.gone(chosen)
            pipeline.xdel(self.key, *(entry[0] for entry in chosen))

    def drop_last(self, pipeline):
        stream = self.redis.stream(self.session)
        if stream:
            self.gone(stream[-1:])
            pipeline.xdel(self.key, stream[-1][0])

    def delete(self, pipeline):
        pipeline.delete(self.key)
        self.history += 1

    def again(self, pipeline):
        """The same ids, other content, and more: an offset whose entry is gone and whose id is the last generated continues (section 4)."""
        ids = self.ids()
        pipeline.delete(self.key)
        self.history += 1
        for id in ids:
            pipeline.xadd(self.key, self.new(), id=id)
        for _ in range(self.random.randint(1, 2)):
            pipeline.xadd(self.key, self.new())

    def restore(self, pipeline):
        """An older state, and other entries after it."""
        stream = self.redis.stream(self.session)
        kept = stream[: self.random.randint(0, len(stream))]
        pipeline.delete(self.key)
        self.history += 1
        for id, fields in kept:
            pipeline.execute_command("XADD", self.key, id, *(part for pair in fields for part in pair))
        for _ in range(self.random.randint(0, 3)):
            pipeline.xadd(self.key, self.new())

    def smaller(self, pipeline):
        pipeline.delete(self.key)
        self.history += 1
        for n in range(1, self.random.randint(2, 5)):
            pipeline.xadd(self.key, self.new(), id=f"{self.history}-{n}")


def compare(device, stream, taken):
    """What is retained after the device's base is what it holds, but for what it had and was taken out since."""
    with device.changed:
        if device.error:
            raise device.error
        view = device.view
        wanted = [frame_of(entry) for entry in stream if place(entry[0]) > place(view.base)]
        retained = {frame["id"] for frame in wanted}
        held = [frame for frame in view.judged if frame["id"] in retained or frame["id"] not in taken]
        if held != wanted:
            raise Broken(f"the device holds {[frame['id'] for frame in held]}, the stream {[frame['id'] for frame in wanted]}; "
                         f"its last frames: {device.frames[-8:]}")  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_done_to_the_stream_is_told(redis, gateway, gateway2, session, attach, seed):
    random_ = random.Random(seed)
    nodes = [gateway.url, gateway2.url]
    hand = Hand(redis, session, random_)
    devices = [attach(random_.choice(nodes), session, rollup="off", **random_.choice([{}, {"last": 5}, {"offset": "$"}]))
               for _ in range(6)]  # fmt: skip
    for turn in range(ROUNDS):
        hand.act()
        if random_.random() < 0.3:
            device = random_.choice(devices)
            device.cut()
            if random_.random() < 0.5:
                hand.act()
            device.query.pop("last", None)
            device.attach(random_.choice(nodes))
        if random_.random() < 0.1:
            # All come to rest: an entry that everybody must reach.
            last = redis.add(session, data=f"rest {turn}")
            last = offset(redis.stream(session)[-1])
            for device in devices:
                device.until(lambda device: device.view.offset == last and device.view.live, 30, f"seed {seed}, turn {turn}: {last}")
                compare(device, redis.stream(session), hand.taken)
