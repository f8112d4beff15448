"""Ids, timestamps and the values of callers as text; and digests, none of which protects a secret."""

import hashlib
import re
from datetime import UTC, datetime
from uuid import UUID


def fingerprint(secret: str) -> str:
    """12 hex digits that tell secrets apart without revealing them, for the names of cache entries."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def digest_of(*parts: str) -> str:
    """64 hex digits for these texts in this order."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def etag_of(content: bytes) -> str:
    """A weak ETag."""
    return f'W/"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'


UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
MAX_QUOTED = 60


def parse_uuid(value: object) -> UUID | None:
    """None unless it is 8-4-4-4-12 hex digits. Python's UUID() also accepts braces, `urn:` and more."""
    return UUID(value) if isinstance(value, str) and UUID_PATTERN.fullmatch(value) else None


def format_timestamp(at: datetime) -> str:
    """UTC, milliseconds and `Z`, as Trigger.dev and our API write timestamps."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> datetime:
    """An aware datetime in UTC. Raises ValueError for anything else, also for a timestamp without a time zone."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text} is out of range") from error


def quoted(value: str) -> str:
    """A caller's value for an error message: quoted, and cut after 60 characters."""
    return repr(value if len(value) <= MAX_QUOTED else value[:MAX_QUOTED] + "…")
