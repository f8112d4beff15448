"""Bearer tokens, and the JWKS of their provider. Every invalid token gets the same 401."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses
from pytest_django import Settings

from accounts.api.authentication import NOT_VALID
from accounts.credentials.jwks import ProviderKeys, usable_keys
from accounts.models import Identity
from tests.cast import Cast
from tests.client import ContractClient
from tests.provider import (
    AUDIENCE,
    EC_KEY,
    EC_PEM,
    ED_KEY,
    ISSUER,
    JWKS,
    JWKS_URL,
    OTHER_EC_KEY,
    RSA_KEY,
    SUBJECT,
    claims,
    jwk,
    token,
)


def base64url(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def alices_identity(cast: Cast) -> Identity:
    return Identity.objects.create(account=cast.alice, issuer=ISSUER, subject=SUBJECT)


def get_tasks(bearer: str) -> Any:
    client = ContractClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {bearer}")
    return client.get("/api/tasks")


@pytest.mark.usefixtures("provider", "alices_identity")
@pytest.mark.parametrize(
    ("key", "algorithm", "key_id"), [(EC_KEY, "ES256", "ec"), (RSA_KEY, "RS256", "rsa"), (ED_KEY, "EdDSA", "ed")]
)
def test_a_bearer_token_of_the_provider_authenticates_alice(key: Any, algorithm: str, key_id: str) -> None:
    assert get_tasks(token(key, algorithm, key_id)).status_code == 200


@pytest.mark.usefixtures("provider")
def test_the_same_subject_of_another_issuer_is_somebody_else(cast: Cast) -> None:
    Identity.objects.create(account=cast.alice, issuer="https://other.example", subject=SUBJECT)
    assert get_tasks(token()).status_code == 401


@pytest.mark.usefixtures("provider", "alices_identity")
@pytest.mark.parametrize("subject", ["\ud800", "a\x00b", SUBJECT + "\udfff"], ids=["high", "NUL", "low"])
def test_a_subject_that_no_database_can_hold_is_nobody(subject: str) -> None:
    assert get_tasks(token(sub=subject)).status_code == 401


@pytest.mark.usefixtures("provider", "alices_identity")
def test_a_clock_difference_of_half_a_minute_is_tolerated() -> None:
    now = int(time.time())
    assert get_tasks(token(exp=now - 20)).status_code == 200
    assert get_tasks(token(nbf=now + 20)).status_code == 200
    assert get_tasks(token(exp=now - 40)).status_code == 401


def unsigned() -> str:
    return f"{base64url({'alg': 'none', 'typ': 'JWT'})}.{base64url(claims())}."


def signed_with_the_public_key() -> str:
    signed_part = f"{base64url({'alg': 'HS256', 'kid': 'ec'})}.{base64url(claims())}"
    return f"{signed_part}.{base64url(hmac.new(EC_PEM.encode(), signed_part.encode(), hashlib.sha256).digest())}"


def tampered() -> str:
    header, _, signature = token().split(".")
    return f"{header}.{base64url(claims(sub='did:provider:somebody-else'))}.{signature}"


INVALID_TOKENS: dict[str, Callable[[], str]] = {
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
    "an unknown sub": lambda: token(sub="did:provider:nobody"),
    "a sub that is a number": lambda: f"{token().split('.')[0]}.{base64url(claims(sub=7))}.AAAA",
    "an expiry that is not a number": lambda: f"{token().split('.')[0]}.{base64url(claims(exp='soon'))}.AAAA",
    "an infinite expiry": lambda: (
        f"{token().split('.')[0]}.{base64url(json.dumps(claims(exp=9)).replace('9}', '1e999}').encode())}.AAAA"
    ),
    "a kid that is a path": lambda: token(key_id="../../keys/private.pem"),
    "a kid of 100 kB": lambda: token(key_id="x" * 100_000),
    "a kid that is not a string": lambda: f"{base64url({'alg': 'ES256', 'kid': ['ec']})}.{base64url(claims())}.AAAA",
    "no kid among several keys": lambda: token(key_id=None),
    "100 kB": lambda: token(extra="x" * 100_000),
    "three dots": lambda: "...",
    "two dots": lambda: "..",
    "not JSON": lambda: f"{base64url(b'x')}.{base64url(b'x')}.{base64url(b'x')}",
    "a header that is a list": lambda: f"{base64url([])}.{base64url(claims())}.AAAA",
    "a deeply nested header": lambda: f"{base64url(b'[' * 9000)}.{base64url(b'{}')}.AAAA",
    "critical extensions": lambda: (
        f"{base64url({'alg': 'ES256', 'kid': 'ec', 'crit': ['x']})}.{base64url(claims())}.AAAA"
    ),
}


@pytest.mark.parametrize("defect", INVALID_TOKENS)
def test_every_invalid_bearer_token_gets_the_same_401(
    provider: responses.RequestsMock, alices_identity: Identity, defect: str
) -> None:
    response = get_tasks(INVALID_TOKENS[defect]())
    assert (response.status_code, response.json()["message"]) == (401, NOT_VALID)
    assert len(provider.calls) <= 2


def test_without_a_provider_no_bearer_token_is_accepted(alices_identity: Identity) -> None:
    assert get_tasks(token()).status_code == 401


def test_a_static_public_key_needs_no_jwks_url(settings: Settings, alices_identity: Identity) -> None:
    settings.TOKEN_ISSUER, settings.TOKEN_AUDIENCE, settings.TOKEN_PUBLIC_KEY = ISSUER, AUDIENCE, EC_PEM
    assert get_tasks(token()).status_code == 200
    assert get_tasks(token(OTHER_EC_KEY)).status_code == 401
    assert get_tasks(signed_with_the_public_key()).status_code == 401


# --- The provider's keys ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("provider", "alices_identity")
def test_a_token_that_is_invalid_before_its_signature_causes_no_jwks_fetch(provider: responses.RequestsMock) -> None:
    for defect in ("alg none", "another issuer", "expired", "without sub", "100 kB", "three dots", "a kid of 100 kB"):
        get_tasks(INVALID_TOKENS[defect]())
    assert len(provider.calls) == 0


def test_unknown_key_ids_cause_at_most_two_jwks_fetches_per_minute(provider: responses.RequestsMock) -> None:
    keys = ProviderKeys(JWKS_URL)
    for second in range(60):
        assert keys.find(f"unknown {second}", now=1000.0 + second) is None
    assert len(provider.calls) == 2
    keys.find("unknown", now=1061.0)
    assert len(provider.calls) == 3


def test_a_rotated_jwks_key_is_found(provider: responses.RequestsMock) -> None:
    keys = ProviderKeys(JWKS_URL)
    assert keys.find("ec", now=0.0) is not None
    provider.replace("GET", JWKS_URL, json={"keys": [jwk(OTHER_EC_KEY, "ES256", "new")]})
    assert keys.find("new", now=10.0) is not None
    assert keys.find("ec", now=11.0) is None, "a withdrawn key is no longer accepted"


@pytest.mark.parametrize(
    "body", [requests.ConnectTimeout(), requests.ConnectionError(), b"<html>", b'{"keys": 1}', b"["]
)
def test_cached_jwks_keys_work_while_the_provider_is_down_for_two_hours(
    provider: responses.RequestsMock, body: Any
) -> None:
    keys = ProviderKeys(JWKS_URL)
    keys.find("ec", now=0.0)
    provider.replace("GET", JWKS_URL, body=body)
    for minute in range(120):
        assert keys.find("ec", now=60.0 * minute) is not None


def test_after_a_failed_jwks_fetch_requests_do_not_wait_for_the_next_one(provider: responses.RequestsMock) -> None:
    keys, is_released, is_fetched = ProviderKeys(JWKS_URL), threading.Event(), threading.Event()

    def answer_after_release(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        is_released.wait(10)
        is_fetched.set()
        return 200, {}, json.dumps(JWKS)

    provider.replace("GET", JWKS_URL, body=requests.ConnectTimeout())
    assert keys.find("ec", now=0.0) is None
    provider.remove("GET", JWKS_URL)
    provider.add_callback("GET", JWKS_URL, callback=answer_after_release)
    assert keys.find("ec", now=1.0) is None, "it returns at once, while the fetch still hangs"
    assert not is_fetched.is_set()
    is_released.set()
    assert is_fetched.wait(10)


def test_concurrent_requests_with_an_unknown_key_share_one_jwks_fetch(provider: responses.RequestsMock) -> None:
    keys, is_released, found = ProviderKeys(JWKS_URL), threading.Event(), []

    def answer_after_release(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        is_released.wait(10)
        return 200, {}, json.dumps(JWKS)

    provider.remove("GET", JWKS_URL)
    provider.add_callback("GET", JWKS_URL, callback=answer_after_release)
    threads = [threading.Thread(target=lambda: found.append(keys.find("ec", now=0.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    is_released.set()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert None not in found
    assert len(provider.calls) == 1


def test_a_redirect_of_the_jwks_url_is_not_followed(provider: responses.RequestsMock) -> None:
    provider.replace("GET", JWKS_URL, status=302, headers={"location": "http://169.254.169.254/"})
    assert ProviderKeys(JWKS_URL).find("ec", now=0.0) is None


def test_symmetric_malformed_and_encryption_keys_in_the_jwks_are_ignored() -> None:
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "use": "sig"}
    broken = {"kty": "EC", "crv": "P-256", "x": "?", "y": "?", "kid": "broken"}
    encrypting = {**jwk(RSA_KEY, "RS256", "enc"), "use": "enc"}
    assert set(usable_keys({"keys": [symmetric, broken, encrypting, "x", *JWKS["keys"]]})) == {"ec", "rsa", "ed"}
