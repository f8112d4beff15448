"""Tasks in the admin site. A list asks Trigger.dev nothing: what is shown is what the row says."""

from typing import Any

from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from tasks import cron
from tasks.enrichment import next_times
from tasks.models import SyncStatus, Task


class SyncStatusFilter(admin.SimpleListFilter):
    title = "sync status"
    parameter_name = "sync"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.label) for status in SyncStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        refused = Q(refused_generation=F("generation"))
        in_sync = Q(synced_generation=F("generation"), unsettled_until__isnull=True) & ~refused
        chosen = {
            SyncStatus.REFUSED.value: queryset.filter(refused),
            SyncStatus.IN_SYNC.value: queryset.filter(in_sync),
            SyncStatus.PENDING.value: queryset.exclude(refused).exclude(in_sync),
        }
        return chosen.get(self.value() or "", queryset)


@admin.register(Task)
class TaskAdmin(admin.ModelAdmin):
    list_display = ("title", "account", "artist_account", "in_words", "is_running", "sync", "next_time")
    list_filter = (SyncStatusFilter, "enabled", ("deleted_at", admin.EmptyFieldListFilter), "timezone")
    search_fields = ("title", "id", "account__name", "artist_account__name", "trigger_schedule_id")
    list_select_related = ("account", "artist_account")
    date_hierarchy = "created_at"
    fieldsets = (
        (None, {"fields": ("id", "title", "prompt", "model", "account", "artist_account")}),
        ("When it runs", {"fields": ("schedule", "in_words", "timezone", "enabled", "next_time")}),
        (
            "At Trigger.dev",
            {
                "fields": (
                    "trigger_schedule_id",
                    "sync",
                    "sync_error",
                    "generation",
                    "synced_generation",
                    "unsettled_until",
                )
            },
        ),
        ("History", {"fields": ("created_at", "updated_at", "schedule_changed_at", "deleted_at")}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return False

    @admin.display(description="In words", ordering="schedule")
    def in_words(self, task: Task) -> str:
        try:
            return f"{cron.in_words(task.schedule)} ({task.timezone})"
        except cron.CronError:
            return f"{task.schedule} (never)"

    @admin.display(description="Running", boolean=True, ordering="enabled")
    def is_running(self, task: Task) -> bool:
        return task.is_enabled and task.deleted_at is None

    @admin.display(description="Sync")
    def sync(self, task: Task) -> str:
        return task.sync_status.label

    @admin.display(description="Next (UTC)")
    def next_time(self, task: Task) -> str:
        times = next_times(task, now=timezone.now()) if task.deleted_at is None else []
        return times[0].strftime("%a %d %b %H:%M") if times else "-"
