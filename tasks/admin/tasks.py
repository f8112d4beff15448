"""The admin pages of tasks. A list never calls Trigger.dev; the page of a failing task asks for its last error."""

from contextlib import suppress
from datetime import timedelta
from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action
from unfold.decorators import display as unfold_display

from accounts.admin.base import RobustAdmin, actor_of
from core.text import parse_uuid
from tasks import bulk, cron, writes
from tasks.admin.buttons import BUTTONS, MAX_REASON, start_run
from tasks.admin.forms import TaskForm
from tasks.admin.lists import BoundedPaginator, EnabledFilter, ExistenceFilter, ResultFilter, SyncStatusFilter
from tasks.admin.page import page_of
from tasks.admin.search import MAX_FOUND, search
from tasks.api.queries import PreviewQuerySerializer
from tasks.cron import zones
from tasks.gateway.environment import NotOurEnvironment
from tasks.models import BulkJob, SyncStatus, Task
from tasks.runs.copies import FAILED
from tasks.runs.reading import upcoming_times
from tasks.schedules import settling
from tasks.trigger.errors import TriggerError

# Tasks that an action changes within the request.
MAX_AT_ONCE = 100
CUT = f"More than {MAX_FOUND} may match: the newest are shown. Search for something longer, or use a filter."


@admin.register(Task)
class TaskAdmin(RobustAdmin):
    list_display = ("title", "account", "artist_account", "in_words", "running", "last_run", "sync", "next_time")
    list_filter = (
        *(ExistenceFilter, EnabledFilter, ResultFilter, SyncStatusFilter),
        *(("account", AutocompleteSelectFilter), ("artist_account", AutocompleteSelectFilter)),
        ("account__memberships__organization", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    search_fields = ("title",)
    search_help_text = "Title, owner, artist, organization, e-mail, or an id of a task, run, account or schedule"
    list_select_related = ("account", "artist_account")
    list_per_page = 50
    ordering = ("-created_at", "-id")
    # Sorting a million tasks by another column takes seconds.
    sortable_by = ()
    show_full_result_count = False
    # They would count a million tasks, and search again, for each choice of each filter.
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    form = TaskForm
    autocomplete_fields = ("account", "artist_account")
    actions = ("pause", "resume", "run_now", "sync_now")
    actions_detail = ("pause_button", "resume_button", "run_button", "sync_button")
    change_form_outer_before_template = "admin/tasks/task/state.html"
    change_form_outer_after_template = "admin/tasks/task/history.html"
    readonly_fields = (
        *("id", "in_words", "trigger_schedule_id", "sync", "sync_error", "generation"),
        *("synced_generation", "unsettled_until", "created_at", "updated_at", "schedule_changed_at", "deleted_at"),
    )
    fieldsets = (
        (None, {"fields": ("title", "prompt", "model", "account", "artist_account")}),
        ("When it runs", {"fields": ("schedule", "in_words", "timezone", "enabled")}),
        (
            "Details",
            {
                "classes": ("collapse",),
                "fields": (
                    *("id", "trigger_schedule_id", "sync", "sync_error", "generation", "synced_generation"),
                    *("unsettled_until", "created_at", "updated_at", "schedule_changed_at", "deleted_at"),
                ),
            },
        ),
    )

    class Media:
        js = ("tasks/preview.js",)

    # --- The form ---

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Sends the initial values along, so only fields that the person changed are written."""
        return super().formfield_for_dbfield(db_field, request, show_hidden_initial=True, **kwargs)

    def get_form(self, request: HttpRequest, obj: Task | None = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.actor = actor_of(request)
        return form

    def get_fieldsets(self, request: HttpRequest, obj: Task | None = None) -> Any:
        fields = ("title", "prompt", "model", "account", "artist_account", "schedule", "timezone", "enabled")
        return self.fieldsets if obj else ((None, {"fields": fields}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Task | None = None) -> tuple[str, ...]:
        """A task never moves to another account."""
        return (*self.readonly_fields, "account") if obj else self.readonly_fields

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and is_living(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and is_living(obj)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Without Django's transaction: none may be open during a call to Trigger.dev."""
        extra = dict(extra_context or {})
        task = self.get_object(request, object_id) if object_id else None
        if task is not None and request.method == "GET" and self.has_view_permission(request, task):
            extra |= page_of(task)
        if object_id:
            extra["actions_detail"] = self._get_actions_navigation(
                self.actions_detail, self.get_actions_detail(request, object_id), object_id
            )
        extra["time_zones"] = sorted(available_timezones()) if request.method == "GET" else []
        return self._changeform_view(request, object_id, form_url, extra)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        what = (
            "The title and the prompt are erased, and the schedule at Trigger.dev is deleted. The runs and the history "
            "of changes remain. This cannot be undone: pause the task to stop it for a while."
        )
        return self._delete_view(request, object_id, {**(extra_context or {}), "what_is_erased": what})

    def save_model(self, request: HttpRequest, obj: Task, form: Any, change: bool) -> None:
        """The form has already written it."""
        task = Task.objects.get(pk=obj.pk)
        if task.sync_status is SyncStatus.PENDING:
            self.message_user(request, f"Not yet at Trigger.dev. {task.sync_error}", messages.WARNING)

    def delete_model(self, request: HttpRequest, obj: Task) -> None:
        writes.delete_task(obj, actor=actor_of(request), at=timezone.now())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> None:
        for task in queryset.filter(deleted_at__isnull=True):
            writes.delete_task(task, actor=actor_of(request), at=timezone.now())

    # --- The buttons of a task ---

    def get_urls(self) -> list[Any]:
        views = [
            path("<path:object_id>/do/<slug:name>/", self.admin_site.admin_view(self.button_view), name="task_button"),
            path("preview/", self.admin_site.admin_view(self.preview_view), name="task_preview"),
        ]
        return [*views, *super().get_urls()]

    @action(description="Pause", url_path="pause", permissions=["pause"])
    def pause_button(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:task_button", object_id, "pause")

    @action(description="Resume", url_path="resume", permissions=["resume"])
    def resume_button(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:task_button", object_id, "resume")

    @action(description="Run now", url_path="run-now", permissions=["run"])
    def run_button(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:task_button", object_id, "run-now")

    @action(description="Sync now", url_path="sync-now", permissions=["run"])
    def sync_button(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:task_button", object_id, "sync-now")

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        task = self.living(request, object_id)
        return task is not None and task.is_enabled

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        task = self.living(request, object_id)
        return task is not None and not task.is_enabled

    def has_run_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.living(request, object_id) is not None

    def living(self, request: HttpRequest, object_id: Any) -> Task | None:
        """The task, if this person may change it."""
        task_id = parse_uuid(str(object_id))
        task = Task.objects.living().filter(pk=task_id).first() if task_id else None
        return task if task is not None and self.has_change_permission(request, task) else None

    def button_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Asks with a GET, and acts with a POST."""
        button = BUTTONS.get(name)
        if not self.has_change_permission(request):
            raise PermissionDenied
        task = self.living(request, object_id)
        if button is None or task is None:
            raise Http404
        page = reverse("admin:tasks_task_change", args=[task.pk])
        if request.method != "POST":
            context = {**self.admin_site.each_context(request), "opts": self.opts, "task": task, "page": page}
            context |= {"title": f"{button.title}?", "button": button, "max_reason": MAX_REASON}
            return TemplateResponse(request, "admin/tasks/task/confirm.html", context)
        reason = request.POST.get("reason", "").replace("\x00", "").strip()[:MAX_REASON]
        try:
            self.message_user(request, button.do(task, request, reason))
        except (TriggerError, NotOurEnvironment, writes.TaskGone) as error:
            self.message_user(request, f"{button.title}: {str(error) or error.__doc__}.", messages.ERROR)
        return redirect(page)

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """What a schedule means, while it is typed."""
        serializer = PreviewQuerySerializer(data=request.GET)
        if not serializer.is_valid():
            problems = next(iter(serializer.errors.items()))
            return JsonResponse({"problem": f"{problems[0]} {problems[1][0]}"})
        values = serializer.validated_data
        schedule, zone_name = values["schedule"], values.get("timezone") or "UTC"
        now = timezone.now()
        times = cron.next_times(schedule, zone_name, after=now, count=3)
        warnings = [*zones.warnings(zone_name), *frequency_warnings(schedule, zone_name, now)]
        shown = [f"{at.astimezone(zones.zone(zone_name)):%a %d %b %Y %H:%M}" for at in times]
        return JsonResponse({"words": cron.describe(schedule), "times": shown, "warnings": warnings})

    # --- The list ---

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Task], search_term: str
    ) -> tuple[QuerySet[Task], bool]:
        text = search_term.replace("\x00", "").strip()
        if not text:
            return queryset, False
        found, is_cut = search(queryset, text)
        if is_cut and request.method == "GET":
            self.message_user(request, CUT, messages.WARNING)
        return found, False

    def get_actions(self, request: HttpRequest) -> Any:
        """Deleting is bounded like running: each task costs a call to Trigger.dev."""
        actions: Any = super().get_actions(request)
        if "delete_selected" in actions:
            _, name, description = actions["delete_selected"]
            actions["delete_selected"] = (delete_some, name, description)
        return actions

    @admin.action(description="Pause the selected tasks", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Task]) -> Any:
        return self.change_all(request, queryset, enabled=False)

    @admin.action(description="Resume the selected tasks", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Task]) -> Any:
        return self.change_all(request, queryset, enabled=True)

    def change_all(self, request: HttpRequest, queryset: QuerySet[Task], *, enabled: bool) -> Any:
        """At most MAX_AT_ONCE at once; more as a job of the worker."""
        if queryset.count() > MAX_AT_ONCE:
            return self.as_job(request, queryset, BulkJob.Kind.RESUME if enabled else BulkJob.Kind.PAUSE)
        tasks = [task for task in queryset.filter(deleted_at__isnull=True) if task.is_enabled != enabled]
        for task in tasks:
            with suppress(writes.TaskGone):
                writes.update_task(task, {"enabled": enabled}, actor=actor_of(request), at=timezone.now())
        in_sync = Task.objects.filter(pk__in=[task.pk for task in tasks], is_settled=True).count()
        done = "resumed" if enabled else "paused"
        level = messages.SUCCESS if in_sync == len(tasks) else messages.WARNING
        self.message_user(request, f"{len(tasks)} {done}, {in_sync} of them also at Trigger.dev.", level)
        return None

    def as_job(self, request: HttpRequest, queryset: QuerySet[Task], kind: BulkJob.Kind) -> HttpResponse | None:
        """The list counts no further than to MAX_COUNTED, so the true number is shown, and must be typed."""
        tasks = queryset.filter(deleted_at__isnull=True)
        count = tasks.count()
        if typed_number(request) != count:
            return self.ask_for_number(request, count, f"{kind.label} {count} tasks", "The worker does it.")
        task_ids = tasks.order_by("pk").values_list("pk", flat=True)[: bulk.MAX_TASKS + 1]
        staff, about = request.user.get_username(), f"{count} tasks of a list"
        try:
            job = bulk.create_job(kind, task_ids, about=about, requested_by=staff, reason="", at=timezone.now())
        except bulk.TooManyTasks as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        self.message_user(request, "The worker does it. This page shows how far it is.")
        return redirect("admin:tasks_bulkjob_change", job.pk)

    @admin.action(description="Run the selected tasks now", permissions=["change"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[Task]) -> Any:
        """For more than one task, their number must be typed: runs cost money."""
        tasks = queryset.filter(deleted_at__isnull=True)
        count = tasks.count()
        if count > MAX_AT_ONCE:
            message = f"At most {MAX_AT_ONCE} tasks are run at once, and these are {count}. Nothing was started."
            self.message_user(request, message, messages.ERROR)
            return None
        if count > 1 and typed_number(request) != count:
            question = f"It starts {count} runs outside their schedules. Runs cost money."
            return self.ask_for_number(request, count, f"Run {count} tasks now", question)
        for task in tasks:
            try:
                self.message_user(request, f"{task}: {start_run(task, request, '')}")
            except (TriggerError, NotOurEnvironment) as error:
                self.message_user(request, f"{task}: the run was not confirmed. {error}.", messages.ERROR)
        return None

    def ask_for_number(self, request: HttpRequest, count: int, title: str, question: str) -> HttpResponse:
        """The same request again, with a number that a person has typed."""
        names = ("action", "select_across", "_selected_action")
        fields = [(name, value) for name in names for value in request.POST.getlist(name)]
        context = {**self.admin_site.each_context(request), "opts": self.opts, "title": f"{title}?", "count": count}
        context |= {"question": question, "button": title, "request_fields": fields}
        return TemplateResponse(request, "admin/tasks/task/confirm_number.html", context)

    @admin.action(description="Sync the selected tasks with Trigger.dev now", permissions=["change"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Task]) -> Any:
        if queryset.count() > MAX_AT_ONCE:
            return self.as_job(request, queryset, BulkJob.Kind.SYNC)
        settled = [settling.settle(task.pk, at=timezone.now()).is_settled for task in queryset]
        self.message_user(request, f"{sum(settled)} of {len(settled)} tasks are in sync with Trigger.dev.")
        return None

    @admin.display(description="In words")
    def in_words(self, task: Task) -> str:
        try:
            return f"{cron.describe(task.schedule)} ({task.timezone})"
        except cron.CronError:
            return f"{task.schedule} (never)"

    @unfold_display(description="State", label={"Runs": "success", "Paused": "info", "Deleted": "danger"})
    def running(self, task: Task) -> str:
        if task.deleted_at is not None:
            return "Deleted"
        return "Runs" if task.is_enabled else "Paused"

    @unfold_display(description="Last run", label={**dict.fromkeys(FAILED, "danger"), "COMPLETED": "success"})
    def last_run(self, task: Task) -> str:
        return task.last_run_status or "-"

    @unfold_display(description="Sync", label={"in sync": "success", "pending": "warning", "refused": "danger"})
    def sync(self, task: Task) -> str:
        return str(task.sync_status.label)

    @admin.display(description="Next (UTC)")
    def next_time(self, task: Task) -> str:
        times = upcoming_times(task, now=timezone.now()) if task.deleted_at is None else ()
        return f"{times[0]:%d %b %Y %H:%M}" if times else "-"


def typed_number(request: HttpRequest) -> int | None:
    text = request.POST.get("number", "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def delete_some(admin_of_tasks: TaskAdmin, request: HttpRequest, queryset: QuerySet[Task]) -> Any:
    if queryset.count() > MAX_AT_ONCE:
        message = f"At most {MAX_AT_ONCE} tasks are deleted at once. Nothing was deleted."
        admin_of_tasks.message_user(request, message, messages.ERROR)
        return None
    return delete_selected(admin_of_tasks, request, queryset)


def is_living(task: Any) -> bool:
    return not isinstance(task, Task) or task.deleted_at is None


def frequency_warnings(schedule: str, zone_name: str, now: Any) -> list[str]:
    first = cron.next_times(schedule, zone_name, after=now, count=2)
    is_each_minute = len(first) == 2 and first[1] - first[0] <= timedelta(minutes=1)
    return ["It runs in consecutive minutes: each run costs money."] if is_each_minute else []
