"""Appends one answer to a session, safely: nothing twice, nothing lost that it still has, and an honest end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict

from ._errors import Cancelled, Ended, ProducerError, Refused, TooLarge, Unavailable
from ._machine import ENDINGS
from ._redis import FAILURES, Step, connect, is_final, text
from ._writer import Item, Times, Writer

__all__ = ["Message", "Producer", "ProducerOptions", "connect"]

log = logging.getLogger("baton_stream")

End = Literal["end", "error", "cancelled"]

_GLANCE = 0.1  # seconds between two looks at the inbox: several fit into the 250 ms promised
_DELTA_LIMIT = 128 * 1024  # bytes of one delta
_ENTRY_LIMIT = 256 * 1024  # bytes of names and values that reach every device (`--max-entry-bytes`)
_OF_THE_PROTOCOL = {"start", "token", "input", *ENDINGS}
_FIELDS_OF_THE_PROTOCOL = {"data", "event", "response", "n", "joined", ""}


@dataclass(frozen=True, slots=True)
class Message:
    """What a person did on a device while a response was open."""

    kind: Literal["input", "cancel"]
    id: str
    """In the inbox."""
    data: str = ""
    """What was said; empty for a cancel."""
    device: str | None = None
    subject: str | None = None
    """The token's `sub`."""


class ProducerOptions(TypedDict, total=False):
    """What a producer does with its session, and how long it waits."""

    data: str
    """Of the response's `start`."""
    prefix: str
    """Of the keys, as the gateways have it; `baton:` unless told."""
    retention: float
    """The session's keys vanish so many seconds after their last append; a day unless told."""
    max_entries: int
    """The newest that the session keeps; 100,000 unless told."""
    window: float
    """Seconds; deltas within it travel as one entry, but for the first, which goes at once. 0.02 unless told."""
    kept_bytes: int
    """Of a response that are kept to append them again after Redis lost them; as many may wait for Redis, then `delta` waits. 1 MiB unless told."""
    open_patience: float | None
    """Seconds for which opening waits for Redis; 10 unless told, None for as long as it takes."""
    patience: float | None
    """The same for an open response; 60 unless told."""


class Producer:
    """One response of a session.

        async with Producer("redis://127.0.0.1:6379/0", "chat-42") as answer:
            async for token in model:
                await answer.delta(token)

    The block's end is the answer's: `end`; `error` where an exception leaves it; `cancelled` where a device asked to stop (the block is
    cancelled then, as by `asyncio.timeout`, and goes no further; what it still appends belongs to the answer) or the task is cancelled.
    Without `with`: `open`, then `end`.

    redis: an address (`redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`) or a client of `redis.asyncio`, which
        several producers may share and which stays open.
    response: 1 to 128 characters; a fresh name unless told. One that is open is taken over, and its numbers go on.
    All else: `ProducerOptions`.
    """

    def __init__(
        self,
        redis: Any,
        session: str,
        response: str | None = None,
        *,
        data: str | None = None,
        prefix: str = "baton:",
        retention: float = 24 * 60 * 60,
        max_entries: int = 100_000,
        window: float = 0.02,
        kept_bytes: int = 1024 * 1024,
        open_patience: float | None = 10,
        patience: float | None = 60,
    ) -> None:
        self.session = session
        self.response = response or f"r-{secrets.token_hex(8)}"
        # A tenant's session is TENANT/NAME.
        for name in (*session.split("/", 1), self.response):
            if not re.fullmatch(r"[A-Za-z0-9._~:@-]{1,128}", name) or name in (".", ".."):
                raise ValueError(f"{name!r} can't name a session or a response")
        if retention < 0.001 or max_entries < 1:
            raise ValueError("retention is 0.001 s and up, max_entries 1 and up")
        self._redis, self._start, self._open_patience = redis, _fields(data=data), open_patience
        self._times = Times(window=window, keep=kept_bytes, patience=patience)
        self._limits: dict[str, Any] = {"prefix": prefix, "ttl": int(retention * 1000), "cap": max_entries}
        self._driver: _Driver | None = None
        self._body: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"Producer({self.session!r}, {self.response!r})"

    async def open(self) -> Self:
        """Begins the response, or takes over one that is open: its former producer is fenced. Raises `ProducerError`."""
        if self._driver is None:
            is_mine = isinstance(self._redis, str)
            client = connect(self._redis) if is_mine else self._redis
            self._driver = _Driver(Step(client, self.session, **self._limits), self.response, ("start", *self._start), self._times, is_mine)
        driver = self._driver
        try:
            async with asyncio.timeout(self._open_patience):
                await driver.until(lambda: driver.writer.phase != "opening")
        except TimeoutError:
            driver.fail(Unavailable(f"Redis is out of reach: {driver.writer.last_refusal}"))
            raise driver.writer.failure or TimeoutError from None
        except asyncio.CancelledError:
            driver.let_go()
            raise
        return self

    async def delta(self, data: str | bytes) -> None:
        """Appends a piece of text; bytes may be a part of a character. Returns when it is taken, before Redis has it, and waits while too
        much is on its way. Raises `ProducerError`, also for what was taken earlier.
        """
        for piece in _pieces(data.encode(errors="replace") if isinstance(data, str) else bytes(data)):
            await self._append(("delta", piece))

    async def event(self, event: str, data: str | None = None, **fields: str) -> None:
        """Appends another entry, at once and by itself.

        event: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`, none of the protocol's own.
        data, fields: together with the response's name they may have 256 KiB. Raises `TooLarge`, `ValueError`, and as `delta`.
        """
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", event) or event in _OF_THE_PROTOCOL:
            raise ValueError(f"{event!r} can't be an event of an app")
        if wrong := [name for name in fields if name in _FIELDS_OF_THE_PROTOCOL or name.startswith("_")]:
            raise ValueError(f"the protocol has the field {wrong[0]!r} for itself")
        await self._append(self._checked("event", *_fields(event=event, data=data, **fields)))

    async def end(self, how: End = "end", data: str | None = None) -> None:
        """Ends the response, and returns when Redis has all of it. `data`: such as finish reason and usage, as JSON.

        The first end counts: the same once more waits for it, another raises `Ended`. For 10 s more the producer looks whether Redis still
        has it, and appends again what a failover lost.
        """
        if how not in ENDINGS:
            raise ValueError(f"a response ends by end, error or cancelled, not {how!r}")
        item = self._checked(how, *_fields(data=data))
        driver = self._opened()
        driver.raise_failure()
        if driver.writer.ending is None:
            driver.end(item)
        elif driver.writer.ending[0] != how:
            raise Ended(f"the response has ended already, by {driver.writer.ending[0]}")
        await driver.until(lambda: driver.writer.phase in ("ended", "released"))

    async def messages(self) -> AsyncGenerator[Message, None]:
        """What people do on devices meanwhile, within 250 ms, until the response ends: a cancel of it (also one from before it was opened),
        told before inputs that wait, and inputs from its opening on.
        """
        driver = self._opened()
        after, has_told = driver.writer.inbox, False
        while True:
            end = driver.inbox_end
            try:
                entries = await driver.step.inbox(after, 64) if _id(end) > _id(after) else []
            except FAILURES:
                await asyncio.sleep(_GLANCE)
                continue
            for message in [*(driver.message(*entry) for entry in entries), None]:
                if driver.cancel and not has_told:
                    has_told = True
                    yield driver.cancel
                if message:
                    after = message.id
                    if message.kind == "input":
                        yield message
            if entries:
                after = entries[-1][0]
                continue
            after = max(after, end, key=_id)
            if driver.writer.phase != "open":
                return
            await driver.until(lambda: driver.inbox_end != end or driver.writer.phase != "open" or driver.cancel and not has_told)

    @property
    def is_cancelled(self) -> bool:
        """A device has asked to stop."""
        return self._driver is not None and self._driver.cancel is not None

    @property
    def ending(self) -> End | None:
        """How this producer has ended the response, so far."""
        item = self._driver and self._driver.writer.ending
        return item[0] if item else None

    @property
    def n(self) -> int:
        """The number of the last delta or event that was taken; after `open` the one that others go on after."""
        return self._opened().writer.items.last

    async def aclose(self) -> None:
        """Closes the connection; a response that is open ends by `error`. Over Sentinels it waits until a replica has the end, up to 10 s,
        and over a cluster for 10 s: what a failover loses meanwhile is appended again.
        """
        if self._driver:
            self._driver.let_go()
            await self._driver.stop()

    async def __aenter__(self) -> Self:
        await self.open()
        self._body = asyncio.current_task()
        self._cancelling = self._body.cancelling() if self._body else 0
        self._opened().on_cancel(self._stop)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        driver, body, self._body = self._opened(), self._body, None
        driver.on_cancel(None)
        is_stopped = body is not None and driver.has_stopped and body.uncancel() <= self._cancelling
        if isinstance(error, ProducerError) and driver.writer.failure is error:
            return False
        if self.ending is None:
            if self.is_cancelled:
                await self.end("cancelled", '{"reason":"cancel"}')
            elif kind is None:
                await self.end()
            elif issubclass(kind, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)):
                driver.end(("cancelled", *_fields(data='{"reason":"cancelled"}')))
                with contextlib.suppress(asyncio.TimeoutError, ProducerError):
                    async with asyncio.timeout(1):
                        await driver.until(lambda: driver.writer.phase != "open")
            else:
                await self.end("error", '{"reason":"producer_error"}')
        return kind is not None and (issubclass(kind, Cancelled) or is_stopped and issubclass(kind, asyncio.CancelledError))

    def __del__(self) -> None:
        if driver := getattr(self, "_driver", None):
            driver.forgotten()

    def _stop(self) -> None:
        if self._body:
            self._body.cancel()

    def _opened(self) -> _Driver:
        if self._driver is None:
            raise RuntimeError("the response is not open")
        return self._driver

    def _checked(self, *item: Any) -> Item:
        size = sum(len(part) for part in item[1:]) + len(self.response) + 40  # the step adds `response` and a number
        if size > _ENTRY_LIMIT:
            raise TooLarge(f"the entry would have {size} bytes, {_ENTRY_LIMIT} reach devices; put it elsewhere and append a link")
        return item

    async def _append(self, item: Item) -> None:
        driver = self._opened()
        writer = driver.writer
        await driver.until(lambda: writer.phase != "opening" and writer.has_room or writer.ending is not None)
        if writer.ending is not None:
            raise Ended(f"the response has ended already, by {writer.ending[0]}")
        driver.append(item)
        await asyncio.sleep(0)  # so that it goes, also where the model's tokens are all there


class _Driver:
    """Acts for one `Writer`. It lives as long as Redis is owed something, whoever still holds the producer."""

    def __init__(self, step: Step, response: str, start: Item, times: Times, owns_client: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self.step, self._response, self._owns_client = step, response, owns_client
        self.writer = Writer(response, secrets.token_hex(8), start, times, self._loop.time())
        self.cancel: Message | None = None
        self.has_stopped = False
        self._told: Callable[[], None] | None = None
        self._is_let_go = False
        self._asks_replicas = self._is_replicated = False
        self._master: Any = None
        self.inbox_end = "0-0"  # everything up to here was looked at for cancels
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._task = self._loop.create_task(self._run())

    # What the producer asks for

    def append(self, item: Item) -> None:
        self.writer.appended(item, self._loop.time())
        self._wake.set()

    def end(self, item: Item) -> None:
        self.writer.ended(item, self._loop.time())
        self._notify()
        self._wake.set()

    def fail(self, error: ProducerError) -> None:
        self.writer.failed(error)
        self._notify()
        self._wake.set()

    def let_go(self) -> None:
        """Nobody holds the response any more: without an end of its own it ends by `error`."""
        self._is_let_go = True
        self._end_if_let_go()
        self._wake.set()

    def forgotten(self) -> None:
        """As `let_go`, from any thread."""
        if not self._is_let_go and not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.let_go)

    def on_cancel(self, told: Callable[[], None] | None) -> None:
        self._told = told
        self._tell_cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        """Raises why the response has failed."""
        while True:
            self.raise_failure()
            if condition():
                return
            await self._changed.wait()

    def raise_failure(self) -> None:
        if self.writer.phase == "failed" and self.writer.failure:
            raise self.writer.failure

    async def stop(self) -> None:
        """Waits until Redis has what it is owed, for a while, and where a failover may lose it until a replica has it."""
        with contextlib.suppress(ProducerError, TimeoutError):
            async with asyncio.timeout(10):
                await self.until(lambda: self.writer.phase in ("ended", "released"))
            if self.step.may_fail_over:
                with contextlib.suppress(*FAILURES):
                    await self._follow(at_once=True)
                self._asks_replicas = True
                self.writer.moved(self._loop.time())
                self._wake.set()
                await self.until(lambda: self._is_replicated or self.writer.phase == "released")
        self._task.cancel()
        await asyncio.wait([self._task])

    # The inbox

    def message(self, id: str, fields: dict[str, str]) -> Message | None:
        """What of the inbox is meant for this response."""
        about = fields.get("response")
        if fields.get("event") == "cancel" and about == self._response:
            return Message("cancel", id, "", fields.get("device"), fields.get("subject"))
        if fields.get("event") == "input" and about in (None, self._response):
            return Message("input", id, fields.get("data", ""), fields.get("device"), fields.get("subject"))
        return None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_GLANCE)
            with contextlib.suppress(*FAILURES):  # appends say so
                await self._follow()
                if self.writer.phase != "open":
                    continue
                while entries := await self.step.inbox(self.inbox_end, 1000):
                    messages = [message for entry in entries if (message := self.message(*entry))]
                    self.cancel = self.cancel or next((message for message in messages if message.kind == "cancel"), None)
                    self.inbox_end = entries[-1][0]
                    self._tell_cancel()
                    self._notify()

    async def _follow(self, at_once: bool = False) -> None:
        """Another master may not have what the former one has taken."""
        before, self._master = self._master, await self.step.master(at_once)
        if before not in (None, self._master):
            self.writer.moved(self._loop.time())
            self._wake.set()

    def _tell_cancel(self) -> None:
        if self.cancel and self._told and not self.has_stopped and self.writer.ending is None:
            self.has_stopped = True
            self._told()

    # Redis

    async def _run(self) -> None:
        watch = self._loop.create_task(self._watch())
        try:
            while not self.writer.is_over:
                if call := self.writer.next(self._loop.time()):
                    await self._call(*call)
                else:
                    await self._pause()
                self._end_if_let_go()
                self._notify()
        finally:
            watch.cancel()
            self.writer.failed(Unavailable("the producer was closed"))
            self._notify()
            if self._owns_client:
                with contextlib.suppress(*FAILURES):
                    await self.step.client.aclose()

    async def _call(self, *call: Any) -> None:
        try:
            if self._asks_replicas:
                reply, is_replicated = await self.step.replicated(*call)
            else:
                reply, is_replicated = await self.step(*call), False
        except FAILURES as error:
            if is_final(error):
                self.writer.failed(Refused(f"Redis refuses: {error}"))
            else:
                log.debug("session of %s: %s", self._response, type(error).__name__)
                self.writer.refused(str(error), self._loop.time(), random.random())
        else:
            self.writer.replied(reply, self._loop.time())
            self._is_replicated = is_replicated and self.writer.phase == "ended"

    async def _pause(self) -> None:
        wake_at = self.writer.wake_at
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(wake_at):
                await self._wake.wait()

    def _end_if_let_go(self) -> None:
        if self._is_let_go and self.writer.phase == "open" and self.writer.ending is None:
            self.end(("error", *_fields(data='{"reason":"producer_lost"}')))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _fields(**fields: str | None) -> tuple[bytes, ...]:
    return tuple(part.encode(errors="replace") for name, value in fields.items() if value is not None for part in (name, value))


def _pieces(data: bytes) -> list[bytes]:
    """Cut between characters."""
    pieces = []
    while len(data) > _DELTA_LIMIT:
        cut = next((cut for cut in range(_DELTA_LIMIT, _DELTA_LIMIT - 4, -1) if data[cut] & 0xC0 != 0x80), _DELTA_LIMIT)
        pieces.append(data[:cut])
        data = data[cut:]
    return [*pieces, data] if data else pieces


def _id(id: str) -> tuple[int, int]:
    milliseconds, _, sequence = id.partition("-")
    return int(milliseconds), int(sequence)
