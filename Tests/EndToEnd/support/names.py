"""A nameserver whose answers a test changes (RFC 1035, as far as proxies ask)."""

import socket
import struct
import threading


class Names:
    """`names["gw-1.test"] = "127.0.0.2"`; a name that is not there does not exist."""

    def __init__(self):
        self.addresses, self.asked = {}, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def __setitem__(self, name, address):
        self.addresses[name] = address

    def __delitem__(self, name):
        del self.addresses[name]

    def _serve(self):
        while True:
            try:
                question, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            if question:
                self.asked += 1
                self.socket.sendto(self._answer(question), peer)

    def _answer(self, message):
        labels, at = [], 12
        while message[at]:
            labels.append(message[at + 1:at + 1 + message[at]].decode())
            at += 1 + message[at]
        kind = struct.unpack_from(">H", message, at + 1)[0]
        question = message[12:at + 5]
        address = self.addresses.get(".".join(labels).lower())
        has = address is not None and kind == 1
        head = message[:2] + struct.pack(">HHHHH", 0x8180 | (0 if address else 3), 1, 1 if has else 0, 0, 0)
        record = struct.pack(">HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) if has else b""
        return head + question + record

    def kill(self):
        self.socket.close()
