"""A web app that says who asks (`--auth-url`), or what keys there are (`--auth-jwks-url`), as a test wants it."""

import contextlib
import http.server
import json
import socket
import threading
import time

SCOPES = ["read", "publish", "input", "cancel", "delete"]


def claims(exp=600, **other):
    return {"sub": "ada", "sessions": ["*"], "scope": SCOPES, "exp": time.time() + exp, **other}


class App:
    """`answer` is what it says: a dict as JSON with 200, a status, or a function of the request's handler. `asked` holds the headers of each request."""

    def __init__(self, answer=401):
        self.answer, self.asked = answer, []
        self.server, self.port, self.connections = None, 0, []
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/who"

    def start(self):
        app = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                app.asked.append({**{name.lower(): value for name, value in self.headers.items()}, ":path": self.path})
                answer = app.answer(self) if callable(app.answer) else app.answer
                if answer is not None:
                    self.say(*((200, json.dumps(answer)) if isinstance(answer, dict) else (answer, "")))

            def say(self, status, body, **headers):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(body)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def process_request(self, request, address):
                app.connections.append(request)
                super().process_request(request, address)

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            for connection in self.connections:
                # A request that is being answered has it still.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections = []
