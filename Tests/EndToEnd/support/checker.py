"""The judge: what a device was sent against what Redis holds, by PROTOCOL sections 1, 2, 4 and 10 alone.

`View` holds what a device that obeys section 4 holds after each frame; `judge` compares it with the stream.
Streams are lists of `(id, [(name, value), …])` with names and values as bytes, as `Redis.stream` gives them.
"""

import base64
import re
import struct
import zlib

MAX_ENTRY_BYTES = 256 * 1024
MAX_JOINED_BYTES = 64 * 1024


class Broken(AssertionError):
    """A promise was broken."""


def check(fields):
    value = 0
    for part in (part for pair in fields for part in pair):
        value = zlib.crc32(part, zlib.crc32(struct.pack(">I", len(part)), value))
    return f"{value:08x}"


def offset(entry):
    return f"{entry[0]}.{check(entry[1])}"


def place(offset):
    """The numbers of an offset's id, to compare places with."""
    ms, _, seq = offset.partition(".")[0].partition("-")
    return int(ms), int(seq or 0)


def size(fields):
    return sum(len(part) for pair in fields for part in pair)


def _text(value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _base64(value):
    return base64.b64encode(value).decode()


_NAME = rb"[A-Za-z0-9._~:@-]{1,128}"
_SHAPES = {
    b"event": rb"[A-Za-z0-9._:-]{1,64}",
    b"response": _NAME,
    b"part": rb"(?=.{1,128}\Z)[a-z0-9-]+:[A-Za-z0-9._~:@-]+",
    b"more": rb"1",
    b"n": rb"[1-9][0-9]{0,15}",
    b"joined": rb"[1-9][0-9]{0,15}",
}


def frame_of(entry):
    """The entry as a frame of its own (section 4), with its id and check."""
    id, fields = entry
    ours, others = {}, {}
    for name, value in fields:
        known = name == b"data" or name in _SHAPES
        if known and name not in ours:
            if name == b"data":
                ours[name] = value
                continue
            fits = re.fullmatch(_SHAPES[name], value) and not (name in (b"n", b"joined") and int(value) > 2**53 - 1)
            ours[name] = value if fits else None
            if fits:
                continue
        if name.startswith(b"_"):
            continue
        text = _text(name)
        label = text if text is not None else "base64:" + _base64(name)
        shown = _text(value)
        others.setdefault(label, []).append(shown if shown is not None else {"base64": _base64(value)})
    frame = {"id": offset(entry), "event": (ours.get(b"event") or b"token").decode()}
    if ours.get(b"response"):
        frame["response"] = ours[b"response"].decode()
    if ours.get(b"part"):
        frame["part"] = ours[b"part"].decode()
    if ours.get(b"more"):
        frame["more"] = True
    for name in (b"n", b"joined"):
        if ours.get(name) and int(ours[name]) > (1 if name == b"joined" else 0):
            frame[name.decode()] = int(ours[name])
    if b"data" in ours:
        data = _text(ours[b"data"])
        frame.update({"data": data} if data is not None else {"data64": _base64(ours[b"data"])})
    if others:
        frame["fields"] = {name: values[0] if len(values) == 1 else values for name, values in others.items()}
    return frame


class View:
    """A device's state: `offset`, the frames it keeps, the entries of the current base onwards in `judged`."""

    def __init__(self):
        self.offset = None
        self.base = "0"
        self.kept = []
        self.since = 0
        self.live = False
        self.fresh = True
        self.must_reset = False
        self.resets = []

    @property
    def judged(self):
        return self.kept[self.since :]

    @property
    def text(self):
        """The text of all token entries that it keeps."""
        return "".join(frame.get("data", "") for frame in self.kept if frame.get("event") == "token")

    def feed(self, frame):
        kind = frame.get("type")
        if self.fresh:
            if kind != "attached":
                raise Broken(f"the first frame of an attach is not `attached`: {frame}")
            self._attached(frame)
        elif kind == "attached":
            raise Broken("`attached` came twice on one attach")
        elif kind == "reset":
            self._reset(frame)
        elif kind == "live":
            if self.live:
                raise Broken("`live` came again without `behind`, `stalled` or `reset` before it")
            self.live = True
            self._continuous("live")
            # The last retained entry: before the device's own where that was taken out. Where none is retained, and the device
            # has none, the last generated id.
            if self.offset == "0" and "." not in frame["offset"]:
                self.offset = frame["offset"]
            if place(frame["offset"]) > place(self.offset) or _contradict(frame["offset"], self.offset):
                raise Broken(f"`live` names {frame['offset']}, the device is at {self.offset}")
        elif kind in ("behind", "stalled"):
            self.live = False
        elif kind is None or kind == "skipped":
            self._entry(frame)

    def attaching(self):
        """A new attach begins; it goes on from `offset`."""
        self.fresh, self.live = True, False

    def _attached(self, frame):
        self.fresh = False
        at = frame["offset"]
        if self.offset is None:
            self.base = at
        elif place(at) > place(self.offset):
            # From the start of a stream that holds nothing, the place is the last generated id.
            self.must_reset = self.offset != "0" or frame["first"] is not None
        elif place(at) < place(self.offset):
            # Its entry was taken out, and nothing came after it: a careful device stays where it was.
            return
        self.offset = at

    def _continuous(self, what):
        if self.must_reset:
            raise Broken(f"`{what}` came although the attach moved the device, without a `reset`")

    def _entry(self, frame):
        self._continuous("an entry")
        at = frame["id"] if "id" in frame else frame["offset"]
        if place(at) <= place(self.offset):
            raise Broken(f"entry {at} came after {self.offset}")
        self.kept.append(frame)
        self.offset = at

    def _reset(self, frame):
        self.must_reset = self.live = False
        self.resets.append(frame["reason"])
        kept_to = place(frame["from"])
        self.kept = [one for one in self.kept if place(one.get("id") or one["offset"]) <= kept_to]
        if frame["from"] == "0" or place(frame["from"]) != place(frame["offset"]) or len(self.kept) < self.since:
            self.since, self.base = len(self.kept), frame["offset"]
        self.offset = frame["offset"]


def _contradict(one, other):
    """Whether two offsets of one place name different entries."""
    return place(one) == place(other) and "." in one and "." in other and one != other


def judge(view, stream, trimmed=False, to_end=True, max_entry_bytes=MAX_ENTRY_BYTES, rollup=True):
    """Raises Broken unless the view is exactly the stream after the view's base.

    `trimmed`: the stream may have lost entries from its start that the device had had. `to_end=False`: the device need not
    have come to the end. `rollup=False`: the gateway may have joined nothing."""
    if view.must_reset:
        raise Broken("the device was moved on attach and not told why by `reset`")
    after = [entry for entry in stream if place(entry[0]) > place(view.base)]
    frames = view.judged
    if trimmed and after:
        frames = [frame for frame in frames if place(frame.get("id") or frame["offset"]) >= place(after[0][0])]
    elif trimmed:
        frames = []
    position = 0
    if trimmed and frames and not _begins_at(frames[0], after):
        # The first joined frame reaches back over the trim: of it only its end can be compared.
        ends = [index for index, entry in enumerate(after) if frames[0].get("id") == offset(entry)]
        if not ends or not frames[0]["data"].endswith(frame_of(after[ends[0]])["data"]):
            raise Broken(f"invented: no entry of the stream is {_short(frames[0])}")
        frames, position = frames[1:], ends[0] + 1
    for frame in frames:
        position = _follow(frame, after, position, max_entry_bytes, rollup)
    if to_end and position != len(after):
        raise Broken(f"lost: the device ends before {after[position][0]} ({len(after) - position} entries left)")
    return position


def _begins_at(frame, after):
    try:
        return _follow(frame, after, 0, MAX_ENTRY_BYTES, True) > 0
    except Broken:
        return "joined" not in frame


def _follow(frame, after, position, max_entry_bytes, rollup):
    """Checks one frame against the entries from `position`; the position after it."""
    if position >= len(after):
        raise Broken(f"invented: {_short(frame)} comes after the stream's end")
    if frame.get("type") == "skipped":
        id, fields = after[position]
        if size(fields) <= max_entry_bytes or frame["reason"] != "too_big" or frame["bytes"] != size(fields):
            raise Broken(f"`skipped` is wrong for {id} of {size(fields)} bytes: {frame}")
        if place(frame["offset"]) != place(id) or frame["offset"] not in (id, offset(after[position])):
            raise Broken(f"`skipped` names {frame['offset']}, the entry is {offset(after[position])}")
        return position + 1
    last = position
    while last < len(after) and place(after[last][0]) < place(frame["id"]):
        last += 1
    if last == len(after) or after[last][0] != frame["id"].partition(".")[0]:
        raise Broken(f"invented: no entry of the stream is {_short(frame)}")
    group = [frame_of(entry) for entry in after[position : last + 1]]
    for entry in after[position : last + 1]:
        if size(entry[1]) > max_entry_bytes:
            raise Broken(f"{entry[0]} of {size(entry[1])} bytes came although it is too big, or was passed over silently")
    wanted = group[0] if len(group) == 1 else _joined(group, rollup)
    if wanted != frame:
        raise Broken(f"differs from the stream: got {_short(frame)}, the stream has {_short(wanted)}")
    return last + 1


def _joined(group, rollup):
    """The one frame that adjacent deltas become; Broken where they must not be joined."""
    ids = f"{group[0]['id']} … {group[-1]['id']}"
    if not rollup:
        raise Broken(f"joined or lost, where nothing may be joined: {ids}")
    for before, frame in zip([None, *group], group):
        if frame["event"] != "token" or "fields" in frame or "more" in frame or "data" not in frame:
            raise Broken(f"lost, or joined across an entry that must stand alone: {_short(frame)}")
        if before is None:
            continue
        if any(before.get(name) != frame.get(name) for name in ("response", "part")):
            raise Broken(f"joined across responses or parts: {ids}")
        if ("n" in before) != ("n" in frame) or "n" in frame and frame["n"] - frame.get("joined", 1) != before["n"]:
            raise Broken(f"joined across a gap in n: {ids}")
    data = "".join(frame["data"] for frame in group)
    if len(data.encode()) > MAX_JOINED_BYTES:
        raise Broken(f"joined to more than 64 KiB: {ids}")
    return {**group[-1], "joined": sum(frame.get("joined", 1) for frame in group), "data": data}


def _short(frame):
    return {name: value if len(str(value)) < 120 else str(value)[:100] + "…" for name, value in frame.items()}
