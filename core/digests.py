"""Digests that name things: cache entries, repeated requests, response bodies. None of them protects a secret."""

import hashlib


def fingerprint(secret: str) -> str:
    """12 hex digits that tell secrets apart without revealing them, for the names of cache entries."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def digest_of(*parts: str) -> str:
    """64 hex digits for these texts in this order."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def etag_of(content: bytes) -> str:
    """A weak ETag."""
    return f'W/"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
