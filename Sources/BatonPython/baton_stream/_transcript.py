"""What a device shows: the text, count and state of each response, put together from entries, and taken back where a reset says so."""

from __future__ import annotations

import base64
import codecs
import json
import re
from typing import Any, Literal, NamedTuple, TypedDict

from ._events import Entry, Event, Reset, bytes_of
from ._machine import ENDINGS

ResponseState = Literal["open", "end", "error", "cancelled"]
_MOST_MARKS = 8192


class Snapshot(TypedDict, total=False):
    """A place together with the text before it: neither is of use without the other. JSON, the same as in baton.js."""

    offset: str
    responses: list[dict[str, Any]]
    """`name`, `text`, `n`, `state`; `pending`: the first bytes of a character, in base64."""


class Response:
    """One response so far."""

    def __init__(self, name: str, text: str = "", n: int = 0, state: ResponseState = "open", pending: bytes = b"") -> None:
        self.name = name
        """Empty for the entries that belong to no response."""
        self.n = n
        """The number of the last delta."""
        self.state: ResponseState = state
        self._length = len(text)
        self._parts = [text]
        self._pending = pending  # the first bytes of a character whose rest comes with the next delta

    @property
    def text(self) -> str:
        """The deltas so far, whole characters."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    def __repr__(self) -> str:
        return f"Response({self.name!r}, {self._length} characters, n={self.n}, {self.state})"

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def _mark(self) -> tuple[int, int, ResponseState, bytes]:
        return self._length, self.n, self.state, self._pending

    def _go_back(self, length: int, n: int, state: ResponseState, pending: bytes) -> None:
        self._parts = [self.text[:length]]
        self._length, self.n, self.state, self._pending = length, n, state, pending


class _Mark(NamedTuple):
    """What an entry changed, so that it can be taken back."""

    id: str
    name: str
    before: tuple[int, int, ResponseState, bytes] | None
    supersedes: str | None = None


class Transcript:
    """The responses of a session, in the order of their first entries; without those that another one supersedes."""

    def __init__(self, kept: Snapshot | None = None, *, offset: str = "0") -> None:
        self.responses: dict[str, Response] = {}
        self._superseded: dict[str, Response] = {}
        self._marks: list[_Mark] = []
        self._base = kept["offset"] if kept else offset  # the place before the first entry that can be taken back
        for one in (kept or {}).get("responses", []):
            pending = bytes_of(one.get("pending")) or b""
            self.responses[one["name"]] = Response(one["name"], one["text"], one["n"], one["state"], pending)

    def apply(self, event: Event) -> bool:
        """Takes one event of the session in.

        False: it tells of a place that is not known any more, and all must come again."""
        if isinstance(event, Entry):
            self._add(event)
        elif isinstance(event, Reset):
            return self._drop_after(event.from_)
        return True

    def text(self, response: str = "") -> str:
        """Of a response so far; without a name: of the entries that have none."""
        return self.responses[response].text if response in self.responses else ""

    def snapshot(self) -> list[dict[str, Any]]:
        """For `Snapshot`."""
        responses = []
        for name, one in self.responses.items():
            pending = {"pending": base64.b64encode(one._pending).decode()} if one._pending else {}
            responses.append({"name": name, "text": one.text, "n": one.n, "state": one.state, **pending})
        return responses

    def _add(self, entry: Entry) -> None:
        if len(self._marks) > _MOST_MARKS:
            half = _MOST_MARKS // 2
            self._base = self._marks[half - 1].id
            del self._marks[:half]
        name = entry.response or ""
        mark = _Mark(entry.id, name, None)
        if entry.event == "token" or entry.response is not None:
            mark = self._change(entry, mark)
        self._marks.append(mark)

    def _change(self, entry: Entry, mark: _Mark) -> _Mark:
        if entry.event == "start":
            mark = mark._replace(supersedes=self._supersede(mark.name, entry))
        response = self.responses.get(mark.name) or self._superseded.get(mark.name)
        if response is None:
            if entry.event == "error" and _object(entry).get("reason") == "superseded":
                return mark
            response = self.responses[mark.name] = Response(mark.name)
        else:
            mark = mark._replace(before=response._mark())
        if entry.event in ENDINGS:
            response.state = entry.event  # type: ignore[assignment]
            if response._pending:  # it ended within a character
                response._pending = b""
                response._add("\ufffd")
        elif entry.event == "token":
            # Not above the last: an append that was sent twice (section 2).
            if entry.n is None or entry.response is None or entry.n > response.n:
                if entry.is_shown_text:
                    decoder = codecs.getincrementaldecoder("utf-8")("replace")
                    response._add(decoder.decode(response._pending + (entry.data or b"")))
                    response._pending = decoder.getstate()[0]
                response.n = response.n + 1 if entry.n is None else entry.n
        return mark

    def _supersede(self, name: str, entry: Entry) -> str | None:
        """What a `start` says that its response stands in place of."""
        old = _object(entry).get("supersedes")
        if not isinstance(old, str) or old == name or old not in self.responses:
            return None
        self._superseded[old] = self.responses.pop(old)
        return old

    def _drop_after(self, place: str) -> bool:
        if place == "0":
            self.responses.clear()
            self._superseded.clear()
            self._marks.clear()
            self._base = "0"
            return True
        keep = len(self._marks)
        while keep > 0 and _id(self._marks[keep - 1].id) != _id(place):
            keep -= 1
        if keep == 0 and _id(self._base) != _id(place):
            return False
        while len(self._marks) > keep:
            self._take_back(self._marks.pop())
        return True

    def _take_back(self, mark: _Mark) -> None:
        if mark.supersedes in self._superseded:
            self.responses[mark.supersedes] = self._superseded.pop(mark.supersedes)
        response = self.responses.get(mark.name) or self._superseded.get(mark.name)
        if response is None:
            return
        if mark.before is not None:
            response._go_back(*mark.before)
        else:
            self.responses.pop(mark.name, None)
            self._superseded.pop(mark.name, None)


def is_snapshot(kept: Any) -> bool:
    """Whether it has the form of a `Snapshot`, as a whole."""
    if not isinstance(kept, dict) or not re.fullmatch(r"(?i:0|\d+-\d+(\.[0-9a-f]{8})?)", str(kept.get("offset"))):
        return False
    responses = kept.get("responses", [])
    return isinstance(responses, list) and all(_is_response(one) for one in responses)


def _is_response(one: Any) -> bool:
    if not isinstance(one, dict) or not all(isinstance(one.get(name, ""), str) for name in ("name", "text", "pending")):
        return False
    is_count = isinstance(one.get("n"), int) and one["n"] >= 0
    return is_count and "name" in one and "text" in one and one.get("state") in ("open", *ENDINGS)


def _object(entry: Entry) -> dict[str, Any]:
    """The entry's data as a JSON object; what is none says nothing to us."""
    try:
        value = json.loads(entry.data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _id(offset: str) -> str:
    """An offset without its check."""
    return offset.partition(".")[0]
