"""What an attachment tells: the frames of section 4 of the protocol, and the connection's state."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the stream, or several adjacent deltas joined into one."""

    id: str
    """Its offset; of joined deltas the last one's."""
    event: str = "token"
    """`token` for a text delta; `start`, `end`, `error`, `cancelled`, `input`, or a producer's own."""
    response: str | None = None
    part: str | None = None
    """Which part of the response it belongs to, `kind:name`; None for the answer's text."""
    n: int | None = None
    """The number of the (last) delta within its response, from 1, over all parts."""
    joined: int = 1
    """How many deltas it stands for."""
    more: bool = False
    """The data goes on in the next entry of the same response and event."""
    data: bytes | None = None
    """The payload; None where the entry has none. A character may be split over two deltas."""
    fields: Mapping[str, list[bytes]] = field(default_factory=dict)
    """All other fields, by name; a name that is used several times has several values."""

    @property
    def is_shown_text(self) -> bool:
        """Whether people are shown it: a delta of the answer's text, or of a part whose kind is `text`."""
        return self.event == "token" and (self.part is None or self.part.startswith("text:"))

    @property
    def text(self) -> str:
        """The payload as text; what is not UTF-8 is shown as U+FFFD."""
        return (self.data or b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Attached:
    """A gateway has let this device in; what follows comes after `offset`."""

    offset: str | None = None
    session: str | None = None
    device: str | None = None
    node: str | None = None
    """The gateway's name."""
    recovered: bool = False
    """It goes on at the place that this device had, and nothing is missing from there on. False for a device that had none, and where a `Reset` follows."""
    first: str | None = None
    last: str | None = None
    """The first and the last entry that the stream retains; None where it holds none."""
    features: tuple[str, ...] = ()
    """What this device's token allows: `input`, `cancel`."""


@dataclass(frozen=True, slots=True)
class Live:
    """The device has everything that the stream holds."""

    offset: str | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """The device fell out of the gateway's window and is being caught up."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Continuity is broken: what came after `from_` is no longer true."""

    reason: str
    """`trimmed`, `diverged`, `ahead`, `deleted`; `replay`: everything comes once more."""
    from_: str = "0"
    """`0`: everything."""
    offset: str | None = "0"
    """Where the gateway goes on."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that is too large was left out."""

    offset: str | None = None
    reason: str | None = None
    bytes: int | None = None
    response: str | None = None
    """Where it is known."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """The gateway has lost its store; `Live` follows when all is well again."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Draining:
    """The gateway goes away; the client comes back after so many milliseconds, by itself."""

    retry_after_ms: float = 0


@dataclass(frozen=True, slots=True)
class Expiring:
    """The token expires in so many milliseconds; a `token` that can be called is asked for another."""

    in_ms: float = 0


@dataclass(frozen=True, slots=True)
class Error:
    """Something was refused, and the attachment goes on: the codes of section 5, `unreachable` (no gateway said a word in five attempts), `store`,
    `token_too_short`."""

    code: str
    message: str | None = None


StateName = Literal["connecting", "behind", "live", "stalled", "waiting", "unauthorized"]


@dataclass(frozen=True, slots=True)
class State:
    """The connection's state has changed; `detail` says why, where there is something to say."""

    state: StateName
    detail: str | None = None


Event = Entry | Attached | Live | Behind | Reset | Skipped | Stalled | Draining | Expiring | Error | State


def event_of(frame: Frame) -> Event | None:
    """A frame's event; None where it is of a kind that this version doesn't know. Members of a wrong type count as absent."""
    def text(name: str) -> str | None:
        return value if isinstance(value := frame.get(name), str) else None

    if "type" not in frame:
        id, data, fields = text("id"), text("data"), frame.get("fields")
        return None if id is None else Entry(
            id=id, event=text("event") or "token", response=text("response"), part=text("part"), n=_number_of(frame.get("n")),
            joined=max(1, _integer(frame.get("joined")) or 1), more=frame.get("more") is True,
            data=bytes_of(frame.get("data64")) if data is None else data.encode(errors="replace"),
            fields={name: _values(value) for name, value in fields.items()} if isinstance(fields, dict) else {},
        )  # fmt: skip
    match frame["type"]:
        case "attached":
            features = frame.get("features")
            return Attached(
                offset=text("offset"), session=text("session"), device=text("device"), node=text("node"), recovered=frame.get("recovered") is True,
                first=text("first"), last=text("last"),
                features=tuple(one for one in features if isinstance(one, str)) if isinstance(features, list) else (),
            )  # fmt: skip
        case "live":
            return Live(text("offset"))
        case "behind":
            return Behind()
        case "reset":
            return Reset(text("reason") or "", text("from") or "0", text("offset"))
        case "skipped":
            return Skipped(text("offset"), text("reason"), _integer(frame.get("bytes")), text("response"))
        case "stalled":
            return Stalled(text("reason"))
        case "draining":
            return Draining(_number(frame.get("retryAfterMs")))
        case "expiring":
            return Expiring(_number(frame.get("inMs")))
        case "error":
            return Error(text("code") or "", text("message"))
    return None


def _values(value: Any) -> list[bytes]:
    """A string, `{"base64":"…"}`, or an array of these."""
    if isinstance(value, list):
        return [one for part in value for one in _values(part)]
    if isinstance(value, str):
        return [value.encode(errors="replace")]
    data = bytes_of(value.get("base64")) if isinstance(value, dict) else None
    return [] if data is None else [data]


def bytes_of(data64: Any) -> bytes | None:
    try:
        return base64.b64decode(data64, validate=True) if isinstance(data64, str) else None
    except (binascii.Error, ValueError):
        return b""  # not base64: there is nothing to show


def _number_of(value: Any) -> int | None:
    """A delta's number: 1 or more."""
    return number if (number := _integer(value)) is not None and number > 0 else None


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return max(0, value) if is_number and value == value else 0
