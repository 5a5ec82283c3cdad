"""Between a program and Redis: replies that are lost."""

import socket
import threading


class LossyRedis:
    """Where `loses` says so of what was sent, the connection is cut in place of the reply; the command is done."""

    def __init__(self, redis, loses):
        self.client, self.target, self.loses, self.lost = redis.client, redis.port, loses, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            threading.Thread(target=self._pass, args=(near, socket.create_connection(("127.0.0.1", self.target))), daemon=True).start()

    def _pass(self, near, far):
        with near, far:
            while said := near.recv(1 << 20):
                far.sendall(said)
                answer = far.recv(1 << 20)
                if self.loses(said):
                    self.lost += 1
                    return
                near.sendall(answer)
