"""A TCP forwarder whose target can be changed, as a name that fails over does."""

import contextlib
import functools
import random
import socket
import threading
import time


class Switch:
    def __init__(self, target):
        self.target = target
        self.pairs = []
        self.restore()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def restore(self):
        """Bytes pass, unless told: `deaf` holds back what comes from the target, `mute` what goes to it, `drip` is bytes a second,
        `mangles` the part of chunks in which a byte is another one."""
        self.deaf = self.mute = False
        self.drip, self.mangles = None, 0

    def switch(self, target):
        """Cuts every connection; new ones go to `target` (a port, or None: refused at once)."""
        self.target = target
        self.cut()

    def cut(self):
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def kill(self):
        self.target = None
        self.cut()
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self._join(near, self.target)

    def _join(self, near, target, first=b""):
        try:
            far = socket.create_connection(("127.0.0.1", target))
            far.sendall(first)
        except (OSError, TypeError):
            near.close()
            return
        self.pairs.append((near, far))
        for source, sink in ((near, far), (far, near)):
            arguments = (source, sink, functools.partial(self._passed, source is far))
            threading.Thread(target=_copy, args=arguments, daemon=True).start()

    def _passed(self, is_back, data):
        """What becomes of bytes on their way."""
        while self.deaf if is_back else self.mute:
            time.sleep(0.01)
        if self.drip:
            time.sleep(len(data) / self.drip)
        if random.random() < self.mangles:
            at = random.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        return data


class SwitchByName(Switch):
    """Sends the connections whose first bytes hold `name`, as CLIENT SETNAME does, to a server of their own."""

    def __init__(self, target, name, special):
        self.name, self.special = name.encode(), special
        super().__init__(target)

    def _join(self, near, target, first=b""):
        def look():
            with contextlib.suppress(OSError):
                first = near.recv(65536)
                super(SwitchByName, self)._join(near, self.special if self.name in first else target, first)

        threading.Thread(target=look, daemon=True).start()


def _copy(source, sink, passed=lambda data: data):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(passed(data))
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
