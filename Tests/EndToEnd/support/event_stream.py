"""A device on server-sent events, as EventSource reads them: nothing of ours in between."""

import contextlib
import http.client
import json
import threading
import time

from .checker import View, judge, place


class EventStream:
    """`EventStream(gateway, "chat-42", offset="0")`; `last_event_id` goes as the header."""

    def __init__(self, gateway, session, last_event_id=None, headers=None, **query):
        joined = "&".join(f"{name}={value}" for name, value in query.items())
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        all_ = {"Accept": "text/event-stream", **(headers or {})}
        if last_event_id is not None:
            all_["Last-Event-ID"] = last_event_id
        self.connection.request("GET", f"/v1/sessions/{session}" + (f"?{joined}" if joined else ""), headers=all_)
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        self.status, self.headers = self.response.status, {name.lower(): value for name, value in self.response.getheaders()}
        self.view, self.events, self.comments, self.retries = View(), [], 0, []
        self.last_id, self.ended, self.error = last_event_id or "", False, None
        self.is_text, self.is_filtered = query.get("format") == "text", "response" in query
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            event = {}
            for line in iter(self.response.readline, b""):
                event = self._line(line.decode().rstrip("\n").rstrip("\r"), event)
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            pass
        except AssertionError as error:
            self.error = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _line(self, line, event):
        """The event as it grows; {} after it was dispatched (WHATWG HTML, section 9.2.6)."""
        with self.changed:
            if line == "":
                self._dispatch(event)
                self.changed.notify_all()
                return {}
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "":
                self.comments += 1
            elif name == "data":
                event.setdefault("data", []).append(value)
            elif name == "retry":
                self.retries.append(int(value))
            elif name == "id":
                event["id"] = value
            else:
                event[name] = value
            return event

    def _dispatch(self, event):
        self.last_id = event.get("id", self.last_id)
        if "data" not in event:
            return
        told = {"event": event.get("event", "message"), "data": "\n".join(event["data"]), "id": self.last_id}
        self.events.append(told)
        if not self.is_text:
            frame = json.loads(told["data"])
            # The view knows no filter.
            if not self.is_filtered:
                self.view.feed(frame)
            if "type" not in frame or frame["type"] in ("attached", "live", "reset", "skipped"):
                assert "id" in event, f"no id with {frame}"

    def until(self, condition, seconds=20, what="the condition"):
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                if self.error:
                    raise self.error
                value = condition(self)
                if value:
                    return value
                if self.ended or time.monotonic() > deadline:
                    raise AssertionError(f"{what}: ended={self.ended}; {str(self.events[-4:])[:1000]}")
                self.changed.wait(max(0, deadline - time.monotonic()))

    def until_at(self, id, seconds=20):
        self.until(lambda stream: _is_at(stream.last_id, id), seconds, f"offset {id}")
        return self

    def until_live(self, seconds=20):
        self.until(lambda stream: stream.view.live, seconds, "live")
        return self

    def until_ended(self, seconds=20):
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended, seconds), "the stream did not end"
        return self

    @property
    def frames(self):
        return [json.loads(event["data"]) for event in self.events]

    def judge(self, stream, **options):
        with self.changed:
            if self.error:
                raise self.error
            return judge(self.view, stream, **options)

    def close(self):
        with contextlib.suppress(OSError, AttributeError):
            self.socket.shutdown(2)
        self.thread.join(10)


def _is_at(offset, id):
    return bool(offset) and place(offset) >= place(id)
