"""Section 3: many keys at once, told apart by `kid`; each for the algorithm that the set says, whatever a token says."""

import json
import os
import signal
import subprocess
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from support.process import BATON, wait_for
from support.servers import Gateway
from support.tokens import bearer

PRIVATE = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "PS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "HS256": b"0123456789abcdef" * 2,
    "HS384": b"0123456789abcdef" * 3,
    "HS512": b"0123456789abcdef" * 4,
}
KINDS = {"RS": RSAAlgorithm, "PS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm, "HS": HMACAlgorithm}
SECRET = b"a secret beside the set, longer than 48 bytes, for HS384"


def jwk(algorithm, key=None, **members):
    key = key or PRIVATE[algorithm]
    public = key if isinstance(key, bytes) else key.public_key()
    made = json.loads(KINDS[algorithm[:2]].to_jwk(public))
    return {**made, "alg": algorithm, "kid": f"k-{algorithm}", "use": "sig", **members}


def token(algorithm, kid=..., key=None, **claims):
    body = {"sub": "ada", "sessions": ["*"], "scope": ["read"], "exp": int(time.time()) + 600, **claims}
    kid = f"k-{algorithm}" if kid is ... else kid
    return jwt.encode(body, key or PRIVATE[algorithm], algorithm, {"kid": kid} if kid else None)


def status(gateway, value):
    """404 is for who may look: the session does not exist."""
    return gateway.request("GET", "/v1/sessions/absent", headers=bearer(value)).status


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def gateway(folder, redis):
    (folder / "jwks").write_text(json.dumps({"keys": [
        *(jwk(algorithm) for algorithm in PRIVATE), {"kty": "future", "kid": "x"}, {"kty": "RSA", "use": "enc", "kid": "y"}, 7]}))
    (folder / "secret").write_bytes(SECRET)
    server = Gateway(folder, redis.url, "gw-keys", "--auth-jwks", folder / "jwks", "--auth-secret-file", folder / "secret", "--auth-algorithm", "HS384")
    yield server
    server.kill()


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_each_algorithm(gateway, session, attach, algorithm):
    attach(gateway, session, headers=bearer(token(algorithm))).until_live()
    # A token that names no key fits any of its algorithm.
    assert status(gateway, token(algorithm, kid=None)) == 404
    for wrong in (token(algorithm, kid="unknown"), token(algorithm)[:-8] + "AAAAAAAA"):
        assert status(gateway, wrong) == 401


def test_the_secret_is_a_key_beside_the_set(gateway):
    assert status(gateway, token("HS384", kid=None, key=SECRET)) == 404
    assert status(gateway, token("HS256", kid=None, key=SECRET)) == 401
    assert status(gateway, token("HS512", kid=None, key=SECRET + SECRET)) == 401


def test_a_key_comes_from_the_environment_where_there_is_no_file(redis, folder, new_gateway):
    (folder / "file").write_bytes(SECRET)
    environment = {"BATON_AUTH_SECRET": "a secret of the environment, of more than 32 bytes"}
    mine, files = token("HS256", kid=None, key=environment["BATON_AUTH_SECRET"].encode()), token("HS256", kid=None, key=SECRET)
    gateway = new_gateway(redis.url, "gw-environment", env=environment)
    assert (status(gateway, mine), status(gateway, files)) == (404, 401)
    gateway.process.signal(signal.SIGHUP)
    wait_for(lambda: "keys of tokens were read again" in gateway.process.logged(), 10, "the keys")
    assert status(gateway, mine) == 404
    gateway = new_gateway(redis.url, "gw-file", "--auth-secret-file", folder / "file", env=environment)
    assert (status(gateway, mine), status(gateway, files)) == (401, 404)
    made = subprocess.run([BATON, "token", "--subject", "ada", "--sessions", "*", "--scope", "read"], capture_output=True, text=True, env={**os.environ, **environment})
    assert made.returncode == 0 and jwt.decode(made.stdout.strip(), environment["BATON_AUTH_SECRET"], ["HS256"])["sub"] == "ada"
    for command in (["serve", "--print-config"], ["token", "--subject", "ada", "--sessions", "*"]):
        told = subprocess.run([BATON, *command], capture_output=True, text=True, env={**os.environ, "BATON_AUTH_SECRET": "hidden but too short"})
        assert told.returncode in (64, 78) and "BATON_AUTH_SECRET" in told.stderr and "hidden" not in told.stderr + told.stdout


def test_no_key_is_taken_for_another_kind(gateway):
    for algorithm in ("RS256", "PS256", "ES256", "EdDSA"):
        public = PRIVATE[algorithm].public_key()
        forms = [public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
                 public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)]  # fmt: skip
        for form in forms:
            for kid in (f"k-{algorithm}", "k-HS256", None):
                assert status(gateway, hmac_token(form, kid)) == 401
    # A key of RSA is for the one algorithm that the set says.
    assert status(gateway, token("PS256", kid="k-RS256", key=PRIVATE["RS256"])) == 401
    assert status(gateway, token("RS256", kid="k-PS256", key=PRIVATE["PS256"])) == 401
    assert status(gateway, token("ES256", kid="k-ES384")) == 401
    # What a token brings along is nobody's key.
    mine = ec.generate_private_key(ec.SECP256R1())
    body = {"sub": "eve", "sessions": ["*"], "scope": ["read"], "exp": int(time.time()) + 600}
    for header in ({"jwk": jwk("ES256", mine)}, {"jku": "http://127.0.0.1:1/keys", "kid": "k-ES256"}, {"x5u": "http://127.0.0.1:1/"}):
        assert status(gateway, jwt.encode(body, mine, "ES256", header)) == 401


def hmac_token(secret, kid):
    """HS256 with whatever bytes: the library refuses to sign with a public key."""
    import hashlib
    import hmac

    from support.tokens import part

    header = {"alg": "HS256", **({"kid": kid} if kid else {})}
    signed = part(header) + b"." + part({"sub": "eve", "sessions": ["*"], "scope": ["read"], "exp": int(time.time()) + 600})
    return (signed + b"." + part(hmac.new(secret, signed, hashlib.sha256).digest())).decode()


def test_keys_rotate_under_attached_devices(redis, new_gateway, tmp_path, session, attach):
    path = tmp_path / "jwks"
    path.write_text(json.dumps({"keys": [jwk("ES256", kid="old")]}))
    gateway = new_gateway(redis.url, "gw-rotates", "--auth-jwks", path)
    old, new = token("ES256", "old"), token("EdDSA", "new")
    device = attach(gateway, session, headers=bearer(old)).until_live()
    assert (status(gateway, old), status(gateway, new)) == (404, 401)
    for count, keys in enumerate(([jwk("ES256", kid="old"), jwk("EdDSA", kid="new")], [jwk("EdDSA", kid="new")]), 1):
        path.write_text(json.dumps({"keys": keys}))
        gateway.process.signal(signal.SIGHUP)
        wait_for(lambda: gateway.process.logged().count("keys of tokens were read again") == count, 10, "the keys")
        assert (status(gateway, old), status(gateway, new)) == ((404, 404) if count == 1 else (401, 404))
    path.write_text("{")
    gateway.process.signal(signal.SIGHUP)
    wait_for(lambda: "keys of tokens stay as they were" in gateway.process.logged(), 10, "a word")
    assert status(gateway, new) == 404
    device.until_at(redis.add(session, data="x"))
    # The device has to show a token that is good now.
    device.send({"type": "auth", "token": old})
    assert device.until_closed() == 4401


def test_issuer_and_audience(redis, new_gateway, folder):
    (folder / "other").write_bytes(PRIVATE["HS256"])
    gateway = new_gateway(redis.url, "gw-claims", "--auth-secret-file", folder / "other", "--auth-issuer", "https://id.example", "--auth-audience", "baton")
    for claims, expected in [
        ({"iss": "https://id.example", "aud": "baton"}, 404), ({"iss": "https://id.example", "aud": ["other", "baton"]}, 404),
        ({"iss": "https://id.example"}, 401), ({"aud": "baton"}, 401), ({"iss": "https://id.example/", "aud": "baton"}, 401),
        ({"iss": "https://id.example", "aud": "bat"}, 401), ({"iss": "https://id.example", "aud": []}, 401), ({}, 401),
    ]:  # fmt: skip
        assert status(gateway, token("HS256", kid=None, **claims)) == expected, claims


@pytest.mark.parametrize("content", [
    None, "", "{", "[]", "{}", '{"keys":{}}', '{"keys":[]}', '{"keys":[{"kty":"RSA","kid":"a"}]}', '{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}',
    json.dumps({"keys": [jwk("RS256", use="enc")]}), json.dumps({"keys": [jwk("RS256", alg="RS1")]}), json.dumps({"keys": [jwk("ES256", alg="HS256")]}),
])  # fmt: skip
def test_a_set_without_a_usable_key_stops_the_start(redis, tmp_path, content):
    if content is not None:
        (tmp_path / "jwks").write_text(content)
    told = subprocess.run([BATON, "serve", "--listen", "127.0.0.1:0", "--redis", redis.url, "--auth-jwks", tmp_path / "jwks"],
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert told.returncode == 78 and "--auth-jwks" in told.stderr, told


def test_a_secret_is_as_long_as_its_digest(redis, tmp_path):
    for algorithm, least in (("HS256", 32), ("HS384", 48), ("HS512", 64)):
        for length, status in ((least - 1, 78), (least, 0)):
            (tmp_path / "secret").write_bytes(b"x" * length)
            told = subprocess.run([BATON, "serve", "--print-config", "--auth-algorithm", algorithm, "--auth-secret-file", tmp_path / "secret"],
                                  capture_output=True, text=True, timeout=30)  # fmt: skip
            assert told.returncode == status, told
