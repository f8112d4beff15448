"""Moments in text, as Trigger.dev and our API write them: UTC, three digits of a second and `Z`."""

from datetime import UTC, datetime


def as_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Aware; raises ValueError for a text that is no moment, or one without a zone."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text} is no moment of the calendar") from error
