"""Pagination by keyset: a cursor names the last row that was shown, and the next page starts after it.

Rows that are created or deleted meanwhile never make another row appear twice or be left out. REST framework's
CursorPagination does not promise that: it skips rows that share a timestamp.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.pagination import BasePagination
from rest_framework.request import Request

from core.text import parse_uuid, quoted

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MICROSECONDS = re.compile(r"-?[0-9]{1,18}", re.ASCII)
MAX_CURSOR = 100


class Position(NamedTuple):
    created_at: datetime
    id: UUID


class KeysetPagination(BasePagination):
    """Newest first, by `created_at` and `id`. Reads the validated `limit` and `cursor` of the view's query."""

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """One page; without a limit all that follows. `next_cursor` is None on the last page."""
        self.limit: int | None = view.query.get("limit")
        self.next_cursor: str | None = None
        found = list(self._slice(queryset, view.query.get("cursor")))
        if self.limit is not None and len(found) > self.limit:
            found = found[: self.limit]
            self.next_cursor = encode_cursor(found[-1].created_at, found[-1].pk)
        return found

    def _slice(self, queryset: QuerySet[Any], after: Position | None) -> QuerySet[Any]:
        if after is not None:
            same_time = Q(created_at=after.created_at, id__gte=after.id)
            # `<=` and an exclusion: both databases find the start of the page in the index.
            queryset = queryset.filter(created_at__lte=after.created_at).exclude(same_time)
        return queryset if self.limit is None else queryset[: self.limit + 1]

    def page_fields(self) -> dict[str, str | None]:
        """What a page adds to the response."""
        return {} if self.limit is None else {"next_cursor": self.next_cursor}


@extend_schema_field(OpenApiTypes.STR)
class CursorField(serializers.Field[Position, str, str, Any]):
    def to_internal_value(self, data: str) -> Position:
        try:
            return decode_cursor(data)
        except ValueError:
            problem = f"must be the next_cursor of an earlier answer, not {quoted(data)}."
            raise serializers.ValidationError(problem) from None


def decode_cursor(text: str) -> Position:
    """Raises ValueError for a text that `encode_cursor` did not make."""
    decoded = urlsafe_b64decode(text[:MAX_CURSOR] + "=" * (-len(text) % 4)).decode("ascii")
    microseconds, _, id_text = decoded.partition(".")
    found = parse_uuid(id_text)
    if not MICROSECONDS.fullmatch(microseconds) or found is None:
        raise ValueError(f"{text} is not a cursor")
    try:
        created_at = EPOCH + int(microseconds) * MICROSECOND
    except OverflowError as error:
        raise ValueError(f"{text} is out of range") from error
    if encode_cursor(created_at, found) != text:
        raise ValueError(f"{text} is not a cursor")
    return Position(created_at, found)


def encode_cursor(created_at: datetime, row_id: UUID) -> str:
    microseconds = (created_at - EPOCH) // MICROSECOND
    return urlsafe_b64encode(f"{microseconds}.{row_id}".encode()).decode().rstrip("=")
