"""What goes wrong, on both sides."""

from __future__ import annotations


class BatonError(Exception):
    """Of this library."""


class Rejected(BatonError):
    """A gateway said no, and trying again would not help."""

    def __init__(self, detail: str | None, *, status: int | None = None, code: int | None = None) -> None:
        what = f"HTTP status {status}" if status is not None else f"close code {code}"
        super().__init__(f"the gateway refused this session: {detail or what}")
        self.detail = detail
        """What the gateway says there is to mend."""
        self.status = status
        """HTTP's status in place of a connection; None where the connection was closed."""
        self.code = code
        """The WebSocket's close code, section 5."""


class SubmissionError(BatonError):
    """An input or a cancel was not accepted."""

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        """The gateway's, section 5 of the protocol; or `too_many`, `too_big`, `key_in_use`, `ended`, `timed_out`, `bad_answer`."""


class ProducerError(BatonError):
    """The response can't go on: every later call raises it again, but for `TooLarge`."""


class Fenced(ProducerError):
    """A newer producer of this response has taken over."""


class Deleted(ProducerError):
    """The session was deleted after the response was opened."""


class Ended(ProducerError):
    """The response has ended: by this producer, or because it was lost sight of for 15 s, or because the name was used before."""


class Unavailable(ProducerError):
    """Redis was out of reach for longer than `patience`."""


class Refused(ProducerError):
    """Redis refuses, and will again: rights, configuration, a key of another type."""


class TooLarge(ProducerError):
    """An entry that no device would be sent. Nothing was appended, and the response goes on."""


class Cancelled(BatonError):
    """A device asked to stop: end the response by `cancelled`. Within `with` that is done for you."""
