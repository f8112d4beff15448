"""Asking the token provider over HTTP: one try, with timeouts and a maximum size."""

import json
import time
from typing import Any

import requests
import urllib3

# Seconds to connect, and between two parts of the answer.
TIMEOUT = (1.0, 2.0)
# For the whole exchange: a server may send a byte now and then.
MAX_SECONDS = sum(TIMEOUT)
MAX_BODY = 1024 * 1024
FETCH_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, RecursionError)


def fetch_json(url: str, *, token: str = "") -> Any:
    """Raises one of FETCH_ERRORS. Redirects are not followed: the token must not go elsewhere."""
    until = time.monotonic() + MAX_SECONDS
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with requests.get(url, headers=headers, timeout=TIMEOUT, stream=True, allow_redirects=False) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        return json.loads(read_all(response.raw, until=until))


def read_all(raw: Any, *, until: float) -> bytes:
    body = b""
    while piece := raw.read1(MAX_BODY, decode_content=True):
        body += piece
        if len(body) > MAX_BODY or time.monotonic() > until:
            raise ValueError("the answer is too long or too slow")
    return body
