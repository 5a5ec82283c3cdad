"""What one response's producer does: when it calls the atomic step with what, and what it makes of the answers.

Tell it what happened, then ask `next` for the call to make. One call is on its way at a time. It has no clock and no socket; all times
are seconds on a clock that never goes back. The Swift library's ResponseWriter is the same.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any

from ._errors import Deleted, Ended, Fenced, ProducerError, Refused, Unavailable

Item = tuple[Any, ...]
"""As in the article on the atomic step: `("deltas", text, …)`, `("part", name, text, …)`, `("event", name, value, …)`, `("start", …)`, `("end", …)`, `("gap", n)`."""

_CALL_LIMIT = 256 * 1024  # one call carries so many bytes, or one item
_JOIN_LIMIT = 64 * 1024  # one joined entry holds so many bytes, or one delta: what a gateway joins to at most


@dataclass
class Times:
    """Seconds, but for `keep`."""

    window: float = 0.02  # deltas within it travel as one entry
    lease: float = 5.0  # how often the lease's token changes
    keep: int = 1024 * 1024  # bytes that are kept to append them again; as many may wait for Redis
    keep_after_end: float = 10.0
    probe: float = 1.0  # how often to ask in that time whether Redis still has it all
    patience: float | None = 60.0  # None: waits for Redis without end


class Kept:
    """The newest items of a response: one number each, without gaps."""

    def __init__(self) -> None:
        self.last = 0  # the number of the newest; 0 before the first
        self.known = 0  # up to here Redis has them
        self.unknown_bytes = 0
        self._bytes = 0
        self._items: deque[tuple[Item, int]] = deque()

    @property
    def _base(self) -> int:
        """The number before the oldest that is kept."""
        return self.last - len(self._items)

    def began(self, after: int) -> None:
        """Goes on behind another writer's items."""
        self.last = self.known = after

    def append(self, item: Item) -> None:
        cost = 64 + sum(len(part) for part in item[1:])
        self._items.append((item, cost))
        self.last += 1
        self._bytes += cost
        self.unknown_bytes += cost

    def is_known(self, through: int) -> None:
        """Redis has all up to there and nothing behind it."""
        through = min(through, self.last)
        low, high = (max(n, self._base) for n in sorted((through, self.known)))
        cost = sum(cost for _, cost in itertools.islice(self._items, low - self._base, high - self._base))
        self.unknown_bytes += cost if through < self.known else -cost
        self.known = through

    def trim(self, limit: int) -> None:
        """Forgets what Redis has, oldest first, until so many bytes are left."""
        while self._bytes > limit and self._base < self.known:
            self._bytes -= self._items.popleft()[1]

    def clear(self) -> None:
        self._items.clear()
        self._bytes = self.unknown_bytes = 0
        self.known = self.last

    def unknown(self) -> tuple[list[Item], int]:
        """What Redis does not have, as far as one call carries it, and the last number in it."""
        items: list[Item] = [("gap", self._base)] if self.known < self._base else []
        through, size = max(self.known, self._base), 0
        run: list[bytes] = []
        for item, cost in itertools.islice(self._items, through - self._base, None):
            if size > 0 and size + cost > _CALL_LIMIT:
                break
            size += cost
            through += 1
            is_delta = item[0] == "delta"
            if run and (not is_delta or sum(map(len, run)) + len(item[1]) > _JOIN_LIMIT):
                items.append(("deltas", *run))
                run = []
            if is_delta:
                run.append(item[1])
            else:
                items.append(item)
        if run:
            items.append(("deltas", *run))
        return items, through


class Writer:
    """`phase`: opening, open, ended (all is there, and kept for a while because Redis may lose it yet), released, failed."""

    def __init__(self, response: str, writer: str, start: Item, times: Times, now: float) -> None:
        self.phase = "opening"
        self.failure: ProducerError | None = None
        self.items = Kept()
        self.inbox = "0-0"  # the inbox's newest entry when the response was opened
        self.ending: Item | None = None
        self.last_refusal = "it does not answer"
        self._response, self._writer, self._start, self._times = response, writer, start, times
        self._epoch = 0
        self._generation: str = ""
        self._renewals = 0
        self._refusals = 0
        self._flight: int | None = None  # where the call that is on its way begins
        self._is_lost = False  # Redis has lost sight of the response: open it again
        self._due: float | None = now  # when what waits must go
        self._renew_at: float | None = None
        self._probe_at: float | None = None
        self._release_at: float | None = None
        self._not_before = now
        self._waiting_since: float | None = now  # since when Redis owes an answer

    @property
    def has_room(self) -> bool:
        """Whether more may be appended; otherwise wait for an answer."""
        return self.items.unknown_bytes < self._times.keep

    @property
    def is_over(self) -> bool:
        return self.phase in ("released", "failed")

    # The app

    def appended(self, item: Item, now: float) -> None:
        waits = item[0] == "delta" and self.items.last > 0
        self.items.append(item)
        due = now + self._times.window if waits else now
        self._due = due if self._due is None else min(due, self._due)
        self._owes(now)

    def ended(self, item: Item, now: float) -> None:
        self.ending = item
        self._due = now
        self._owes(now)

    def failed(self, error: ProducerError) -> None:
        if not self.is_over:
            self.phase, self.failure = ("released" if self.phase == "ended" else "failed"), error
            self.items.clear()

    def moved(self, now: float) -> None:
        """Another master may be there: asks at once what it has."""
        self._due = now

    # Redis

    def refused(self, why: str, now: float, random: float) -> None:
        """For the time being, or the answer is lost; it may have been done. `random`: in [0, 1)."""
        self._flight = None
        self.last_refusal = why
        self._not_before = now + (0.5 + random / 2) * min(2.0, 0.05 * 2 ** min(self._refusals, 10))
        self._refusals += 1
        self._due = now

    def replied(self, reply: list[str], now: float) -> None:
        flight, self._flight = self._flight, None
        if flight is None or self.is_over:
            return
        self._waiting_since = None
        self._refusals = 0
        match reply:
            case ["ok", epoch, n, state, generation, _, *inbox]:
                self._written(int(epoch), int(n), state, generation, inbox[0] if inbox else "0-0", now)
            case ["rewind", n] if int(n) + 1 < flight:
                self.items.is_known(int(n))
                self._resume(now)
            case ["lost"] if self.phase != "opening":
                self._is_lost = True
                self.items.is_known(0)
                self._resume(now)
            case ["fenced", *_]:
                self.failed(Fenced("a newer producer has taken this response over"))
            case ["deleted"]:
                self.failed(Deleted("the session was deleted"))
            case ["ended", _, state]:
                self.failed(Ended(f"the response has ended already, by {state}"))
            case ["wrong_type", key]:
                self.failed(Refused(f"the key {key} holds another type"))
            case _:
                self.failed(Refused(f"the script answered {reply}, which does not fit what was sent"))

    def _written(self, epoch: int, n: int, state: str, generation: str, inbox: str, now: float) -> None:
        self._epoch = epoch
        self._generation = self._generation or generation
        self._is_lost = False
        if self.phase == "opening":
            if state != "open":  # recovered from a stream that had lost its state
                return self.failed(Ended(f"the response has ended already, by {state}"))
            self.phase, self.inbox = "open", inbox
            self.items.began(n)
        else:
            self.items.is_known(n)
        self.items.trim(self._times.keep)
        if state != "open" and self.phase == "open":
            self.phase = "ended"
            self._release_at = now + self._times.keep_after_end
        elif state == "open" and self.phase == "ended":
            self._resume(now)
        if self.phase == "ended":
            self._probe_at = now + self._times.probe
        if self._due is not None or self.items.known < self.items.last:
            self._waiting_since = now

    def _resume(self, now: float) -> None:
        """Something that Redis had is gone."""
        if self.phase == "ended":
            self.phase = "open"
        self._due = now
        self._waiting_since = now

    def _owes(self, now: float) -> None:
        if self._waiting_since is None:
            self._waiting_since = now

    # What to do

    def next(self, now: float) -> tuple[Any, ...] | None:
        """The call to make now, if any: `open` or `append`, and the arguments behind `CAP`."""
        if self.phase == "ended" and self._release_at is not None and self._release_at <= now:
            self.phase = "released"
            self.items.clear()
        if self._gives_up_at is not None and self._gives_up_at <= now:
            self.failed(Unavailable(f"Redis is out of reach: {self.last_refusal}"))
        if self.is_over or self._flight is not None or self._not_before > now:
            return None
        if not any(at is not None and at <= now for at in (self._due, self._renew_at, self._probe_at)):
            return None
        if self.phase == "ended":
            self._renew_at = None
            self._probe_at = now + self._times.probe
        elif self.phase == "opening":
            self._renew_at = now + self._times.lease
        elif self._renew_at is None or self._renew_at <= now:
            self._renewals += 1
            self._renew_at = now + self._times.lease
        return self._call(now)

    def _call(self, now: float) -> tuple[Any, ...]:
        is_opening = self.phase == "opening" or self._is_lost
        first = self.items.known + 1
        sent, through = self.items.unknown()
        if is_opening:
            sent.insert(0, self._start)
        is_all = through == self.items.last
        if is_all and self.phase != "ended" and self.ending:
            sent.append(self.ending)
        self._due = None if is_all else now
        self._owes(now)
        self._flight = first
        token = f"{self._writer}.{self._renewals}"
        return "open" if is_opening else "append", self._response, self._epoch, self._generation, token, first, *flat(sent)

    @property
    def _gives_up_at(self) -> float | None:
        if self._times.patience is None or self._waiting_since is None:
            return None
        return self._waiting_since + self._times.patience

    @property
    def wake_at(self) -> float | None:
        """When to ask `next` again if nothing else happens."""
        if self.is_over:
            return None
        times = [self._gives_up_at, self._release_at if self.phase == "ended" else None]
        if self._flight is None:
            due = [at for at in (self._due, self._renew_at, self._probe_at) if at is not None]
            times.append(max(min(due), self._not_before) if due else None)
        return min((at for at in times if at is not None), default=None)


def flat(items: list[Item]) -> list[Any]:
    """Items as the script's arguments."""
    arguments: list[Any] = []
    for kind, *values in items:
        arguments.append(kind)
        if kind == "part":
            arguments.append(values.pop(0))
        if kind in ("deltas", "part"):
            arguments.append(len(values))
        elif kind != "gap":
            arguments.append(len(values) // 2)
        arguments += values
    return arguments
