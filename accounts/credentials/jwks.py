"""A provider's public keys: fetched from its JWKS URL, cached, and still used while the provider is down.

A request waits for a fetch only when its key is missing and the last fetch succeeded. PyJWT's PyJWKClient was looked
at: it fetches in the request, for each unknown key id.
"""

import logging
import threading
from typing import Any

import jwt

from accounts.credentials.fetching import FETCH_ERRORS, MAX_SECONDS, fetch_json

REFRESH_INTERVAL = 3600.0
# At most two fetches per window, whatever key ids callers invent.
WINDOW, FETCHES_PER_WINDOW = 60.0, 2

logger = logging.getLogger(__name__)


class ProviderKeys:
    """The keys of one provider, for all threads of the process. `now` is in seconds of `time.monotonic()`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._asked_at: list[float] = []
        self._fetching: threading.Thread | None = None
        self._last_fetch_succeeded = True

    def find(self, key_id: str | None, *, now: float) -> jwt.PyJWK | None:
        """The key with this id; without an id the only key there is; else None."""
        found = self._known(key_id)
        if found is None:
            waits, fetching = self._last_fetch_succeeded, None
            with self._lock:
                # Another thread may have fetched it meanwhile.
                if self._known(key_id) is None:
                    fetching = self._current_fetch(now)
            if waits and fetching:
                fetching.join(MAX_SECONDS)
            return self._known(key_id)
        if self._fetched_at is None or now - self._fetched_at > REFRESH_INTERVAL:
            with self._lock:
                self._current_fetch(now)
        return found

    def _known(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _current_fetch(self, now: float) -> threading.Thread | None:
        return self._fetching if self._fetching and self._fetching.is_alive() else self._start(now)

    def _start(self, now: float) -> threading.Thread | None:
        """One fetch at a time, for all requests that miss a key. Only a new one counts against the limit."""
        self._asked_at = [at for at in self._asked_at if now - at < WINDOW]
        if len(self._asked_at) >= FETCHES_PER_WINDOW:
            return None
        self._asked_at.append(now)
        self._fetching = threading.Thread(target=self._fetch, args=(now,), name="jwks", daemon=True)
        self._fetching.start()
        return self._fetching

    def _fetch(self, now: float) -> None:
        try:
            keys = usable_keys(fetch_json(self._url))
        except FETCH_ERRORS as error:
            self._last_fetch_succeeded = False
            logger.warning("The keys of the token provider could not be fetched: %s", type(error).__name__)
            return
        # Under the lock: a request that finds no key must then find the fetch, or its result.
        with self._lock:
            self._last_fetch_succeeded = True
            self._fetched_at = now
            if keys:
                self._keys = keys


def usable_keys(document: Any) -> dict[str | None, jwt.PyJWK]:
    """The asymmetric signing keys of a JWKS document by key id, without unreadable ones."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("no keys")
    found: dict[str | None, jwt.PyJWK] = {}
    for entry in document["keys"]:
        if isinstance(entry, dict) and entry.get("kty") in ("RSA", "EC", "OKP") and entry.get("use", "sig") == "sig":
            try:
                found[entry.get("kid")] = jwt.PyJWK(entry)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                logger.warning("A key of the token provider cannot be read: %s", type(error).__name__)
    return found
