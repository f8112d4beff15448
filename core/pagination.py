"""Pagination by keyset: a cursor names the last row that was shown, and the next page starts after it.

Rows that are created or deleted meanwhile never make another row appear twice or be left out. REST framework's
CursorPagination does not promise that: it skips rows that share a timestamp.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.pagination import BasePagination
from rest_framework.request import Request

from core.text import parse_uuid, quoted

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MICROSECONDS = re.compile(r"-?[0-9]{1,18}", re.ASCII)
MAX_CURSOR = 160


class Position(NamedTuple):
    created_at: datetime
    id: UUID | str


class KeysetPagination(BasePagination):
    """Newest first, by time and id. Reads the validated `limit` and `cursor` of the view's query."""

    # Columns of the rows; the queryset is ordered by both, descending.
    time_field, id_field = "created_at", "pk"

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """One page; without a limit all that follows. `next_cursor` is None on the last page."""
        self.limit: int | None = view.query.get("limit")
        self.next_cursor: str | None = None
        found = list(self._slice(queryset, view.query.get("cursor")))
        if self.limit is not None and len(found) > self.limit:
            found = found[: self.limit]
            self.next_cursor = encode_cursor(getattr(found[-1], self.time_field), getattr(found[-1], self.id_field))
        return found

    def _slice(self, queryset: QuerySet[Any], after: Position | None) -> QuerySet[Any]:
        if after is not None:
            same_time = Q(**{self.time_field: after.created_at, f"{self.id_field}__gte": after.id})
            # `<=` and an exclusion: both databases find the start of the page in the index.
            queryset = queryset.filter(**{f"{self.time_field}__lte": after.created_at}).exclude(same_time)
        return queryset if self.limit is None else queryset[: self.limit + 1]

    def page_fields(self) -> dict[str, str | None]:
        """What a page adds to the response."""
        return {} if self.limit is None else {"next_cursor": self.next_cursor}


@extend_schema_field({"type": "string", "minLength": 1})
class CursorField(serializers.Field[Position, str, str, Any]):
    """`parse_id` returns None for a text that is no id of the rows."""

    def __init__(self, *, parse_id: Callable[[str], UUID | str | None] = parse_uuid, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parse_id = parse_id

    def to_internal_value(self, data: str) -> Position:
        try:
            return decode_cursor(data, self.parse_id)
        except ValueError:
            problem = f"must be the next_cursor of an earlier answer, not {quoted(data)}."
            raise serializers.ValidationError(problem) from None


def decode_cursor(text: str, parse_id: Callable[[str], UUID | str | None] = parse_uuid) -> Position:
    """Raises ValueError for a text that `encode_cursor` did not make."""
    decoded = urlsafe_b64decode(text[:MAX_CURSOR] + "=" * (-len(text) % 4)).decode("ascii")
    microseconds, _, id_text = decoded.partition(".")
    found = parse_id(id_text)
    if not MICROSECONDS.fullmatch(microseconds) or found is None:
        raise ValueError(f"{text} is not a cursor")
    try:
        created_at = EPOCH + int(microseconds) * MICROSECOND
    except OverflowError as error:
        raise ValueError(f"{text} is out of range") from error
    if encode_cursor(created_at, found) != text:
        raise ValueError(f"{text} is not a cursor")
    return Position(created_at, found)


def encode_cursor(created_at: datetime, row_id: UUID | str) -> str:
    microseconds = (created_at - EPOCH) // MICROSECOND
    return urlsafe_b64encode(f"{microseconds}.{row_id}".encode()).decode().rstrip("=")
