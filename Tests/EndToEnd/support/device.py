"""A device as an app would write one on Python's `websockets`: it records, obeys section 4, and can go on elsewhere."""

import contextlib
import json
import threading
import time

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect

from .checker import Broken, View, judge, place

NO_RECONNECT = {1000, 1002, 1003, 1007, 1008, 1009, 4401, 4403}


class Device:
    """`Device(gateway.url, "chat-42", offset="0")`: attached when the constructor returns.

    With `follow` it reconnects by itself with its offset, to the next of its URLs in turn, as section 5 says."""

    def __init__(self, urls, session, follow=False, headers=None, subprotocols=("baton.v1",), **query):
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.session, self.query, self.headers, self.subprotocols = session, query, headers, list(subprotocols)
        self.follow = follow
        self.view, self.frames, self.attaches = View(), [], 0
        # When each reset came, what the device had until then, and the frame.
        self.resets_told = []
        # The last entry that it was sent; its place, where there is none.
        self.had = "0"
        self.code = self.reason = self.error = None
        self.changed = threading.Condition()
        self.stopped = False
        self.socket = None
        self.thread = None
        self.attach()

    # Connecting

    def address(self, turn=0):
        base = self.urls[turn % len(self.urls)].replace("http", "ws", 1)
        query = dict(self.query)
        if self.view.offset is not None:
            query.pop("last", None)
            query.pop("response", None)
            query["offset"] = self.view.offset
        joined = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{base}/v1/sessions/{self.session}" + (f"?{joined}" if joined else "")

    def attach(self, url=None):
        """Attaches with the device's own offset (the query's at first), at `url` if given."""
        if url is not None:
            self.urls = [url]
        self.code = self.reason = None
        self._open(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def _open(self, turn):
        self.socket = connect(
            self.address(turn), subprotocols=self.subprotocols or None, additional_headers=self.headers, max_size=None,
            compression=None, open_timeout=20, close_timeout=5, ping_interval=None, proxy=None, user_agent_header=None)
        self.view.attaching()
        self.attaches += 1

    def _run(self):
        turn = 0
        while True:
            self._read()
            if self.error or self.stopped or not self.follow or self.code in NO_RECONNECT:
                break
            turn = self._reopen(turn + 1)
            if turn is None:
                break
        with self.changed:
            self.changed.notify_all()

    def _reopen(self, turn):
        while not self.stopped:
            with contextlib.suppress(OSError, InvalidHandshake, InvalidMessage, TimeoutError):
                self._open(turn)
                return turn
            turn += 1
            time.sleep(0.05)
        return None

    def _read(self):
        try:
            while True:
                message = self.socket.recv()
                with self.changed:
                    self._take(message)
                    self.changed.notify_all()
        except ConnectionClosed as closed:
            with self.changed:
                self.code = closed.rcvd.code if closed.rcvd else 1006
                self.reason = closed.rcvd.reason if closed.rcvd else ""
                self.changed.notify_all()
        except Exception as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def _take(self, message):
        assert isinstance(message, str), "a binary frame"
        frame = json.loads(message)
        self.frames.append(frame)
        if frame.get("type") == "reset":
            self.resets_told.append((time.monotonic(), self.had, frame))
        elif frame.get("type") != "attached":
            self.had = frame.get("id") or (frame["offset"] if frame.get("type") == "skipped" else self.had)
        try:
            self.view.feed(frame)
        except Broken as broken:
            raise Broken(f"{broken}; the last frames: {str(self.frames[-8:])[:3000]}") from None

    # Waiting

    def until(self, condition, seconds=20, what="the condition"):
        """Returns the first true value of `condition(self)`; fails at the deadline, or when nothing more can come."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                if self.error:
                    raise self.error
                value = condition(self)
                if value:
                    return value
                ended = self.code is not None and not self.follow
                if ended or not self.changed.wait(max(0, deadline - time.monotonic())) and time.monotonic() > deadline:
                    why = f"closed with {self.code} {self.reason!r}" if ended else f"not within {seconds} s"
                    raise AssertionError(f"{what}: {why}; the last frames: {str(self.frames[-4:])[:1500]}")

    def until_live(self, seconds=20):
        self.until(lambda device: device.view.live, seconds, "live")
        return self

    def until_at(self, id, seconds=20):
        """Waits until the device's offset is the entry `id`, or beyond it."""
        self.until(lambda device: device.view.offset and place(device.view.offset) >= place(id), seconds, f"offset {id}")
        return self

    def until_type(self, kind, count=1, seconds=20):
        """The `count`th frame of this type."""
        def found(device):
            frames = [frame for frame in device.frames if frame.get("type") == kind]
            return len(frames) >= count and frames[count - 1]

        return self.until(found, seconds, f"{kind} number {count}")

    def until_closed(self, seconds=20):
        """The close code."""
        return self.until(lambda device: device.code, seconds, "a close")

    # Looking

    @property
    def attached(self):
        return self.until_type("attached")

    @property
    def entries(self):
        with self.changed:
            return [frame for frame in self.frames if "type" not in frame]

    @property
    def offset(self):
        with self.changed:
            return self.view.offset

    @property
    def text(self):
        with self.changed:
            return self.view.text

    @property
    def resets(self):
        with self.changed:
            return list(self.view.resets)

    def judge(self, stream, **options):
        with self.changed:
            if self.error:
                raise self.error
            return judge(self.view, stream, **options)

    # Acting

    def send(self, message):
        self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def cut(self):
        """Drops the connection without a close frame."""
        self.stopped = True
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(2)
        self.thread.join(10)
        self.stopped = False

    def close(self):
        self.stopped = True
        with contextlib.suppress(Exception):
            self.socket.socket.shutdown(2)
        self.thread.join(10)
