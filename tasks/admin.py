"""The admin site of tasks. Every write goes through `tasks.writes`, as in the API.

A list never calls Trigger.dev: it shows what the rows say.
"""

from contextlib import suppress
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.core.validators import MaxLengthValidator
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe

from tasks import cron, writes
from tasks.api.serializers import MAX_PROMPT, MAX_TITLE
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.gateway.environment import NotOurEnvironment
from tasks.models import SyncStatus, Task
from tasks.runs import run_now
from tasks.runs.reading import upcoming_times
from tasks.schedules import settling
from tasks.trigger.errors import TriggerError

MAX_RUN_REQUESTS = 10


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


class TaskForm(forms.ModelForm):
    """Validates a schedule and a time zone like the API.

    It also writes: a refusal of Trigger.dev is then an error of the form, and nothing that was typed is lost.
    """

    def clean(self) -> dict[str, Any]:
        values = dict(super().clean() or self.cleaned_data)
        if not self.errors:
            try:
                self.write(values)
            except writes.TaskGone:
                raise forms.ValidationError("This task was deleted meanwhile.") from None
            except writes.ScheduleRefused as refusal:
                raise forms.ValidationError(f"Trigger.dev refuses the schedule. {refusal}") from None
        return values

    def write(self, values: dict[str, Any]) -> None:
        if self.instance._state.adding:
            writes.create_task({"id": self.instance.pk, **values}, at=timezone.now())
        else:
            writes.update_task(self.instance, {name: values[name] for name in self.changed_data}, at=timezone.now())

    class Meta:
        widgets = {"title": AdminTextInputWidget}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, maximum in (("title", MAX_TITLE), ("prompt", MAX_PROMPT)):
            if name in self.fields:
                self.fields[name].validators.append(MaxLengthValidator(maximum))

    def clean_schedule(self) -> str:
        schedule: str = self.cleaned_data["schedule"]
        try:
            cron.check(schedule)
        except cron.CronError as error:
            raise forms.ValidationError(str(error)) from None
        return schedule

    def clean_timezone(self) -> str:
        zone: str = self.cleaned_data["timezone"]
        try:
            zones.check(zone)
        except zones.ZoneError as error:
            raise forms.ValidationError(str(error)) from None
        return zone

    def clean_model(self) -> str | None:
        return self.cleaned_data["model"] or None


@admin.register(Task)
class TaskAdmin(admin.ModelAdmin):
    list_display = ("title", "account", "artist_account", "in_words", "is_running", "sync", "next_time")
    list_filter = (SyncStatusFilter, "enabled", ("deleted_at", admin.EmptyFieldListFilter), "timezone")
    search_fields = ("title", "id", "account__name", "artist_account__name", "trigger_schedule_id")
    list_select_related = ("account", "artist_account")
    date_hierarchy = "created_at"
    form = TaskForm
    autocomplete_fields = ("account", "artist_account")
    actions = ("pause", "resume", "run_now", "sync_now")
    readonly_fields = (
        *("id", "in_words", "next_time", "trigger_schedule_id", "sync", "sync_error", "generation"),
        *(
            "runs_by_hand",
            "synced_generation",
            "unsettled_until",
            "created_at",
            "updated_at",
            "schedule_changed_at",
            "deleted_at",
        ),
    )
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
        ("History", {"fields": ("runs_by_hand", "created_at", "updated_at", "schedule_changed_at", "deleted_at")}),
    )

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Sends the initial values along, so only fields that the person changed are written."""
        return super().formfield_for_dbfield(db_field, request, show_hidden_initial=True, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Task | None = None) -> Any:
        fields = ("title", "prompt", "model", "account", "artist_account", "schedule", "timezone", "enabled")
        return self.fieldsets if obj else ((None, {"fields": fields}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Task | None = None) -> tuple[str, ...]:
        """A task never moves to another account."""
        return (*self.readonly_fields, "account") if obj else self.readonly_fields

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.deleted_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.deleted_at is None)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Without Django's transaction: none may be open during a call to Trigger.dev."""
        return self._changeform_view(request, object_id, form_url, extra_context)  # type: ignore[attr-defined]

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        return self._delete_view(request, object_id, extra_context)  # type: ignore[attr-defined]

    def save_model(self, request: HttpRequest, obj: Task, form: Any, change: bool) -> None:
        """The form has already written it."""
        task = Task.objects.get(pk=obj.pk)
        if task.sync_status is SyncStatus.PENDING:
            self.message_user(request, f"Not yet at Trigger.dev. {task.sync_error}", messages.WARNING)

    def delete_model(self, request: HttpRequest, obj: Task) -> None:
        writes.delete_task(obj, at=timezone.now())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        for task in queryset.filter(deleted_at__isnull=True):
            writes.delete_task(task, at=timezone.now())

    @admin.action(description="Pause the selected tasks", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        self.change_all(request, queryset, enabled=False)

    @admin.action(description="Resume the selected tasks", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        self.change_all(request, queryset, enabled=True)

    def change_all(self, request: HttpRequest, queryset: QuerySet[Task], *, enabled: bool) -> None:
        tasks = [task for task in queryset.filter(deleted_at__isnull=True) if task.is_enabled != enabled]
        for task in tasks:
            with suppress(writes.TaskGone):
                writes.update_task(task, {"enabled": enabled}, at=timezone.now())
        self.message_user(request, f"{len(tasks)} {'resumed' if enabled else 'paused'}.")

    @admin.action(description="Run the selected tasks now", permissions=["change"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        for task in queryset.filter(deleted_at__isnull=True):
            now, deadline, staff = timezone.now(), upstream.deadline_from_now(), request.user.get_username()
            try:
                run_id, _ = run_now.start(task, staff=staff, at=now, deadline=deadline)
            except (TriggerError, NotOurEnvironment) as error:
                message = f"{task}: the run was not confirmed. {error}."
                self.message_user(request, message, messages.ERROR)
            else:
                self.message_user(request, f"{task}: the run {run_id} was started.")

    @admin.action(description="Sync the selected tasks with Trigger.dev now", permissions=["change"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        settled = [settling.settle(task.pk, at=timezone.now()).is_settled for task in queryset]
        self.message_user(request, f"{sum(settled)} of {len(settled)} tasks are in sync with Trigger.dev.")

    @admin.display(description="In words", ordering="schedule")
    def in_words(self, task: Task) -> str:
        try:
            return f"{cron.describe(task.schedule)} ({task.timezone})"
        except cron.CronError:
            return f"{task.schedule} (never)"

    @admin.display(description="Running", boolean=True, ordering="enabled")
    def is_running(self, task: Task) -> bool:
        return task.is_enabled and task.deleted_at is None

    @admin.display(description="Run requests")
    def runs_by_hand(self, task: Task) -> str:
        """The newest, with who requested them."""
        requests = task.run_requests.select_related("requested_by")[:MAX_RUN_REQUESTS]
        lines = [
            (f"{one.requested_at:%d %b %Y %H:%M} UTC", one.requested_by or f"{one.requested_by_staff} (staff)", one)
            for one in requests
        ]
        return format_html_join(mark_safe("<br>"), "{}, {}: {}", lines) or "None."

    @admin.display(description="Sync")
    def sync(self, task: Task) -> str:
        return task.sync_status.label

    @admin.display(description="Next (UTC)")
    def next_time(self, task: Task) -> str:
        times = upcoming_times(task, now=timezone.now()) if task.deleted_at is None else []
        return times[0].strftime("%a %d %b %H:%M") if times else "-"
