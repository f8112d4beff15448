"""The admin pages of runs: read only, with payload, output and error as Trigger.dev has them."""

import json
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.http import HttpRequest
from unfold.decorators import display as unfold_display

from accounts.admin.base import RobustAdmin
from tasks.admin.lists import BoundedPaginator
from tasks.admin.page import link_to
from tasks.gateway import upstream
from tasks.models import Run
from tasks.runs import single
from tasks.runs.copies import FAILED

VALUES = ("error", "output", "payload")
MAX_SHOWN = 20_000  # characters of a value


@admin.register(Run)
class RunAdmin(RobustAdmin):
    list_display = ("id", "shown_status", "task", "task_identifier", "created_at")
    list_select_related = ("task",)
    list_filter = ("is_final",)
    search_fields = ("id__exact",)
    search_help_text = "The id of a run"
    list_per_page = 50
    ordering = ("-created_at",)
    show_full_result_count = False
    paginator = BoundedPaginator
    fields = ("id", "shown_status", "shown_task", "task_identifier", "created_at", "started_at", "finished_at")
    readonly_fields = fields
    change_form_outer_after_template = "admin/tasks/run/values.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Without a transaction during the call to Trigger.dev, and without a call for who may not see the run."""
        run = self.get_object(request, unquote(object_id)) if object_id else None
        may_see = run is not None and self.has_view_permission(request, run)
        extra = {**(extra_context or {}), **(values_of(run.pk) if may_see and run else {})}
        return self._changeform_view(request, object_id, form_url, extra)

    @unfold_display(description="Status", label={**dict.fromkeys(FAILED, "danger"), "COMPLETED": "success"})
    def shown_status(self, run: Run) -> str:
        return run.status

    @admin.display(description="Task")
    def shown_task(self, run: Run) -> str:
        return link_to(run.task)


def values_of(run_id: str) -> dict[str, Any]:
    """For the template. `is_complete`: Trigger.dev answered."""
    try:
        run, is_complete = single.retrieve_for_staff(run_id, deadline=upstream.deadline_from_now())
    except single.RunNotFound:
        return {"run_values": [], "is_complete": False}
    values = [
        (name.capitalize(), shown(run[name])) for name in ("error", "output", "payload") if run.get(name) is not None
    ]
    rest = {name: value for name, value in run.items() if name not in ("error", "output", "payload")}
    return {"run_values": [*values, ("Everything else", shown(rest))], "is_complete": is_complete}


def shown(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}\n… and {len(text) - MAX_SHOWN} more characters"
