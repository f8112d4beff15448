"""The admin pages of bulk jobs: what was asked for, how far it is, and what came of it."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.utils import timezone
from unfold.decorators import display as unfold_display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from accounts.admin.base import RobustAdmin
from accounts.models import Account, Organization
from tasks import bulk
from tasks.admin.buttons import MAX_REASON
from tasks.models import BulkJob, BulkJobTask, Task

MAX_FAILURES = 100


class JobForm(forms.ModelForm):
    """Everything of one account, or of all accounts of one organization."""

    account = forms.ModelChoiceField(Account.objects.all(), required=False, widget=UnfoldAdminTextInputWidget)
    organization = forms.ModelChoiceField(Organization.objects.all(), required=False, widget=UnfoldAdminSelectWidget)

    class Meta:
        model = BulkJob
        fields = ("kind", "reason")

    def clean(self) -> dict[str, Any]:
        values = dict(super().clean() or self.cleaned_data)
        if not self.errors and bool(values.get("account")) == bool(values.get("organization")):
            raise forms.ValidationError("Choose either an account, by its id, or an organization.")
        return values

    def tasks(self) -> QuerySet[Task]:
        account, organization = self.cleaned_data["account"], self.cleaned_data["organization"]
        tasks = Task.objects.living().order_by("pk")
        if account is not None:
            return tasks.filter(account=account)
        return tasks.filter(account__memberships__organization=organization).distinct()


@admin.register(BulkJob)
class BulkJobAdmin(RobustAdmin):
    list_display = ("shown", "requested_by_staff", "created_at", "state", "finished_at")
    list_filter = ("kind",)
    ordering = ("-id",)
    form = JobForm
    fields = ("shown", "reason", "requested_by_staff", "created_at", "finished_at")
    change_form_outer_before_template = "admin/tasks/bulkjob/progress.html"

    class Media:
        js = ("tasks/progress.js",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields if obj else ("kind", "account", "organization", "reason")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: BulkJob, form: Any, change: bool) -> None:
        """The job of the form, with its tasks."""
        about = form.cleaned_data["account"] or form.cleaned_data["organization"]
        made = bulk.create_job(
            BulkJob.Kind(obj.kind),
            form.tasks().values_list("pk", flat=True)[: bulk.MAX_TASKS + 1],
            about=f"all tasks of {about}",
            requested_by=request.user.get_username(),
            reason=form.cleaned_data["reason"][:MAX_REASON],
            at=timezone.now(),
        )
        obj.pk = made.pk
        obj.refresh_from_db()

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        job = self.get_object(request, object_id) if object_id else None
        try:
            return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), **page_of(job)})
        except bulk.TooManyTasks as error:
            self.message_user(request, str(error), messages.ERROR)
            return redirect("admin:tasks_bulkjob_changelist")

    def get_urls(self) -> list[Any]:
        resume = path("<int:job_id>/resume/", self.admin_site.admin_view(self.resume_view), name="bulkjob_resume")
        return [resume, *super().get_urls()]

    def resume_view(self, request: HttpRequest, job_id: int) -> HttpResponse:
        """A job that resumes just the tasks that this one has paused."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        job = BulkJob.objects.filter(pk=job_id, kind=BulkJob.Kind.PAUSE, finished_at__isnull=False).first()
        if job is None or request.method != "POST":
            raise Http404
        made = bulk.create_job(
            BulkJob.Kind.RESUME,
            job.items.filter(outcome=BulkJobTask.Outcome.DONE).order_by("pk").values_list("task", flat=True),
            about=f"the tasks that job {job.pk} paused",
            requested_by=request.user.get_username(),
            reason=f"Undoes job {job.pk}",
            at=timezone.now(),
        )
        return redirect("admin:tasks_bulkjob_change", made.pk)

    @admin.display(description="Job")
    def shown(self, job: BulkJob) -> str:
        return str(job)

    @unfold_display(description="State", label={"finished": "success", "in progress": "warning"})
    def state(self, job: BulkJob) -> str:
        return "finished" if job.finished_at else "in progress"


def page_of(job: Any) -> dict[str, Any]:
    if job is None:
        return {}
    failures = job.items.select_related("task").filter(outcome=BulkJobTask.Outcome.FAILED)[:MAX_FAILURES]
    can_be_resumed = job.kind == BulkJob.Kind.PAUSE and job.finished_at is not None
    return {"job": job, "job_progress": bulk.progress_of(job), "failures": failures, "can_be_resumed": can_be_resumed}
