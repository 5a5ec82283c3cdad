"""A session as one device sees it: events from the sockets and the app go into the machine, and what it decides is done."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import math
import os
import pathlib
import random
import re
import ssl as tls
import urllib.parse
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from ._errors import Rejected, SubmissionError
from ._events import Attached, Error, Event, Reset, State, event_of
from ._machine import Action, Frame, Machine
from ._transcript import Response, Snapshot, Transcript, is_snapshot

log = logging.getLogger("baton_stream")
_wire_log = logging.getLogger("baton_stream.wire")
_wire_log.setLevel(logging.WARNING)  # below it are headers, with the token, and every text

_SESSION = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~:@-]{1,128}")
_MOST_SUBMITTED = 64 * 1024  # bytes, section 5
_MOST_RECEIVED = 16 * 1024 * 1024
_SAVE_EVERY = 1.0  # seconds


class Store(Protocol):
    """What outlives the process. Each may be a coroutine function. One that fails is told by `Error` `store` and stops nothing."""

    def load(self) -> Any:
        """The `Snapshot` that was saved; None where there is none."""

    def save(self, snapshot: Snapshot, /) -> Any:
        """Called once a second while the loop asks for more, and when the attachment is closed."""

    def forget(self) -> Any:
        """Called after a refusal."""


class FileStore:
    """Keeps a session's place and text in a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(path)

    def load(self) -> Any:
        return json.loads(self._path.read_text()) if self._path.exists() else None

    def save(self, snapshot: Snapshot) -> None:
        draft = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        try:
            draft.write_text(json.dumps(snapshot))
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


class Options(TypedDict, total=False):
    """How to attach: section 3 of the protocol."""

    token: str | Callable[[], str | Awaitable[str]]
    """A JWT; or a function that gives one, asked again when it expires or is refused."""
    offset: str
    """Where to begin where nothing is kept: `0` (all, the default), `$` (only what comes), or a place that was kept."""
    last: int
    """Instead of `offset`: the newest entries, 1 to 10,000."""
    response: str
    """Instead of both: this response only, to its end."""
    until: Literal["end"]
    """Ends once nothing is open any more."""
    rollup: Literal["auto", "off"] | int
    """Whether deltas may come joined: while behind (`auto`), never (`off`), or within so many milliseconds, 1 to 1000."""
    device: str
    """This device's name, 1 to 64 characters."""
    store: Store
    """What outlives the process: the place, and the text before it."""
    ssl: tls.SSLContext
    """What certificates to trust, in place of the system's."""
    max_buffer: int
    """Bytes that may wait for the loop before the socket is no longer read; 1 MiB unless told."""


def attach(urls: str | Iterable[str], session: str, **options: Unpack[Options]) -> Attachment:
    """Attaches to a session and stays attached, over lost connections and any of the gateways.

        async for event in baton_stream.attach("https://gateway.example", "chat-42"):
            match event:
                case Entry(event="token"): print(event.text, end="", flush=True)

    The loop ends when there is nothing more to come (`until`, `response`), after `aclose()`, and with `Rejected` when no retry can
    help. Leaving it closes the attachment; within `async with` only its end does.

    Raises `ValueError` for what can't name a session or a gateway.
    """
    return Attachment([urls] if isinstance(urls, str) else urls, session, **options)


class Attachment:
    """What `attach` gives. It connects with the first `async for`, `async with`, `input` or `cancel`."""

    def __init__(
        self,
        urls: Iterable[str],
        session: str,
        *,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        offset: str | None = None,
        last: int | None = None,
        response: str | None = None,
        until: str | None = None,
        rollup: str | int | None = None,
        device: str | None = None,
        store: Store | None = None,
        ssl: tls.SSLContext | None = None,
        max_buffer: int = 1024 * 1024,
    ) -> None:
        if not _SESSION.fullmatch(session):
            raise ValueError(f"a session's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -, not {session!r}")
        self._addresses = [_address(url, session) for url in urls]
        if not self._addresses:
            raise ValueError("at least one URL of a gateway is needed")
        if (offset, last, response).count(None) < 2:
            raise ValueError("only one of offset, last and response")
        self.session = session
        self._token_source = token if callable(token) else None
        self._token = _header(token) if isinstance(token, str) else None
        self._options = {"offset": offset, "last": last, "response": response, "until": until, "rollup": rollup, "device": device}
        self._store, self._ssl, self._max_buffer = store, ssl, max_buffer
        self._machine: Machine | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._told: deque[dict[str, Any]] = deque()  # events that wait for their turn
        self._is_acting = False
        self._over = False
        self._error: BaseException | None = None
        self._is_held = False
        self._is_read = False
        # What waits for the loop: an event, the offset after it, its size.
        self._queue: deque[tuple[Event, str | None, int]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_skimming = False
        # The connection in use; what belongs to an earlier number is dropped.
        self._number = 0
        self._close_code = 1000
        self._connection: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._token_timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._answers: dict[str, asyncio.Future[str]] = {}
        self._trouble: str | None = None
        self._detail: str | None = None
        # What the loop was told.
        self._offset: str | None = offset
        self._kept: Snapshot | None = None
        self._transcript = Transcript()
        self._is_let_in = False
        self._saved_at = -math.inf
        self._is_store_broken = False
        self._is_refused = False

    # What the app sees

    @property
    def offset(self) -> str | None:
        """The place after the last event that the loop was given; None until a gateway named one."""
        return self._offset

    @property
    def state(self) -> str:
        """`connecting`, `behind`, `live`, `stalled`, `waiting`, `unauthorized` or `ended`."""
        if self._over:
            return "ended"
        return self._machine.state if self._machine and self._machine.state != "idle" else "connecting"

    @property
    def responses(self) -> dict[str, Response]:
        """By name, of what the loop was given (and of what was kept, once a gateway has let this device in)."""
        return self._transcript.responses

    def text(self, response: str = "") -> str:
        """Of a response so far; without a name: of the entries that have none."""
        return self._transcript.text(response)

    async def input(self, data: str, *, key: str | None = None, timeout: float = 60) -> str:
        """Adds what a person said to the session, for every device and for the running answer. Returns its id in the inbox.

        `key`: 1 to 64 characters; the same key is never appended twice, so after a time-out (seconds) or a cancellation it may be repeated.
        It may be awaited within the loop that reads the events. Raises `SubmissionError`.
        """
        return await self._submit({"type": "input", "key": key or uuid.uuid4().hex, "data": _well_formed(data)}, timeout)

    async def cancel(self, response: str, *, key: str | None = None, timeout: float = 60) -> str:
        """Asks the producer of a response to stop it, wherever it runs. As `input`."""
        return await self._submit({"type": "cancel", "key": key or uuid.uuid4().hex, "response": response}, timeout)

    def move(self) -> None:
        """Goes to the next gateway now, at the same place."""
        self._tell("move")

    async def aclose(self) -> None:
        """Ends the attachment; the loop ends at once."""
        self._queue.clear()
        await self._shut()
        await self._save()

    async def __aenter__(self) -> Self:
        self._is_held = True
        self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_held = False
        self._queue.clear()
        await self._shut()
        if kind is None:  # otherwise the last event may not have been dealt with
            await self._save()

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        if self._is_read:
            raise RuntimeError("a session is read by one loop at a time")
        self._is_read = True
        self._start()
        try:
            while (event := await self._next()) is not None:
                yield event
                if asyncio.get_running_loop().time() - self._saved_at > _SAVE_EVERY:
                    await self._save()
        finally:
            self._is_read = False
            if not self._is_held:
                await self.aclose()

    # Beginning and end

    def _start(self) -> None:
        if self._beginning is None and not self._over:
            self._beginning = self._spawn(self._begin())

    async def _begin(self) -> None:
        try:
            if self._token is None and self._token_source:
                self._token = await self._ask()
            kept = await self._load()
        except Exception as error:
            return self._finish(error)
        start = self._options["offset"]
        if kept:
            self._kept, start = kept, kept["offset"]
        wanted = self._options["response"]
        known = [one for one in (kept or {}).get("responses", []) if one["name"] == wanted]
        is_finished = wanted is not None and any(one["state"] != "open" for one in known)
        options: dict[str, Any] = self._options | {"offset": start}
        self._machine = Machine(
            urls=len(self._addresses), **options, renews_token=self._token_source is not None, is_finished=is_finished)  # fmt: skip
        self._told.appendleft({"event": "start"})
        self._work()

    async def _shut(self) -> None:
        if self._machine:
            self._tell("close")
        elif not self._over:
            self._finish(None)
        running = [task for task in self._background if task is not asyncio.current_task()]
        if running:
            await asyncio.wait(running, timeout=2)

    def _finish(self, error: BaseException | None) -> None:
        if self._over:
            return
        self._over, self._error = True, error
        self._disconnect(1000)
        for timer in (self._timer, self._token_timer):
            if timer:
                timer.cancel()
        for task in (self._asking, self._beginning):
            if task and task is not asyncio.current_task():
                task.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(SubmissionError("ended", "the attachment is over"))
        self._changed.set()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task is held until it is done; a mistake of ours in it is told in the loop."""

        def done(task: asyncio.Task[Any]) -> None:
            self._background.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self._finish(error)

        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(done)
        return task

    # Events in, actions out; an event that comes while acting waits for its turn

    def _tell(self, event: str, **details: Any) -> None:
        if not self._over:
            self._told.append({"event": event, **details})
            self._work()

    def _work(self) -> None:
        if self._is_acting or self._machine is None:
            return
        self._is_acting = True
        try:
            while self._told and not self._over:
                event = self._told.popleft()
                now = int(asyncio.get_running_loop().time() * 1000)
                for action in self._machine.handle(at=now, random=random.random(), **event):
                    self._act(action)
        finally:
            self._is_acting = False

    def _act(self, action: Action) -> None:
        match action["do"]:
            case "connect":
                self._number += 1
                self._connection = self._spawn(self._connect(self._number, self._addresses[action["url"]], action["query"]))
            case "disconnect":
                self._disconnect(action["code"])
            case "send":
                if self._socket:
                    self._spawn(_quietly(self._socket.send(json.dumps(action["frame"], ensure_ascii=False))))
            case "timer":
                if self._timer:
                    self._timer.cancel()
                self._timer = asyncio.get_running_loop().call_later(action["ms"] / 1000, self._time_out)
            case "deliver":
                self._deliver(action["frame"])
            case "settle":
                self._settle(action)
            case "needToken":
                self._need_token(action.get("afterMs", 0))
            case "state":
                state, self._trouble, detail = action["state"], None, self._trouble
                log.debug("session %s: %s at %s%s", self.session, state, self._offset, f" ({detail})" if detail else "")
                if state != "ended":
                    self._push(State(state, detail), 64)
            case "end":
                self._end(action)

    def _time_out(self) -> None:
        if not self._has_room.is_set() and not self._is_skimming:
            self._tell("heard")  # a socket that is not read can't be told dead by its silence
        self._tell("timer")

    def _end(self, action: Action) -> None:
        if action["reason"] != "rejected":
            return self._finish(None)
        error = Rejected(self._detail, status=action.get("status"), code=action.get("code"))
        log.info("session %s at %s: %s", self.session, self._offset, error)
        self._is_refused = True
        self._spawn(self._with_store("forget"))
        self._finish(error)

    # One connection

    async def _connect(self, number: int, address: str, query: dict[str, str]) -> None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        secure: dict[str, Any] = {"ssl": self._ssl} if self._ssl and address.startswith("wss:") else {}
        try:
            socket = await _Connect(
                f"{address}?{urllib.parse.urlencode(query, safe='$')}", subprotocols=[Subprotocol("baton.v1")], additional_headers=headers,
                compression=None, open_timeout=None, close_timeout=1, ping_interval=None, max_size=_MOST_RECEIVED, logger=_wire_log,
                **secure)  # fmt: skip
        except InvalidStatus as refused:
            return self._lost(number, **_refusal(refused))
        except Exception as error:  # the network's, the proxy's, the certificate's
            trouble = re.sub(r"//[^/@\s]*@", "//***@", str(error)) or type(error).__name__
            return self._lost(number, "failed", trouble=trouble)
        try:
            if number == self._number:
                self._socket = socket
                self._tell("opened")
            while number == self._number:
                self._received(await socket.recv())
                if not self._is_skimming:
                    await self._has_room.wait()
        except ConnectionClosed as closed:
            mine = closed.sent is not None and not closed.rcvd_then_sent
            # A frame beyond our own limit would come again.
            end = closed.sent if mine and closed.sent and closed.sent.code == 1009 else closed.rcvd
            code, reason = (end.code, end.reason) if end else (1006, "")
            self._lost(number, "closed", code=code, detail=reason or None, trouble=f"closed with code {code}{reason and f': {reason}'}")
        finally:
            await _quietly(socket.close(self._close_code))

    def _received(self, message: str | bytes) -> None:
        try:
            if isinstance(message, bytes):
                raise ValueError("a binary frame")
            frame = json.loads(message)
        except (ValueError, RecursionError):
            self._trouble = "the gateway sent something that is no frame"
            return self._tell("garbled")
        self._tell("frame", frame=frame)

    def _lost(self, number: int, event: str, *, trouble: str, detail: str | None = None, **details: Any) -> None:
        if number != self._number:
            return
        self._number += 1
        self._socket = self._connection = None
        self._trouble, self._detail = trouble, detail
        self._tell(event, **details)

    def _disconnect(self, code: int) -> None:
        self._number += 1
        self._close_code = code
        task, self._connection, self._socket = self._connection, None, None
        if task and task is not asyncio.current_task():  # which sees the number
            task.cancel()

    # What comes, to the loop

    def _deliver(self, frame: Frame) -> None:
        if frame.get("type") == "error":
            if "attempts" in frame:
                places = ", ".join(address.partition("/v1/")[0] for address in self._addresses)
                frame = {**frame, "message": f"no gateway said a word in {frame['attempts']} attempts at {places}"}
                log.warning("session %s: %s", self.session, frame["message"])
        if (event := event_of(frame)) is not None:
            self._push(event, 256 + len(getattr(event, "data", None) or b""))

    def _push(self, event: Event, size: int) -> None:
        self._queue.append((event, self._machine.offset if self._machine else None, size))
        self._bytes += size
        self._changed.set()
        if self._bytes >= self._max_buffer and self._has_room.is_set():
            self._has_room.clear()
            asyncio.get_running_loop().call_soon(self._skim_if_needed)  # after the actions that are under way

    async def _next(self) -> Event | None:
        while not self._queue:
            if self._over:
                error, self._error = self._error, None
                if error:
                    raise error
                return None
            self._changed.clear()
            await self._changed.wait()
        event, offset, size = self._queue.popleft()
        self._bytes -= size
        if self._bytes <= self._max_buffer // 2:
            self._drained()
        self._take(event, offset)
        return event

    def _take(self, event: Event, offset: str | None) -> None:
        if isinstance(event, Attached) and not self._is_let_in:
            self._is_let_in = True
            self._transcript = Transcript(self._kept, offset=event.offset or "0")
            self._offset = self._kept["offset"] if self._kept else self._offset
        if isinstance(event, State) or offset is None:
            return
        if not self._transcript.apply(event):
            self._tell("replay")
            return
        if not isinstance(event, Attached) or not self._transcript.responses:
            self._offset = offset

    def _drained(self) -> None:
        if self._has_room.is_set():
            return
        self._has_room.set()
        if self._is_skimming:
            self._is_skimming = False
            self._tell("resume")

    # What the app says

    async def _submit(self, frame: Frame, timeout: float) -> str:
        if len(json.dumps(frame, ensure_ascii=False).encode()) > _MOST_SUBMITTED:
            raise SubmissionError("too_big", "it may take 64 KiB")
        key = frame["key"]
        if key in self._answers:
            raise SubmissionError("key_in_use", "this key waits for its answer")
        if self._over:
            raise SubmissionError("ended", "the attachment is over")
        self._start()
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        self._tell("submit", frame=frame)
        self._skim_if_needed()
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise SubmissionError("timed_out", f"no answer in {timeout} s") from None
        finally:
            del self._answers[key]
            if answer.cancelled():
                self._tell("withdraw", key=key)
            elif answer.done():
                answer.exception()  # it is known, also where the task was cancelled meanwhile

    def _settle(self, action: Action) -> None:
        answer = self._answers.get(action["key"])
        if answer is None or answer.done():
            return
        if "error" in action:
            answer.set_exception(SubmissionError(str(action["error"]), action.get("message")))
        elif isinstance(action.get("inboxId"), str):
            answer.set_result(action["inboxId"])
        else:
            answer.set_exception(SubmissionError("bad_answer", "the gateway's answer has no id"))

    def _skim_if_needed(self) -> None:
        """An answer never waits behind what the loop has not read: a connection at the stream's end brings it."""
        if self._answers and not self._has_room.is_set() and not self._is_skimming:
            self._is_skimming = True
            self._tell("skim")

    # The token

    def _need_token(self, after_ms: int) -> None:
        if self._token_timer:
            self._token_timer.cancel()
        if after_ms > 0:
            self._push(Error("token_too_short", "the token lives so short that it has to be asked for over and over"), 256)
            self._token_timer = asyncio.get_running_loop().call_later(after_ms / 1000, self._need_token, 0)
        elif self._asking is None or self._asking.done():
            self._asking = self._spawn(self._renew())

    async def _renew(self) -> None:
        try:
            self._token = await self._ask()
        except Exception as error:
            # An open connection stays as long as it may.
            if self._machine and self._machine.state == "unauthorized":
                self._finish(error)
            else:
                self._push(Error("token", f"no new token: {type(error).__name__}"), 256)
            return
        self._tell("token", token=self._token)

    async def _ask(self) -> str:
        assert self._token_source is not None
        if inspect.iscoroutinefunction(self._token_source):
            token: Any = await self._token_source()
        else:
            token = await asyncio.to_thread(self._token_source)
            if inspect.isawaitable(token):
                token = await token
        if not isinstance(token, str):
            raise TypeError("token() gave no string")
        return _header(token)

    # What outlives the process

    async def _load(self) -> Snapshot | None:
        kept: Snapshot | None = await self._with_store("load")
        if kept is None or is_snapshot(kept):
            return kept
        self._push(Error("store", "what was kept has another form, and is dropped"), 256)
        return None

    async def _save(self) -> None:
        if self._store is None or self._offset is None or not self._is_let_in or self._is_refused:
            return
        self._saved_at = asyncio.get_running_loop().time()
        await self._with_store("save", {"offset": self._offset, "responses": self._transcript.snapshot()})

    async def _with_store(self, action: str, *arguments: Any) -> Any:
        try:
            done = getattr(self._store, action)(*arguments) if self._store else None
            return await done if inspect.isawaitable(done) else done
        except Exception as error:
            if not self._is_store_broken:
                self._is_store_broken = True
                self._push(Error("store", f"the session can't be kept: {error}"), 256)
            return None


class _Connect(connect):
    """Nobody else is shown the token."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _quietly(work: Awaitable[Any]) -> None:
    try:
        await work
    except (ConnectionClosed, OSError):
        pass  # told by the reading side


def _address(url: str, session: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or parts.query or parts.fragment or parts.username:
        masked = urllib.parse.urlunsplit(parts._replace(netloc=parts.hostname or ""))
        raise ValueError(f"a gateway's URL looks like https://host:port, not {masked!r}")
    scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
    return f"{scheme}://{parts.netloc}{parts.path.removesuffix('/')}/v1/sessions/{session}"


def _header(token: str) -> str:
    """A token as it can stand in a header field."""
    token = token.strip()
    if not token.isascii() or not token.isprintable():
        raise ValueError("a token can't have a line break within, or a character beyond ASCII")
    return token


def _well_formed(text: str) -> str:
    """Half a surrogate pair becomes U+FFFD, two halves that meet a character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refusal(refused: InvalidStatus) -> dict[str, Any]:
    """An HTTP answer in place of the upgrade."""
    answer = refused.response
    seconds = re.fullmatch(r"[0-9]{1,9}", answer.headers.get("Retry-After", ""))
    problem: Any = {}
    if answer.headers.get("Content-Type", "").startswith("application/problem+json"):  # RFC 9457
        try:
            problem = json.loads(answer.body or b"")
        except (ValueError, RecursionError):
            pass
    problem = problem if isinstance(problem, dict) else {}
    detail = problem.get("detail") if isinstance(problem.get("detail"), str) else None
    return {
        "event": "refused", "status": answer.status_code, "retryAfterMs": int(seconds[0]) * 1000 if seconds else 0,
        "problem": str(problem.get("type")).startswith("urn:baton:problem:"), "detail": detail,
        "trouble": f"HTTP status {answer.status_code}{detail and f': {detail}' or ''}",
    }  # fmt: skip
