"""Producers beside the tests: one that appends in a thread, and a stand-in for a model server."""

import http.server
import json
import threading
import time


class Producer:
    """Appends `start`, numbered deltas at a pace, and `end`, in a thread. Redis' failures are tried again."""

    def __init__(self, redis, session, deltas=600, pause=0.005, response="r"):
        self.redis, self.session, self.deltas, self.pause, self.response = redis, session, deltas, pause, response
        self.written = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        self.redis.add(self.session, event="start", response=self.response)
        for n in range(1, self.deltas + 1):
            self.redis.add(self.session, data=f"w{n} ", response=self.response, n=str(n))
            self.written = n
            time.sleep(self.pause)
        self.redis.add(self.session, event="end", response=self.response, data="{\"finish_reason\":\"stop\"}")

    def join(self, seconds=60):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the producer did not come to its end"
        assert self.written == self.deltas


class Model:
    """An OpenAI-compatible server that streams `words`. After `break_after` of them it drops the connection."""

    def __init__(self, words, pause=0.0, break_after=None, status=200):
        self.requests = []
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                model.requests.append((self.path, json.loads(body)))
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream" if status == 200 else "application/json")
                self.end_headers()
                if status != 200:
                    self.wfile.write(b"{\"error\":{\"message\":\"no such model\"}}")
                    return
                self._tell({"role": "assistant", "content": None})
                for n, word in enumerate(words):
                    if n == break_after:
                        return
                    self._tell({"content": word})
                    time.sleep(pause)
                self._tell({}, "stop")
                usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
                self._line(json.dumps({"choices": [], "usage": usage}))
                self._line("[DONE]")

            def _tell(self, delta, finish=None):
                self._line(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}, ensure_ascii=False))

            def _line(self, text):
                self.wfile.write(f"data: {text}\n\n".encode())
                self.wfile.flush()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def kill(self):
        self.server.shutdown()
        self.server.server_close()
