import threading
from collections.abc import Iterator

import pytest
import responses
from pytest_django import Settings

from accounts.credentials import tokens
from tests.provider import AUDIENCE, ISSUER, JWKS, JWKS_URL


@pytest.fixture
def provider(settings: Settings) -> Iterator[responses.RequestsMock]:
    settings.TOKEN_ISSUER, settings.TOKEN_AUDIENCE, settings.TOKEN_JWKS_URL = ISSUER, AUDIENCE, JWKS_URL
    settings.TOKEN_PUBLIC_KEY = ""
    tokens.provider_keys.cache_clear()
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(JWKS_URL, json=JWKS)
        yield mock
        # A background fetch that is still running would count as a call of the next test.
        for thread in threading.enumerate():
            if thread.name == "jwks":
                thread.join(10)
