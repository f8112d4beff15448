"""The endpoints: /api/tasks, /api/tasks/preview and /api/tasks/runs.

Every viewset validates the request in `initial()`, before permissions; see `core.viewsets`.
"""

import logging
import time
from functools import partial
from typing import ClassVar, cast
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import is_admin, may_act_for
from accounts.api.authentication import actor_of, caller_of, find_credential
from accounts.api.permissions import OUT_OF_REACH, AccountInReach, IsAccount
from accounts.events import kind_of
from accounts.models import Account, Event
from core.errors import FailureSerializer, TextErrorSerializer, ValidationFailureSerializer
from core.pagination import KeysetPagination
from core.text import format_timestamp
from core.viewsets import ValidatedViewSet
from tasks import cron, idempotency, writes
from tasks.api import errors, schema
from tasks.api.filters import RunFilter, TaskFilter, ValidatedFilterBackend
from tasks.api.permissions import TASK_NOT_FOUND, ArtistInReach, OwnerExists, TaskInReach
from tasks.api.queries import (
    HISTORY,
    DeleteTaskQuerySerializer,
    PreviewQuerySerializer,
    TaskEventListQuerySerializer,
    TaskListQuerySerializer,
    TaskRunListQuerySerializer,
)
from tasks.api.rendering import (
    LISTED_COLUMNS,
    ListedRun,
    conditional_response,
    json_response,
    run_body,
    runs_body,
    tasks_body,
    without_presigned_urls,
)
from tasks.api.serializers import (
    CreateTaskRequestSerializer,
    DeleteTaskRequestSerializer,
    PlanLimitSerializer,
    StartRunRequestSerializer,
    TaskEventSerializer,
    TaskRunsErrorResponseSerializer,
    UpdateTaskRequestSerializer,
    idempotency_key_of,
)
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.models import Run, Task, TaskQuerySet
from tasks.runs import account_runs, run_now, single
from tasks.runs.copies import MAX_STATUS
from tasks.runs.polling import shared_poll
from tasks.runs.reading import enrich
from tasks.runs.single import SeenRun
from tasks.runs.waiting import Waiter, has_left, wait_for_change
from tasks.schedules.settling import ATTEMPT_WITHIN
from tasks.trigger.errors import TriggerError

logger = logging.getLogger(__name__)


class TaskAPIViewSet(ValidatedViewSet):
    """What the viewsets of this app share: idempotency keys, one task by id, and errors of the gateway."""

    # Actions that accept an Idempotency-Key; their validated key is in `idempotency_key`.
    idempotent_actions: ClassVar[tuple[str, ...]] = ()
    idempotency_key = ""

    def validate_request(self, request: Request) -> None:
        super().validate_request(request)
        if self.action in self.idempotent_actions:
            self.idempotency_key = idempotency_key_of(request)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, TriggerError):
            exc = errors.as_api_exception(exc)
        return super().handle_exception(exc)

    def named_task(self) -> QuerySet[Task]:
        """The living task that the body names, with its account."""
        return Task.objects.living().select_related("account").filter(pk=self.body["id"])

    def get_object(self) -> Task:
        """Raises the same 404 for every id that is none of the caller's."""
        task = self.named_task().first()
        if task is None:
            raise NotFound(TASK_NOT_FOUND)
        self.check_object_permissions(self.request, task)
        return task


class TaskViewSet(TaskAPIViewSet):
    query_serializers: ClassVar = {"list": TaskListQuerySerializer, "destroy": DeleteTaskQuerySerializer}
    body_serializers: ClassVar = {
        "create": CreateTaskRequestSerializer,
        "partial_update": UpdateTaskRequestSerializer,
        "destroy": DeleteTaskRequestSerializer,
    }
    idempotent_actions: ClassVar = ("create",)
    queryset = Task.objects.living().to_show()
    permission_classes = (IsAccount, AccountInReach, OwnerExists, TaskInReach, ArtistInReach)
    filter_backends = (ValidatedFilterBackend,)
    filterset_class = TaskFilter
    pagination_class = KeysetPagination
    error_serializers: ClassVar = {
        ("POST", 402): PlanLimitSerializer,
        ("PATCH", 402): PlanLimitSerializer,
        **{
            (method, status): serializer
            for method in ("PATCH", "DELETE")
            for status, serializer in (
                (400, ValidationFailureSerializer),
                (404, FailureSerializer),
                (500, FailureSerializer),
            )
        },
    }
    error_texts = schema.TASK_ERROR_TEXTS

    def get_queryset(self) -> TaskQuerySet:
        """The caller's tasks; another account's with `account_id`; any task by an admin's `id` alone."""
        tasks, caller = cast(TaskQuerySet, super().get_queryset()), caller_of(self.request)
        if "account_id" in self.query or ("id" in self.query and is_admin(caller)):
            return tasks
        return tasks.filter(account=caller)

    @schema.list_tasks
    def list(self, request: Request) -> HttpResponseBase:
        tasks = self.filter_queryset(self.get_queryset())
        if request.method == "HEAD":
            return head_response()
        shared = shared_poll()
        page = cast(list[Task], self.paginate_queryset(tasks))
        now, deadline = timezone.now(), upstream.deadline_from_now()
        body = tasks_body(
            enrich(page, now=now, deadline=deadline, shared=shared),
            **cast(KeysetPagination, self.paginator).page_fields(),
        )
        return conditional_response(request, body)

    @schema.create_task
    def create(self, request: Request) -> HttpResponse:
        deadline, caller = upstream.deadline_from_now(), caller_of(request)
        fields = {"account_id": caller.pk, **self.body}
        now, within = timezone.now(), settling_time(deadline)
        actor, is_replayed = actor_of(request), False
        with errors.write_errors():
            if self.idempotency_key:
                key = idempotency.Key(caller.pk, self.idempotency_key, idempotency.digest_of_body(self.body))
                task, is_replayed = idempotency.create_task_once(fields, key, actor=actor, at=now, within=within)
            else:
                task = writes.create_task(fields, actor=actor, at=now, within=within)
        response = self.written(task, deadline=deadline)
        if is_replayed:
            response["Idempotent-Replayed"] = "true"
        return response

    @schema.update_task
    def partial_update(self, request: Request) -> HttpResponse:
        task, deadline = self.get_object(), upstream.deadline_from_now()
        changes = {name: value for name, value in self.body.items() if name not in ("id", "account_id")}
        with errors.write_errors():
            actor, within = actor_of(request), settling_time(deadline)
            writes.update_task(task, changes, actor=actor, at=timezone.now(), within=within)
        return self.written(task, deadline=deadline)

    @schema.delete_task
    def destroy(self, request: Request) -> Response:
        task = self.get_object()
        within = settling_time(upstream.deadline_from_now())
        writes.delete_task(task, actor=actor_of(request), at=timezone.now(), within=within)
        return Response({"status": "success"})

    def written(self, task: Task, *, deadline: float) -> HttpResponse:
        """The task as it is after a write, with what its owner may not expect."""
        shown = list(enrich(self.queryset.filter(pk=task.pk), now=timezone.now(), deadline=deadline))
        found = [warning for enriched in shown for warning in zones.warnings(enriched.task.timezone)]
        return json_response(tasks_body(shown, **({"warnings": found} if found else {})))


class PreviewViewSet(TaskAPIViewSet):
    """When a schedule would run, without a task. Nothing is written, and Trigger.dev is not called."""

    query_serializers: ClassVar = {"retrieve": PreviewQuerySerializer}
    permission_classes = (IsAccount,)
    error_texts = schema.PREVIEW_ERROR_TEXTS
    undocumented_errors = (403,)

    @schema.preview_schedule
    def retrieve(self, request: Request) -> Response:
        expression, timezone_name = self.query["schedule"], self.query.get("timezone", "UTC")
        count = self.query["count"]
        times = cron.next_times(expression, timezone_name, after=timezone.now(), count=count)
        zone, warnings = zones.zone(timezone_name), zones.warnings(timezone_name)
        if len(times) < count:
            warnings.append(f"The schedule is so rare that the search ended after {len(times)} of {count} times.")
        return Response(
            {
                "status": "success",
                "schedule": expression,
                "timezone": timezone_name,
                "description": cron.describe(expression),
                "upcoming": [{"utc": format_timestamp(at), "local": at.astimezone(zone).isoformat()} for at in times],
                "warnings": warnings,
            }
        )


class EventPagination(KeysetPagination):
    time_field = "at"


class TaskEventViewSet(TaskAPIViewSet):
    """Who changed a task, also after it was deleted."""

    query_serializers: ClassVar = {"list": TaskEventListQuerySerializer}
    permission_classes = (IsAccount, AccountInReach, TaskInReach)
    queryset = Event.objects.order_by("-at", "-pk")
    serializer_class = TaskEventSerializer
    pagination_class = EventPagination
    error_serializer = TextErrorSerializer
    error_texts = schema.EVENT_ERROR_TEXTS

    def named_task(self) -> QuerySet[Task]:
        """Deleted tasks too."""
        return Task.objects.filter(pk=self.query["id"])

    def get_queryset(self) -> QuerySet[Event]:
        events = cast(QuerySet[Event], super().get_queryset())
        return events.filter(target_kind=kind_of(Task), target_id=str(self.get_object().pk))

    @schema.list_task_events
    def list(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        body = {"status": "success", "events": self.get_serializer(page, many=True).data}
        return Response({**body, **cast(KeysetPagination, self.paginator).page_fields()})


class RunPagination(KeysetPagination):
    time_field, id_field = "listed_at", "listed_id"


class TaskRunViewSet(TaskAPIViewSet):
    """Lists are rendered from the stored bytes, not by a serializer; see `tasks.api.rendering`."""

    query_serializers: ClassVar = {"list": TaskRunListQuerySerializer}
    body_serializers: ClassVar = {"create": StartRunRequestSerializer}
    idempotent_actions: ClassVar = ("create",)
    permission_classes = (IsAccount, AccountInReach, TaskInReach)
    filter_backends = (ValidatedFilterBackend,)
    filterset_class = RunFilter
    pagination_class = RunPagination
    error_serializer = TaskRunsErrorResponseSerializer
    error_texts = schema.RUN_ERROR_TEXTS

    @property
    def listed_account_id(self) -> UUID:
        return self.requested_account_id or caller_of(self.request).pk

    def get_queryset(self) -> QuerySet[Run]:
        """The account's runs; with `task_id` those of one of its tasks. Each has its own index."""
        if "task_id" in self.query:
            return account_runs.of_task(self.query["task_id"], self.listed_account_id)
        return account_runs.of_account(self.listed_account_id)

    @schema.list_or_retrieve_runs
    def list(self, request: Request) -> HttpResponseBase:
        if request.method == "HEAD":
            return head_response()
        if "runId" in self.query:
            return self.single()
        now, deadline = timezone.now(), upstream.deadline_from_now()
        status, as_of = account_runs.refresh(self.listed_account_id, now=now, deadline=deadline)
        runs = self.filter_queryset(self.get_queryset()).values_list(*LISTED_COLUMNS, named=True)
        page = self.paginate_queryset(cast(QuerySet[Run], runs))
        fields = cast(KeysetPagination, self.paginator).page_fields() if HISTORY & self.query.keys() else {}
        return conditional_response(
            request, runs_body(cast(list[ListedRun], page), self.listed_account_id, status, as_of, **fields)
        )

    @schema.start_run
    def create(self, request: Request) -> HttpResponse:
        task, actor, key = self.get_object(), actor_of(request), self.idempotency_key
        now, deadline = timezone.now(), upstream.deadline_from_now()
        with errors.start_errors(task):
            run_id, is_replayed = run_now.start(task, actor=actor, key=key, at=now, deadline=deadline)
        response = json_response(run_body(self.started(task, run_id, deadline=deadline)))
        if is_replayed:
            response["Idempotent-Replayed"] = "true"
        return response

    def single(self) -> HttpResponse:
        """One run. With `wait` an unfinished one is held until it changes, unless it has changed for the client."""
        begun, wait = time.monotonic(), self.query.get("wait", 0)
        seen = self.retrieved(caller_of(self.request))
        response = self.run_response(seen)
        has_changed = "If-None-Match" in self.request.headers and response.status_code == 200
        if not wait or seen.is_final or has_changed:
            return response
        connection = self.request.META.get("gunicorn.socket")
        waiter = Waiter(self.query["runId"], seen.status[:MAX_STATUS], has_left=partial(has_left, connection))
        if not wait_for_change(waiter, seconds=max(0.0, begun + wait - time.monotonic())):
            return response
        return self.run_response(self.retrieved(self.authenticate_again(), is_stored=True))

    def authenticate_again(self) -> Account:
        """The caller after a wait: its credential or its access may have been revoked meanwhile."""
        caller = find_credential(self.request).account
        account_id = self.requested_account_id
        if account_id and not may_act_for(caller, account_id):
            raise PermissionDenied(OUT_OF_REACH)
        return caller

    def retrieved(self, caller: Account, *, is_stored: bool = False) -> SeenRun:
        """`is_stored`: what is cached must be at least as new as the stored copy."""
        run_id, account_id, deadline = self.query["runId"], self.requested_account_id, upstream.deadline_from_now()
        stored = Run.objects.filter(pk=run_id).only("updated_at").first() if is_stored else None
        newer_than = stored.updated_at if stored else None
        return single.retrieve(caller, run_id, account_id=account_id, deadline=deadline, newer_than=newer_than)

    def run_response(self, seen: SeenRun) -> HttpResponse:
        response = conditional_response(self.request, run_body(seen), etag_fields=without_presigned_urls(seen))
        if not seen.is_final:
            response["Retry-After"] = str(round(single.UNFINISHED_FOR.total_seconds()))
        return response

    def started(self, task: Task, run_id: str, *, deadline: float) -> SeenRun:
        caller = caller_of(self.request)
        try:
            return single.retrieve_started(caller, run_id, account_id=task.account_id, deadline=deadline)
        except (TriggerError, single.RunNotFound) as error:
            logger.warning("The run %s was started, but could not be retrieved: %s", run_id, error)
            return run_now.just_started(task, run_id, at=timezone.now())

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, single.RunNotFound):
            exc = NotFound(errors.NO_SUCH_RUN)
        return super().handle_exception(exc)


def head_response() -> HttpResponseBase:
    """The answer to a HEAD. It has no Content-Length: nobody has computed how long the body of a GET would be."""
    return StreamingHttpResponse((), content_type="application/json")


def settling_time(deadline: float) -> float:
    """How many seconds an attempt to settle may take, so that the answer is in time."""
    return min(ATTEMPT_WITHIN, max(0.0, deadline - time.monotonic()))
