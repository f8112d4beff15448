"""The index of the admin site: what needs attention, with a link to each list."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from tasks.admin.lists import MISSED_DAYS, REFUSED, missing_tasks
from tasks.models import Task
from tasks.runs.copies import FAILED

admin.site.index_template = "admin/attention.html"
# Counting ends here: more than these need attention all the same.
MAX_COUNTED = 1000
PENDING_FOR = timedelta(minutes=5)


def attention(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Only for staff who may see tasks."""
    return {**context, "attention": rows() if request.user.has_perm("tasks.view_task") else None}


def rows() -> list[dict[str, Any]]:
    now, tasks = timezone.now(), Task.objects.living().order_by()
    long_pending = tasks.filter(is_settled=False, updated_at__lt=now - PENDING_FOR).exclude(REFUSED)
    missing = tasks.filter(pk__in=missing_tasks())
    refused = tasks.filter(REFUSED, refused_generation__isnull=False)
    found = (
        ("Tasks whose last run failed", tasks.filter(last_run_status__in=FAILED), "last=failed"),
        (f"Tasks that missed a run in the last {MISSED_DAYS} days", missing, "last=missed"),
        ("Tasks whose schedule Trigger.dev refuses", refused, "sync=refused"),
        ("Tasks that are pending for more than five minutes", long_pending, "sync=pending"),
    )
    address = reverse("admin:tasks_task_changelist")
    return [{"what": what, "count": counted(query), "url": f"{address}?{filters}"} for what, query, filters in found]


def counted(rows: QuerySet[Any]) -> str:
    count = rows.values("pk")[: MAX_COUNTED + 1].count()
    return f"more than {MAX_COUNTED}" if count > MAX_COUNTED else str(count)
