"""Sessions and producers without `async`: the same, run by a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from . import _client
from ._client import Options
from ._errors import Cancelled
from ._events import Event
from ._transcript import Response

if TYPE_CHECKING:
    from ._producer import End, Message, ProducerOptions

__all__ = ["Attachment", "Producer", "attach", "openai_to_baton"]

_T = TypeVar("_T")
_lock = threading.Lock()
_loops: dict[int, tuple[asyncio.AbstractEventLoop, threading.Thread]] = {}  # by process: a fork has no threads of its parent's
_is_over = False


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    with _lock:
        if _is_over:
            work.close()
            raise RuntimeError("the interpreter shuts down")
        if os.getpid() not in _loops:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="baton-stream", daemon=True)
            _loops[os.getpid()] = loop, thread
            thread.start()
        loop, _ = _loops[os.getpid()]
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:  # Ctrl-C, too
        future.cancel()
        raise


@atexit.register
def _leave() -> None:
    """Closes what is open, while the thread still runs: nothing may wait for it afterwards."""
    global _is_over

    async def leave() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)

    with _lock:
        _is_over = True
    if os.getpid() in _loops:
        loop, thread = _loops[os.getpid()]
        asyncio.run_coroutine_threadsafe(leave(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _call(body: Callable[[], _T]) -> _T:
    return body()


class Attachment:
    """As the asynchronous one. Leaving the loop closes it, but within `with`."""

    def __init__(self, inner: _client.Attachment) -> None:
        self._inner = inner
        self._inner._is_held = True  # what ends it is here
        self._is_held = False

    @property
    def session(self) -> str:
        return self._inner.session

    @property
    def offset(self) -> str | None:
        """The place after the last event that the loop was given."""
        return self._inner.offset

    @property
    def state(self) -> str:
        """`connecting`, `behind`, `live`, `stalled`, `waiting`, `unauthorized` or `ended`."""
        return self._inner.state

    @property
    def responses(self) -> dict[str, Response]:
        """By name, of what the loop was given."""
        return self._inner.responses

    def text(self, response: str = "") -> str:
        """Of a response so far; without a name: of the entries that have none."""
        return self._inner.text(response)

    def input(self, data: str, *, key: str | None = None, timeout: float = 60) -> str:
        """Adds what a person said to the session. Returns its id in the inbox. Raises `SubmissionError`."""
        return _run(self._inner.input(data, key=key, timeout=timeout))

    def cancel(self, response: str, *, key: str | None = None, timeout: float = 60) -> str:
        """Asks the producer of a response to stop it. As `input`."""
        return _run(self._inner.cancel(response, key=key, timeout=timeout))

    def move(self) -> None:
        """Goes to the next gateway now, at the same place."""
        _run(_call(self._inner.move))

    def close(self) -> None:
        """Ends the attachment, from any thread; the loop ends at once."""
        if not _is_over:
            _run(self._inner.aclose())

    def __enter__(self) -> Self:
        _run(self._inner.__aenter__())
        self._is_held = True
        return self

    def __exit__(self, *raised: Any) -> None:
        _run(self._inner.__aexit__(*raised))

    def __iter__(self) -> Iterator[Event]:
        if self._is_held:
            yield from _each(self._inner.__aiter__())
            return
        try:
            yield from _each(self._inner.__aiter__())
        finally:
            self.close()


def attach(urls: str | Iterable[str], session: str, **options: Unpack[Options]) -> Attachment:
    """As `baton_stream.attach`, for `for`."""
    return Attachment(_client.attach(urls, session, **options))


class Producer:
    """As `baton_stream.Producer`, for `with`. When a device asks to stop, the next `delta` or `event` raises `Cancelled`, once; what is appended
    after it still belongs to the answer.
    """

    def __init__(self, redis: str, session: str, response: str | None = None, **options: Unpack[ProducerOptions]) -> None:
        from . import _producer

        self._inner = _producer.Producer(redis, session, response, **options)
        self._has_told = False

    @property
    def session(self) -> str:
        return self._inner.session

    @property
    def response(self) -> str:
        return self._inner.response

    @property
    def is_cancelled(self) -> bool:
        """A device has asked to stop."""
        return self._inner.is_cancelled

    @property
    def ending(self) -> End | None:
        """How this producer has ended the response, so far."""
        return self._inner.ending

    @property
    def n(self) -> int:
        """The number of the last delta or event that was taken."""
        return self._inner.n

    def open(self) -> Self:
        """Begins the response, or takes over one that is open. Raises `ProducerError`."""
        _run(self._inner.open())
        return self

    def delta(self, data: str | bytes) -> None:
        """Appends a piece of text. Raises `ProducerError`, `Cancelled`."""
        self._stop_if_asked()
        _run(self._inner.delta(data))

    def event(self, event: str, data: str | None = None, **fields: str) -> None:
        """Appends another entry. Raises `ProducerError`, `Cancelled`, `ValueError`."""
        self._stop_if_asked()
        _run(self._inner.event(event, data, **fields))

    def end(self, how: End = "end", data: str | None = None) -> None:
        """Ends the response, and returns when Redis has all of it."""
        _run(self._inner.end(how, data))

    def messages(self) -> Iterator[Message]:
        """What people do on devices meanwhile, until the response ends."""
        return _each(self._inner.messages())

    def close(self) -> None:
        """Closes the connection; as `baton_stream.Producer.aclose`."""
        _run(self._inner.aclose())

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        return _run(self._inner.__aexit__(kind, error, trace))

    def _stop_if_asked(self) -> None:
        if self.is_cancelled and not self._has_told:
            self._has_told = True
            raise Cancelled("a device asked to stop")


def openai_to_baton(stream: Iterable[Any], producer: Producer) -> End:
    """As `baton_stream.openai_to_baton`. A cancel is seen between two chunks."""
    from ._openai import Completion, as_dict, told

    completion = Completion()
    try:
        with producer:
            try:
                for chunk in stream:
                    if producer.is_cancelled:
                        raise Cancelled("a device asked to stop")
                    if text := completion.received(as_dict(chunk)):
                        producer.delta(text)
                    if completion.is_done:
                        break
            except Cancelled:
                raise
            except Exception as error:
                told(error, completion)
                producer.delta(completion.rest())
                producer.end(*completion.end())
                if producer.ending != "end":
                    raise
            else:
                producer.delta(completion.rest())
                producer.end(*completion.end())
    finally:
        if hasattr(stream, "close"):
            stream.close()
    return producer.ending or "end"


def _each(events: AsyncGenerator[_T, None]) -> Iterator[_T]:
    async def following() -> _T | None:
        return await anext(events, None)

    try:
        while (event := _run(following())) is not None:
            yield event
    finally:
        if not _is_over:
            _run(events.aclose())
