"""API keys: how one is made, and the only form in which it is kept.

A key is shown once, when it is made. What is stored is hex HMAC-SHA256(server secret, key) and nothing else, so that
the digests of an existing service can be imported and its keys go on working.
"""

import hashlib
import hmac
import secrets

PREFIX = "recoup_sk_"
DEMO_PREFIX = PREFIX + "demo_"
SHOWN_CHARACTERS = len(PREFIX) + 6


def make() -> str:
    """A new key: the prefix and 43 url-safe characters, 256 random bits."""
    while True:
        key = PREFIX + secrets.token_urlsafe(32)
        if not is_demo(key):
            return key


def digest(key: str, *, secret: str) -> str:
    """64 hex digits. Any string is accepted as a key, whatever bytes a header carried."""
    return hmac.new(secret.encode(), key.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def shown(key: str) -> str:
    """The beginning of a key, by which people tell theirs apart."""
    return key[:SHOWN_CHARACTERS]


def is_one_of_ours(token: str) -> bool:
    return token.startswith(PREFIX)


def is_demo(key: str) -> bool:
    """Demo keys are printed in public, so they must only work beside a local Trigger.dev."""
    return key.startswith(DEMO_PREFIX)


def demo(name: str) -> str:
    """The fixed key of one person of the demo, in the form of a real one."""
    return (DEMO_PREFIX + name + "_").ljust(len(PREFIX) + 43, "0")
