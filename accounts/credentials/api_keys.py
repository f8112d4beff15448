"""API keys: how one is created, and how it is stored.

A key is shown once, when it is created. Only hex HMAC-SHA256(server secret, key) is stored, so the digests of an
existing service can be imported and its keys keep working.
"""

import hashlib
import hmac
import secrets

PREFIX = "recoup_sk_"
DEMO_PREFIX = PREFIX + "demo_"
SHOWN_CHARACTERS = len(PREFIX) + 6


def create() -> str:
    """A new key: the prefix and 43 URL-safe characters, 256 random bits."""
    while True:
        key = PREFIX + secrets.token_urlsafe(32)
        if not is_demo(key):
            return key


def digest(key: str, *, secret: str) -> str:
    """64 hex digits. Any string is accepted, whatever bytes the header had."""
    return hmac.new(secret.encode(), key.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def prefix_of(key: str) -> str:
    """The beginning of a key, by which people tell their keys apart."""
    return key[:SHOWN_CHARACTERS]


def is_api_key(token: str) -> bool:
    return token.startswith(PREFIX)


def is_demo(key: str) -> bool:
    """Demo keys are public, so they only work with a Trigger.dev on this machine."""
    return key.startswith(DEMO_PREFIX)


def demo_key(name: str) -> str:
    """The fixed key of a person of the demo, in the form of a real key."""
    return (DEMO_PREFIX + name + "_").ljust(len(PREFIX) + 43, "0")
