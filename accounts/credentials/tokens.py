"""Bearer tokens of an OpenID-style provider: JWT -> the user that it is for.

Everything that needs no key is checked first, so an invalid token never causes a fetch of keys.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import jwt
from django.conf import settings
from django.core.signals import setting_changed

from accounts.credentials.jwks import ProviderKeys

MAX_TOKEN = 16 * 1024
MAX_KEY_ID = 256
LEEWAY_IN_SECONDS = 30
CLAIMS = ["exp", "iss", "aud", "sub"]
# What parsers raise on malicious input.
INVALID = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


@cache
def provider_keys() -> ProviderKeys:
    return ProviderKeys(settings.TOKEN_JWKS_URL)


@dataclass(frozen=True)
class TokenUser:
    """`email`: only where the token says that it is verified; else empty."""

    issuer: str
    subject: str
    email: str = ""


def user_of(token: str) -> TokenUser | None:
    """The user of a valid token; None for anything else."""
    if not settings.TOKEN_ISSUER or len(token) > MAX_TOKEN:
        return None
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in settings.TOKEN_ALGORITHMS:
            return None
        decode(token, None)
        key = key_for(header)
        claims = decode(token, key) if key else {}
    except INVALID:
        return None
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not subject:
        return None
    return TokenUser(issuer, subject, verified_email(claims))


def verified_email(claims: Mapping[str, Any]) -> str:
    """Empty without one. Some providers write the boolean as a string."""
    email, verified = claims.get("email"), claims.get("email_verified")
    return email if (verified is True or verified == "true") and isinstance(email, str) else ""


def key_for(header: dict[str, Any]) -> Any:
    if settings.TOKEN_PUBLIC_KEY:
        return settings.TOKEN_PUBLIC_KEY
    key_id = header.get("kid")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID):
        return None
    return provider_keys().find(key_id, now=time.monotonic()) if settings.TOKEN_JWKS_URL else None


def decode(token: str, key: Any) -> dict[str, Any]:
    """The claims. Without a key everything but the signature is verified."""
    claims: dict[str, Any] = jwt.decode(
        token,
        key or "",
        algorithms=settings.TOKEN_ALGORITHMS,
        issuer=settings.TOKEN_ISSUER,
        audience=settings.TOKEN_AUDIENCE,
        leeway=LEEWAY_IN_SECONDS,
        options=cast(Any, {"require": CLAIMS, "verify_signature": key is not None, **VERIFIED}),
    )
    return claims


# PyJWT turns these checks off together with the signature.
VERIFIED = {f"verify_{claim}": True for claim in ("exp", "nbf", "iat", "aud", "iss", "sub")}


def _forget_keys(*, setting: str, **kwargs: object) -> None:
    if setting.startswith("TOKEN_"):
        provider_keys.cache_clear()


setting_changed.connect(_forget_keys)
