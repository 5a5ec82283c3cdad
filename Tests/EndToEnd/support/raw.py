"""A connection to a gateway, byte by byte."""

import socket


class Raw:
    """One connection, byte by byte."""

    def __init__(self, gateway):
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        self.got = b""

    def send(self, text):
        self.socket.sendall(text.encode() if isinstance(text, str) else text)
        return self

    def until(self, text):
        while text.encode() not in self.got:
            part = self.socket.recv(65536)
            assert part, f"closed before {text!r}: {self.got!r}"
            self.got += part
        return self.got.decode(errors="replace")

    def until_closed(self):
        while part := self.socket.recv(65536):
            self.got += part
        return self.got.decode(errors="replace")
