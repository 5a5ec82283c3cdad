"""A receiver of webhooks that verifies as any receiver of Standard Webhooks does."""

import base64
import http.server
import os
import threading

from standardwebhooks.webhooks import Webhook


def secret():
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


class Receiver:
    """Answers `status`, a number or what a function of the event says of it, when `held` is set, where there is one. `got` is what
    came, also what it refused, as `(headers, event)`."""

    def __init__(self, secret, status=204, port=0, headers=(), context=None):
        self.verifier, self.status, self.headers, self.held, self.got = Webhook(secret), status, dict(headers), None, []
        self.open, self.most, self.unverified = 0, 0, []
        lock, receiver = threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    event = receiver.verifier.verify(body, headers)
                except Exception as error:  # whatever it is, the test is to see it
                    receiver.unverified.append((error, headers, body))
                    return self.send_error(400)
                with lock:
                    receiver.open += 1
                    receiver.most = max(receiver.most, receiver.open)
                    receiver.got.append((headers, event))
                if receiver.held:
                    receiver.held.wait(60)
                status = receiver.status(event) if callable(receiver.status) else receiver.status
                with lock:
                    receiver.open -= 1
                try:
                    self.send_response(status)
                    for name, value in receiver.headers.items():
                        self.send_header(name, value)
                    if status != 204:
                        self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    self.close_connection = True

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size, daemon_threads, allow_reuse_address = 128, True, True

            def handle_error(self, *arguments):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.scheme, self.port = "https" if context else "http", self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://localhost:{self.port}/hook"

    def of(self, session):
        return [event for _, event in list(self.got) if event["data"]["session"] == session]

    def ids(self, session):
        return [headers["webhook-id"] for headers, event in list(self.got) if event["data"]["session"] == session]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        assert self.unverified == []
