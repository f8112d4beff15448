"""Digests that name things: cache entries, repeated requests, answers. None of them protects a secret."""

import hashlib


def fingerprint(secret: str) -> str:
    """12 hex digits that tell secrets apart without giving them away; for names of cache entries."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def etag_of(content: bytes) -> str:
    """A weak entity tag: what has the same one says the same."""
    return f'W/"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'


def digest_of(*parts: str) -> str:
    """64 hex digits that stand for these texts in this order; for what has no secret to be digested with."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
