"""An id in text is 8-4-4-4-12 hex digits and nothing else; Python's UUID() takes braces, `urn:` and more."""

import re
from uuid import UUID

UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def as_uuid(value: object) -> UUID | None:
    return UUID(value) if isinstance(value, str) and UUID_FORM.fullmatch(value) else None
