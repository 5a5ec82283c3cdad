"""When to connect, to what, from which offset, and when to stop: everything a Baton client decides.

It has no clock, no socket and no dice: each call is one event (with the time and a random number) and returns the actions to take.
Tests/Conformance/client/README.md names both; its cases run here, in the Swift client and in baton.js.
"""

from __future__ import annotations

import math
from typing import Any

Action = dict[str, Any]
Frame = dict[str, Any]

ENDINGS = ("end", "error", "cancelled")


class Limits:
    """Milliseconds, but for the two counts. See Tests/Conformance/client/README.md."""

    backoff_base = 250  # full jitter: the n-th attempt in a row waits up to base · 2ⁿ …
    backoff_cap = 10_000  # … but never longer than this
    healthy = 5_000  # a connection that stayed attached this long starts the count anew
    connect = 10_000  # from the connect to `attached`
    ping = 25_000  # silence before a ping, where the gateway names no pingMs
    pong = 10_000  # what a ping may take
    retry_after = 300_000  # the longest wait a gateway can ask for
    unanswered = 64  # inputs and cancels that wait for their answer
    unreachable = 5  # attempts in a row without a word from a gateway, until the app is told
    short_token = 60_000  # a token that expires this soon after the last was asked for is short-lived …
    token_pause = 5_000  # … and the next is asked for after half of what is left, never sooner after the last than this


_FINAL_CODES = {1002, 1003, 1007, 1008, 1009}
_RETRIED_STATUSES = {408, 425, 429}


def _is_final(status: int) -> bool:
    return 400 <= status < 500 and status not in _RETRIED_STATUSES


class Machine:
    """`handle` takes each event in. `is_finished`: what was asked for is known to its end, unless a gateway says `reset`."""

    def __init__(
        self,
        *,
        urls: int = 1,
        offset: str | None = None,
        last: int | None = None,
        response: str | None = None,
        rollup: str | int | None = None,
        until: str | None = None,
        device: str | None = None,
        renews_token: bool = False,
        is_finished: bool = False,
        max_unanswered: int = Limits.unanswered,
    ) -> None:
        self._urls, self._last, self._response = urls, last, response
        self._rollup, self._until, self._device = rollup, until, device
        self._renews_token, self._is_finished, self._max_unanswered = renews_token, is_finished, max_unanswered
        self.offset = offset
        """The place in the stream to go on after; None until a gateway named one."""
        self.state = "idle"
        """idle, connecting, behind, live, stalled, waiting, unauthorized, suspended or ended."""
        self.url = 0
        self.failures = 0
        """Attempts in a row that came to nothing: what backoff counts."""
        self._unanswered: dict[str, Frame] = {}
        self._unheard = 0  # attempts in a row in which no gateway said a word
        self._skimming = False  # connected for the sake of answers: at the stream's end, without moving the place
        self._asked_at: int | None = None
        self._heard_at = 0
        self._ping_ms: float = Limits.ping
        self._retry_after_ms: float
        self._forget_connection()

    def handle(self, event: str, *, at: int, random: float, **details: Any) -> list[Action]:
        """What to do, in this order. `at`: milliseconds on a clock that never goes back; `random`: in [0, 1)."""
        self._actions: list[Action] = []
        if self.state != "ended":
            self._at, self._random = at, random
            getattr(self, f"_on_{event}")(**details)
        return self._actions

    # What the app does

    def _on_start(self) -> None:
        if self.state == "idle":
            self._connect()

    def _on_close(self) -> None:
        if self._is_connected:
            self._do("disconnect", code=1000)
        self._end(reason="closed")

    def _on_suspend(self) -> None:
        if self._is_connected:
            self._do("disconnect", code=4000)
        self._forget_connection()
        self._skimming = False
        self._become("suspended")

    def _on_resume(self) -> None:
        if not self._skimming and self.state != "suspended":
            return
        skimmed, self._skimming = self._skimming, False
        if self._is_connected:
            self._do("disconnect", code=4000)
        elif skimmed:
            return
        self.failures = 0
        self._connect()

    def _on_skim(self) -> None:
        """The app takes no more events for now, but what is submitted must be answered."""
        if self._skimming:
            return
        self._skimming = True
        if not self._is_connected and self.state != "suspended":
            return
        if self._is_connected:
            self._do("disconnect", code=4000)
        self._connect()

    def _on_move(self) -> None:
        if not self._is_connected and self.state != "waiting":
            return
        if self._is_connected:
            self._do("disconnect", code=4000)
        self.failures = 0
        self._rotate()
        self._connect()

    def _on_replay(self) -> None:
        """Asks for everything again from the start: what is shown can't be mended otherwise."""
        was_connected = self._is_connected
        self._is_finished = False
        if was_connected:
            self._do("disconnect", code=4000)
        self.offset = "0"
        self._deliver({"type": "reset", "reason": "replay", "from": "0", "offset": "0"})
        if was_connected:
            self._connect()

    def _on_submit(self, frame: Frame) -> None:
        if len(self._unanswered) >= self._max_unanswered:
            self._do("settle", key=frame["key"], error="too_many")
            return
        self._unanswered[frame["key"]] = frame
        if self._is_attached:
            self._do("send", frame=frame)

    def _on_withdraw(self, key: str) -> None:
        self._unanswered.pop(key, None)

    def _on_token(self, token: str) -> None:
        if self.state == "unauthorized":
            if self.failures <= 1:
                return self._connect()
            self._has_new_token = True
            self._do("timer", ms=self._jitter(self.failures - 1))
        elif self._is_attached:
            self._do("send", frame={"type": "auth", "token": token})

    # What becomes of a connection

    def _on_opened(self) -> None:
        pass  # `attached` counts

    def _on_failed(self) -> None:
        if self._is_connected:
            self._retry()

    def _on_refused(self, status: int, retryAfterMs: float = 0, problem: bool = False) -> None:  # noqa: N803
        """`problem`: in the gateway's own form. Whatever else answers may stand in front of it."""
        if not self._is_connected:
            return
        if not problem:
            return self._retry(retryAfterMs)
        self._unheard = 0
        if status == 401:
            self._need_token(status=status)
        elif _is_final(status):
            self._end(reason="rejected", status=status)
        else:
            self._retry(retryAfterMs)

    def _on_closed(self, code: int) -> None:
        if not self._is_connected:
            return
        if code == 1000 and not self._skimming:
            self._end(reason="finished")
        elif code == 4401:
            self._need_token(code=code)
        elif code in _FINAL_CODES or _is_final(code - 4000):
            self._end(reason="rejected", code=code)
        else:
            self._retry(self._retry_after_ms)

    def _on_garbled(self) -> None:
        if self._is_connected:
            self._do("disconnect", code=4000)
            self._retry()

    def _on_timer(self) -> None:
        if self.state == "waiting" or self.state == "unauthorized" and self._has_new_token:
            self._connect()
        elif self.state == "connecting":
            self._do("disconnect", code=4000)
            self._on_failed()
        elif self._is_attached:
            self._check_pulse()

    def _on_heard(self) -> None:
        self._heard_at = self._at
        self._pinged = False

    def _on_frame(self, frame: Any) -> None:
        if not self._is_connected or not isinstance(frame, dict):
            return
        self._on_heard()
        self._unheard = 0
        kind = frame.get("type")
        if self._skimming and not self._waits(frame):
            return self._skimmed(kind, frame)
        if "type" not in frame:
            return self._entry(frame)
        match kind:
            case "attached":
                self._move(frame.get("offset"))
                self._deliver(frame)
                self._welcome(frame)
            case "live" | "reset" | "skipped" | "behind" | "stalled":
                self._move(frame.get("offset"))
                self._deliver(frame)
                if kind == "reset":
                    self._is_finished = False
                if kind == "live" and self._is_finished:
                    self._finish()
                elif kind != "skipped":
                    self._become("behind" if kind == "reset" else kind)
            case "draining":
                self._retry_after_ms = _milliseconds(frame.get("retryAfterMs"))
                self._deliver(frame)
            case "expiring":
                self._deliver(frame)
                self._expiring(frame)
            case "accepted":
                if self._waits(frame):
                    del self._unanswered[frame["key"]]
                    self._do("settle", key=frame["key"], inboxId=frame.get("inboxId"))
            case "error":
                if not self._waits(frame):
                    return self._deliver(frame)
                del self._unanswered[frame["key"]]
                message = {"message": frame["message"]} if "message" in frame else {}
                self._do("settle", key=frame["key"], error=frame.get("code"), **message)

    def _waits(self, frame: Frame) -> bool:
        key = frame.get("key")
        return isinstance(key, str) and key in self._unanswered

    def _skimmed(self, kind: Any, frame: Frame) -> None:
        if kind == "attached":
            self._welcome(frame)
        elif kind == "draining":
            self._retry_after_ms = _milliseconds(frame.get("retryAfterMs"))
        elif kind == "expiring":
            self._expiring(frame)

    def _expiring(self, frame: Frame) -> None:
        """A token that lives shorter than a gateway's warning must not be asked for without end."""
        if not self._renews_token:
            return
        since_last = math.inf if self._asked_at is None else self._at - self._asked_at
        half = int(min(_milliseconds(frame.get("inMs")), 1e9) / 2)
        self._ask_for_token(int(max(half, Limits.token_pause - since_last)) if since_last < Limits.short_token else 0)

    def _ask_for_token(self, after_ms: int = 0) -> None:
        self._asked_at = self._at + after_ms
        self._do("needToken", **({"afterMs": after_ms} if after_ms > 0 else {}))

    # How

    @property
    def _is_attached(self) -> bool:
        return self.state in ("behind", "live", "stalled")

    @property
    def _is_connected(self) -> bool:
        return self._is_attached or self.state == "connecting"

    def _do(self, action: str, **details: Any) -> None:
        self._actions.append({"do": action, **details})

    def _deliver(self, frame: Frame) -> None:
        self._do("deliver", frame=frame)

    def _become(self, state: str) -> None:
        if self.state != state:
            self.state = state
            self._do("state", state=state)

    def _move(self, offset: Any) -> None:
        if isinstance(offset, str):
            self.offset = offset

    def _forget_connection(self) -> None:
        self._attached_at: int | None = None
        self._pinged = False
        self._retry_after_ms = 0
        self._has_new_token = False

    def _connect(self) -> None:
        self._forget_connection()
        self._become("connecting")
        query: dict[str, str] = {}
        if self._skimming:
            query["offset"] = "$"
        elif self.offset is not None:
            query["offset"] = self.offset
        elif self._response is not None:
            query["response"] = self._response
        elif self._last is not None:
            query["last"] = str(self._last)
        else:
            query["offset"] = "0"
        if self._rollup is not None and not self._skimming:
            query["rollup"] = str(self._rollup)
        if self._until is not None and not self._skimming:
            query["until"] = self._until
        if self._device is not None:
            query["device"] = self._device
        self._do("connect", url=self.url, query=query)
        self._do("timer", ms=Limits.connect)

    def _welcome(self, frame: Frame) -> None:
        self._attached_at = self._at
        ping_ms = _milliseconds(frame.get("pingMs"))
        self._ping_ms = ping_ms if 1000 <= ping_ms <= 300_000 else Limits.ping
        self._become("behind")
        self._do("timer", ms=self._ping_ms)
        for held in self._unanswered.values():
            self._do("send", frame=held)

    def _entry(self, frame: Frame) -> None:
        if not isinstance(frame.get("id"), str):
            return
        self._move(frame["id"])
        wanted = self._response
        if wanted is not None and frame.get("response") != wanted:
            return
        self._deliver(frame)
        if wanted is not None and frame.get("event") in ENDINGS:
            self._finish()

    def _finish(self) -> None:
        self._do("disconnect", code=1000)
        self._end(reason="finished")

    def _check_pulse(self) -> None:
        if self._pinged:
            self._do("disconnect", code=4000)
            return self._retry()
        silent = self._at - self._heard_at
        if silent < self._ping_ms:
            self._do("timer", ms=self._ping_ms - silent)
            return
        self._pinged = True
        self._do("send", frame={"type": "ping"})
        self._do("timer", ms=Limits.pong)

    def _jitter(self, failures: int) -> int:
        return int(self._random * min(Limits.backoff_cap, Limits.backoff_base * 2 ** min(failures, 30)))

    def _rotate(self) -> None:
        self.url = (self.url + 1) % self._urls

    def _count_failure(self) -> None:
        if self._attached_at is not None and self._at - self._attached_at >= Limits.healthy:
            self.failures = 0
        self.failures += 1

    def _note_silence(self) -> None:
        """Says once that no gateway can be reached. The token may be why."""
        if self._attached_at is not None:
            return
        self._unheard += 1
        if self._unheard != Limits.unreachable:
            return
        self._deliver({"type": "error", "code": "unreachable", "attempts": self._unheard})
        if self._renews_token:
            self._ask_for_token()

    def _retry(self, retry_after_ms: float = 0) -> None:
        self._count_failure()
        self._note_silence()
        self._rotate()
        wait = min(retry_after_ms, Limits.retry_after) + self._jitter(self.failures - 1)
        self._forget_connection()
        self._become("waiting")
        self._do("timer", ms=wait)

    def _need_token(self, **why: int) -> None:
        if not self._renews_token:
            return self._end(reason="rejected", **why)
        self._count_failure()
        self._forget_connection()
        self._become("unauthorized")
        self._ask_for_token()

    def _end(self, **why: Any) -> None:
        for key in self._unanswered:
            self._do("settle", key=key, error="ended")
        self._unanswered.clear()
        self._become("ended")
        self._do("end", **why)


def _milliseconds(value: Any) -> float:
    """What is no number, or below 0, is 0."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return max(0, value) if is_number and value == value else 0
