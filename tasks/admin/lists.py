"""The list of tasks: its filters, and a count that stays cheap at a million rows."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property

from tasks.models import MissedRun, SyncStatus, Task
from tasks.runs.copies import FAILED

# Of a list. More are there all the same, page by page.
MAX_COUNTED = 10_000
MISSED_DAYS = 30


class BoundedPaginator(Paginator):
    """Counts no further than to MAX_COUNTED."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by().values("pk")[: MAX_COUNTED + 1].count())


class Choices(admin.SimpleListFilter):
    choices_by_name: dict[str, tuple[str, Q]] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, label) for name, (label, _) in self.choices_by_name.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        chosen = self.choices_by_name.get(self.value() or "")
        return queryset.filter(chosen[1]) if chosen else queryset


REFUSED = Q(refused_generation=F("generation"))


class SyncStatusFilter(Choices):
    title, parameter_name = "sync status", "sync"
    choices_by_name = {
        SyncStatus.REFUSED.value: (SyncStatus.REFUSED.label, REFUSED),
        SyncStatus.IN_SYNC.value: (SyncStatus.IN_SYNC.label, Q(is_settled=True) & ~REFUSED),
        SyncStatus.PENDING.value: (SyncStatus.PENDING.label, Q(is_settled=False) & ~REFUSED),
    }


class ResultFilter(Choices):
    title, parameter_name = "last run", "last"
    choices_by_name = {
        "failed": ("failed", Q(last_run_status__in=FAILED)),
        "missed": (f"missed in the last {MISSED_DAYS} days", Q()),
        "never": ("never ran", Q(last_run_status="")),
    }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        if self.value() == "missed":
            return queryset.filter(pk__in=missing_tasks())
        return super().queryset(request, queryset)


def missing_tasks() -> Any:
    since = timezone.now() - timedelta(days=MISSED_DAYS)
    return MissedRun.objects.filter(expected_at__gte=since).order_by().values("task")


class EnabledFilter(Choices):
    """Null counts as running."""

    title, parameter_name = "state", "state"
    choices_by_name = {"paused": ("paused", Q(enabled=False)), "running": ("running", ~Q(enabled=False))}


class ExistenceFilter(admin.SimpleListFilter):
    """Living tasks by default."""

    title, parameter_name = "deleted", "deleted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "deleted"), ("all", "all")]

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            yield {**choice, "display": "living"} if choice["display"] == "All" else choice

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        if self.value() == "all":
            return queryset
        return queryset.filter(deleted_at__isnull=self.value() != "yes")
