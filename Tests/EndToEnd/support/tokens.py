"""Tokens by hand: what is signed, and by which key, is the test's."""

import base64
import hashlib
import hmac
import json
import time

SECRET = b"a secret of this test, longer than 32 bytes"


def part(value):
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=")


def token(secret=SECRET, header=None, exp=600, **claims):
    body = {"sub": "ada", "sessions": ["*"], "scope": ["read", "publish", "input", "cancel", "delete"]}
    if exp is not None:
        body["exp"] = int(time.time()) + exp
    body.update(claims)
    signed = part(header or {"alg": "HS256", "typ": "JWT"}) + b"." + part({name: value for name, value in body.items() if value is not None})
    return (signed + b"." + part(hmac.new(secret, signed, hashlib.sha256).digest())).decode()


def bearer(value):
    return {"Authorization": f"Bearer {value}"}
