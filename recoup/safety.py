"""Settings that would be unsafe, each with what to set. The service and its commands do not start with one of them.

A Trigger.dev on this machine and no public name mean development: then nothing is secret.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from recoup import settings as ours

ALGORITHMS = frozenset(("ES256", "RS256", "EdDSA"))
MAKE_ONE = 'Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(50))"'
MIN_SECRET = 20  # characters
ADDRESSES = ("TRIGGER_API_URL", "TOKEN_JWKS_URL", "TOKEN_USERINFO_URL")


class Problem(NamedTuple):
    id: str
    what: str
    to_do: str


def problems(settings: Any = ours) -> list[Problem]:
    """All of them."""
    return [Problem(f"recoup.E{number:03}", what, to_do) for number, what, to_do in found_in(settings)]


def found_in(settings: Any) -> Iterator[tuple[int, str, str]]:
    for name in ADDRESSES:
        address = urlsplit(getattr(settings, name))
        if address.geturl() and not (address.scheme in ("http", "https") and address.hostname):
            yield 1, f"{name} is no address: {address.geturl()}.", f"Set {name} to an address such as https://host."
        elif address.scheme == "http" and address.hostname not in ours.LOCAL_HOSTS:
            yield 2, f"{name} sends secrets without encryption to {address.hostname}.", f"Set {name} to https://."
    is_remote = urlsplit(settings.TRIGGER_API_URL).hostname not in ours.LOCAL_HOSTS
    if is_remote and (
        settings.TRIGGER_SECRET_KEY in ("", ours.STANDIN_SECRET_KEY) or is_example(settings.TRIGGER_SECRET_KEY)
    ):
        yield 3, "TRIGGER_SECRET_KEY is not set.", "Set it to the secret key of your Trigger.dev environment."
    if not settings.IS_DEVELOPMENT:
        yield from unsafe_secrets(settings)
    if "*" in settings.ALLOWED_HOSTS:
        yield 7, "ALLOWED_HOSTS is *: any name is taken for ours.", "Set it to the host names of this service."
    yield from unusable_tokens(settings)


def unsafe_secrets(settings: Any) -> Iterator[tuple[int, str, str]]:
    why = f"with Trigger.dev at {urlsplit(settings.TRIGGER_API_URL).hostname} and the hosts {settings.ALLOWED_HOSTS}"
    if settings.SECRET_KEY == ours.DEVELOPMENT_SECRET:
        yield 4, f"SECRET_KEY is not set. The built-in one is public, and must not be used {why}.", MAKE_ONE
    if settings.API_KEY_SECRET in (settings.SECRET_KEY, ours.DEVELOPMENT_SECRET):
        to_do = f"{MAKE_ONE} Where keys were made with SECRET_KEY, add that to API_KEY_SECRET_FALLBACKS."
        yield 6, "API_KEY_SECRET is not set, or is SECRET_KEY: it needs a value of its own.", to_do
    for name in ("SECRET_KEY", "API_KEY_SECRET", "METRICS_TOKEN"):
        value = getattr(settings, name)
        if (len(value) < MIN_SECRET and (value or name != "METRICS_TOKEN")) or is_example(value):
            yield 5, f"{name} can be guessed: it has {len(value)} characters, or is an example.", MAKE_ONE
    for name in ("SECRET_KEY_FALLBACKS", "API_KEY_SECRET_FALLBACKS"):
        if any(value in ("", ours.DEVELOPMENT_SECRET) for value in getattr(settings, name)):
            yield 8, f"{name} has an empty value or the built-in secret.", "Remove it from the list."


def is_example(value: str) -> bool:
    """Of deploy/environment.example."""
    return value.endswith("...")


def unusable_tokens(settings: Any) -> Iterator[tuple[int, str, str]]:
    unknown = set(settings.TOKEN_ALGORITHMS) - ALGORITHMS
    if unknown:
        names = ", ".join(sorted(unknown))
        yield 9, f"TOKEN_ALGORITHMS has {names}.", f"It may have {', '.join(sorted(ALGORITHMS))}."
    has_key = settings.TOKEN_JWKS_URL or settings.TOKEN_PUBLIC_KEY
    if settings.TOKEN_ISSUER and not (settings.TOKEN_AUDIENCE and has_key):
        yield 10, "TOKEN_ISSUER is set alone.", "Set TOKEN_AUDIENCE, and TOKEN_JWKS_URL or TOKEN_PUBLIC_KEY."
    if settings.TOKEN_PUBLIC_KEY:
        try:
            load_pem_public_key(settings.TOKEN_PUBLIC_KEY.encode())
        except ValueError:
            yield 11, "TOKEN_PUBLIC_KEY is no public key as PEM.", "It begins with -----BEGIN PUBLIC KEY-----."


def refuse() -> None:
    """Ends the process with a line for each problem, and status 1."""
    lines = [f"{problem.what} {problem.to_do}" for problem in problems()]
    if lines:
        sys.exit("\n".join(["These settings are unsafe:", *lines]))
