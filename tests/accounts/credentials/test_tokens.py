"""Bearer tokens: one way to be right, and many to be wrong, which all look the same."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import requests
import responses
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pytest_django import Settings

from accounts.api.authentication import NOT_VALID
from accounts.credentials import tokens
from accounts.credentials.jwks import ProviderKeys, usable_keys
from accounts.models import Identity
from tests.cast import Cast
from tests.client import ContractClient

ISSUER, AUDIENCE, SUBJECT = "https://provider.example", "recoup", "did:provider:alice"
JWKS_URL = "https://provider.example/.well-known/jwks.json"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PEM = serialization.PublicFormat.SubjectPublicKeyInfo
EC_PEM = EC_KEY.public_key().public_bytes(serialization.Encoding.PEM, PEM).decode()


def jwk(key: Any, algorithm: str, key_id: str) -> dict[str, Any]:
    public: Any = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": key_id, "use": "sig", "alg": algorithm}


JWKS = {"keys": [jwk(EC_KEY, "ES256", "ec"), jwk(RSA_KEY, "RS256", "rsa"), jwk(ED_KEY, "EdDSA", "ed")]}


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims; a change to None takes one out."""
    now = int(time.time())
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "iat": now, "exp": now + 600, **changes}
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = EC_KEY, algorithm: str = "ES256", key_id: str | None = "ec", **changes: Any) -> str:
    headers = {"kid": key_id} if key_id is not None else {}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def raw(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def provider(settings: Settings) -> Iterator[responses.RequestsMock]:
    settings.TOKEN_ISSUER, settings.TOKEN_AUDIENCE, settings.TOKEN_JWKS_URL = ISSUER, AUDIENCE, JWKS_URL
    settings.TOKEN_PUBLIC_KEY = ""
    tokens.provider_keys.cache_clear()
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(JWKS_URL, json=JWKS)
        yield mock
        # A fetch that nobody waits for would be counted by the next test.
        for thread in threading.enumerate():
            if thread.name == "jwks":
                thread.join(10)


@pytest.fixture
def alices_identity(cast: Cast) -> Identity:
    return Identity.objects.create(account=cast.alice, issuer=ISSUER, subject=SUBJECT)


def ask(bearer: str) -> Any:
    client = ContractClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {bearer}")
    return client.get("/api/tasks")


@pytest.mark.usefixtures("provider", "alices_identity")
@pytest.mark.parametrize(
    ("key", "algorithm", "key_id"), [(EC_KEY, "ES256", "ec"), (RSA_KEY, "RS256", "rsa"), (ED_KEY, "EdDSA", "ed")]
)
def test_a_token_of_the_provider_is_its_identitys_account(key: Any, algorithm: str, key_id: str) -> None:
    assert ask(token(key, algorithm, key_id)).status_code == 200


@pytest.mark.usefixtures("provider", "alices_identity")
def test_a_clock_that_is_half_a_minute_off_does_no_harm() -> None:
    now = int(time.time())
    assert ask(token(exp=now - 20)).status_code == 200
    assert ask(token(nbf=now + 20)).status_code == 200
    assert ask(token(exp=now - 40)).status_code == 401


def unsigned() -> str:
    return f"{raw({'alg': 'none', 'typ': 'JWT'})}.{raw(claims())}."


def signed_with_the_public_key() -> str:
    head = f"{raw({'alg': 'HS256', 'kid': 'ec'})}.{raw(claims())}"
    return f"{head}.{raw(hmac.new(EC_PEM.encode(), head.encode(), hashlib.sha256).digest())}"


def tampered() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{raw(claims(sub='did:provider:somebody-else'))}.{signature}"


SPOILED: dict[str, Callable[[], str]] = {
    "alg none": unsigned,
    "HS256 with the public key as secret": signed_with_the_public_key,
    "another's signature": lambda: token(OTHER_EC_KEY),
    "tampered claims": tampered,
    "without a signature": lambda: token().rsplit(".", 1)[0] + ".",
    "RS256 with the id of an EC key": lambda: token(RSA_KEY, "RS256", "ec"),
    "an algorithm that is not allowed": lambda: token(RSA_KEY, "RS512", "rsa"),
    "another audience": lambda: token(aud="somebody"),
    "no audience": lambda: token(aud=None),
    "another issuer": lambda: token(iss="https://evil.example"),
    "expired": lambda: token(exp=int(time.time()) - 3600),
    "no expiry": lambda: token(exp=None),
    "not yet valid": lambda: token(nbf=int(time.time()) + 3600),
    "issued in the future": lambda: token(iat=int(time.time()) + 3600),
    "without sub": lambda: token(sub=None),
    "an empty sub": lambda: token(sub=""),
    "a sub with a NUL": lambda: token(sub="\x00"),
    "a sub nobody has": lambda: token(sub="did:provider:nobody"),
    "a sub that is a number": lambda: f"{token().split('.')[0]}.{raw(claims(sub=7))}.AAAA",
    "an expiry that is no number": lambda: f"{token().split('.')[0]}.{raw(claims(exp='soon'))}.AAAA",
    "an endless expiry": lambda: (
        f"{token().split('.')[0]}.{raw(json.dumps(claims(exp=9)).replace('9}', '1e999}').encode())}.AAAA"
    ),
    "a kid that is a path": lambda: token(key_id="../../keys/private.pem"),
    "a kid of 100 kB": lambda: token(key_id="x" * 100_000),
    "a kid that is no string": lambda: f"{raw({'alg': 'ES256', 'kid': ['ec']})}.{raw(claims())}.AAAA",
    "no kid among several keys": lambda: token(key_id=None),
    "100 kB": lambda: token(extra="x" * 100_000),
    "three dots": lambda: "...",
    "two dots": lambda: "..",
    "no JSON": lambda: f"{raw(b'x')}.{raw(b'x')}.{raw(b'x')}",
    "a header that is a list": lambda: f"{raw([])}.{raw(claims())}.AAAA",
    "a deep header": lambda: f"{raw(b'[' * 9000)}.{raw(b'{}')}.AAAA",
    "critical extensions": lambda: f"{raw({'alg': 'ES256', 'kid': 'ec', 'crit': ['x']})}.{raw(claims())}.AAAA",
}


@pytest.mark.parametrize("way", SPOILED)
def test_a_spoiled_token_is_one_and_the_same_401(
    provider: responses.RequestsMock, alices_identity: Identity, way: str
) -> None:
    response = ask(SPOILED[way]())
    assert (response.status_code, response.json()["message"]) == (401, NOT_VALID)
    assert len(provider.calls) <= 2


def test_without_a_provider_no_token_is_accepted(alices_identity: Identity) -> None:
    assert ask(token()).status_code == 401


def test_a_static_public_key_needs_no_url(settings: Settings, alices_identity: Identity) -> None:
    settings.TOKEN_ISSUER, settings.TOKEN_AUDIENCE, settings.TOKEN_PUBLIC_KEY = ISSUER, AUDIENCE, EC_PEM
    assert ask(token()).status_code == 200
    assert ask(token(OTHER_EC_KEY)).status_code == 401
    assert ask(signed_with_the_public_key()).status_code == 401


# --- The provider's keys ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("provider", "alices_identity")
def test_what_is_wrong_without_looking_at_the_signature_costs_no_fetch(provider: responses.RequestsMock) -> None:
    for way in ("alg none", "another issuer", "expired", "without sub", "100 kB", "three dots", "a kid of 100 kB"):
        ask(SPOILED[way]())
    assert len(provider.calls) == 0


def test_unknown_key_ids_cost_two_fetches_a_minute(provider: responses.RequestsMock) -> None:
    keys = ProviderKeys(JWKS_URL)
    for second in range(60):
        assert keys.find(f"made up {second}", now=1000.0 + second) is None
    assert len(provider.calls) == 2
    keys.find("made up", now=1061.0)
    assert len(provider.calls) == 3


def test_a_new_key_of_the_provider_is_found(provider: responses.RequestsMock) -> None:
    keys = ProviderKeys(JWKS_URL)
    assert keys.find("ec", now=0.0) is not None
    provider.replace("GET", JWKS_URL, json={"keys": [jwk(OTHER_EC_KEY, "ES256", "new")]})
    assert keys.find("new", now=10.0) is not None
    assert keys.find("ec", now=11.0) is None, "and a withdrawn one is not"


@pytest.mark.parametrize(
    "body", [requests.ConnectTimeout(), requests.ConnectionError(), b"<html>", b'{"keys": 1}', b"["]
)
def test_with_the_provider_down_for_an_hour_known_keys_still_work(provider: responses.RequestsMock, body: Any) -> None:
    keys = ProviderKeys(JWKS_URL)
    keys.find("ec", now=0.0)
    provider.replace("GET", JWKS_URL, body=body)
    for minute in range(120):
        assert keys.find("ec", now=60.0 * minute) is not None


def test_after_a_failed_fetch_nothing_waits_for_the_next_one(provider: responses.RequestsMock) -> None:
    keys, released, fetched = ProviderKeys(JWKS_URL), threading.Event(), threading.Event()

    def hang(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        released.wait(10)
        fetched.set()
        return 200, {}, json.dumps(JWKS)

    provider.replace("GET", JWKS_URL, body=requests.ConnectTimeout())
    assert keys.find("ec", now=0.0) is None
    provider.remove("GET", JWKS_URL)
    provider.add_callback("GET", JWKS_URL, callback=hang)
    assert keys.find("ec", now=1.0) is None, "and that at once, while the fetch hangs"
    assert not fetched.is_set()
    released.set()
    assert fetched.wait(10)


def test_all_that_miss_a_key_wait_for_the_one_fetch(provider: responses.RequestsMock) -> None:
    keys, released, found = ProviderKeys(JWKS_URL), threading.Event(), []

    def slow(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        released.wait(10)
        return 200, {}, json.dumps(JWKS)

    provider.remove("GET", JWKS_URL)
    provider.add_callback("GET", JWKS_URL, callback=slow)
    threads = [threading.Thread(target=lambda: found.append(keys.find("ec", now=0.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    released.set()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert None not in found
    assert len(provider.calls) == 1


def test_a_redirect_of_the_provider_is_not_followed(provider: responses.RequestsMock) -> None:
    provider.replace("GET", JWKS_URL, status=302, headers={"location": "http://169.254.169.254/"})
    assert ProviderKeys(JWKS_URL).find("ec", now=0.0) is None


def test_a_symmetric_key_and_one_that_cannot_be_read_are_left_out() -> None:
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "use": "sig"}
    broken = {"kty": "EC", "crv": "P-256", "x": "?", "y": "?", "kid": "broken"}
    encrypting = {**jwk(RSA_KEY, "RS256", "enc"), "use": "enc"}
    assert set(usable_keys({"keys": [symmetric, broken, encrypting, "x", *JWKS["keys"]]})) == {"ec", "rsa", "ed"}
