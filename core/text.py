"""Ids, timestamps and the values of callers as text; and digests, none of which protects a secret."""

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email


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
MAX_QUOTED, MAX_EMAIL = 60, 254


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
    return repr(cut(value))


def cut(value: str) -> str:
    return value if len(value) <= MAX_QUOTED else value[:MAX_QUOTED] + "…"


def is_email(text: str) -> bool:
    """Whether it is an address that a column for e-mails holds."""
    try:
        validate_email(text)
    except ValidationError:
        return False
    return len(text) <= MAX_EMAIL


# Letters and signs without a shape: fillers of Hangul, an empty Braille pattern, and marks that join or vary others.
SHAPELESS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5" + "".join(map(chr, range(0xFE00, 0xFE10))))
INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"))
LINE_BREAKS_AND_TABS = frozenset("\t\n\r")


def is_blank(text: str) -> bool:
    """Whether nothing of it can be seen: white space, control and format characters such as a zero-width space."""
    return all(unicodedata.category(character) in INVISIBLE or character in SHAPELESS for character in text)


def has_control_characters(text: str) -> bool:
    """Others than line breaks and tabs."""
    return any(unicodedata.category(character) == "Cc" and character not in LINE_BREAKS_AND_TABS for character in text)


def is_storable(text: str) -> bool:
    """Whether any database can hold it: JSON may contain NUL, and half of a surrogate pair."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
