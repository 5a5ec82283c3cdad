"""The atomic step, call by call: what `baton_stream` calls and what gateways call, on a client that waits."""

import baton_stream._redis as package
from baton_stream._writer import flat


class Step(package.Step):
    """The script's five operations for one session; replies are lists of str."""

    def __init__(self, client, session, *arguments, **options):
        super().__init__(client, session, *arguments, **options)
        self.script = client.register_script(package.SCRIPT)  # EVALSHA, and SCRIPT LOAD after NOSCRIPT

    def __call__(self, operation, *arguments):
        return [package.text(part) for part in self.script(keys=self.keys, args=[operation, *self.limits, *arguments])]

    def open(self, response, token, first=1, items=(), epoch=0, generation=""):
        return self("open", response, epoch, generation, token, first, *flat(items))

    def append(self, response, token, first, items=(), epoch=1, generation=0):
        return self("append", response, epoch, generation, token, first, *flat(items))

    def expire(self, response, epoch, token):
        return self("expire", response, epoch, token)

    def put(self, where, fields, scope="", device="", subject="", key=""):
        return self("put", where, scope, device, subject, key, len(fields) // 2, *fields)

    def delete(self):
        return self("delete")
