"""/api/tasks/runs: the runs of an account, one run, and a new one."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import APIException, NotFound, PermissionDenied
from rest_framework.request import Request

from accounts.access import may_act_for
from accounts.api.authentication import caller_of, find_credential
from accounts.api.permissions import MayActForAccount
from accounts.models import Account
from core.query_parameters import parameters
from tasks.api import schema
from tasks.api.base import PaidByCaller
from tasks.api.bodies import StartRunRequestSerializer, idempotency_key
from tasks.api.filters import run_query
from tasks.api.permissions import task_to_write
from tasks.api.rendering import answer, dated_addresses, runs_body, tagged_answer
from tasks.api.views import etags_of, without_body
from tasks.gateway import upstream
from tasks.gateway.environment import NotOurEnvironment
from tasks.models import Task
from tasks.runs import queries, run_now
from tasks.runs.known import Known, RunsStatus, last_known
from tasks.runs.owners import RUN_NOT_FOUND
from tasks.runs.snapshots import UNFINISHED_FOR
from tasks.runs.waiting import Waiter, has_left, wait_for_change
from tasks.trigger.errors import NotAsked, ShareSpent, TriggerError

logger = logging.getLogger(__name__)


class RunNotConfirmed(APIException):
    """Trigger.dev did not say that it has started the run."""

    status_code = 500
    wait = 5
    default_detail = run_now.NOT_CONFIRMED


class NotStarted(APIException):
    """Trigger.dev was not asked at all."""

    status_code = 500

    def __init__(self, seconds: float) -> None:
        self.wait = max(1, math.ceil(seconds))
        super().__init__(f"No run was started: Trigger.dev cannot be asked now. Try again in {self.wait} seconds.")


class NotSetUp(APIException):
    """Another Trigger.dev environment than the database belongs to."""

    status_code = 500
    default_detail = (
        "No run was started: this service was moved to another Trigger.dev environment, which its operator must accept."
    )


@contextmanager
def not_found() -> Iterator[None]:
    try:
        yield
    except queries.RunNotFound:
        raise NotFound(RUN_NOT_FOUND) from None


class TaskRunsView(PaidByCaller):
    error_shape = "TaskRunsErrorResponse"
    error_shapes: ClassVar = {(method, 404): "TaskRunsErrorResponse" for method in ("GET", "POST")}

    @schema.list_or_retrieve_runs
    def get(self, request: Request) -> HttpResponseBase:
        query = run_query(request)
        if query["account_id"]:
            self.check_object_permissions(request, query["account_id"])
        if request.method == "HEAD":
            return without_body()
        if not query["runId"]:
            return tagged_answer(runs_body(self.listed(request, query)), etags=etags_of(request))
        return self.one(request, query)

    @schema.start_run
    def post(self, request: Request) -> HttpResponseBase:
        parameters(request.query_params, allowed=())
        fields, key = StartRunRequestSerializer(data=request.data).checked(), idempotency_key(request)
        task = task_to_write(self, request, fields["id"], fields.get("account_id"))
        now, deadline = timezone.now(), upstream.deadline_from_now()
        try:
            caller = caller_of(request)
            run_id, is_repeated = run_now.start(task, asked_by=caller, key=key, at=now, deadline=deadline)
        except NotOurEnvironment as error:
            logger.error("A run of task %s was not started: %s", task.pk, error)
            raise NotSetUp from error
        except ShareSpent:
            raise
        except NotAsked as error:
            raise NotStarted(error.retry_after) from error
        except TriggerError as error:
            logger.warning("A run of task %s was not confirmed: %s", task.pk, error)
            raise RunNotConfirmed from error
        response = answer(runs_body(self.started(request, task, run_id, deadline=deadline)))
        if is_repeated:
            response["Idempotent-Replayed"] = "true"
        return response

    def one(self, request: Request, query: dict[str, Any]) -> HttpResponseBase:
        """With `wait` an unfinished run is held until it changes, unless it has since the client saw it."""
        begun, etags = time.monotonic(), etags_of(request)
        known = self.retrieved(caller_of(request), query, only_fresh=bool(query["wait"]) or etags is not None)
        response = self.answered(request, known)
        is_news = etags is not None and response.status_code == 200
        if not query["wait"] or known.is_final or is_news or known.snapshot is None:
            return response
        waiter = Waiter(query["runId"], known.snapshot, has_left=partial(has_left, request.META.get("gunicorn.socket")))
        latest = wait_for_change(waiter, seconds=max(0.0, begun + query["wait"] - time.monotonic()))
        if latest is None:
            return response
        # Much may have been taken from the caller meanwhile.
        caller = find_credential(request).account
        if query["account_id"] and not may_act_for(caller, query["account_id"]):
            raise PermissionDenied(MayActForAccount.message)
        try:
            return self.answered(request, self.retrieved(caller, query, only_fresh=etags is not None))
        except TriggerError:
            # Neither Trigger.dev nor the cache has what the waiter has seen.
            with not_found():
                seen = queries.as_seen(caller, Known(last_known(latest), RunsStatus.STALE), query["account_id"])
            return self.answered(request, seen)

    def retrieved(self, caller: Account, query: dict[str, Any], *, only_fresh: bool) -> Known:
        run_id, account_id = query["runId"], query["account_id"]
        now, deadline = timezone.now(), upstream.deadline_from_now()
        with not_found():
            return queries.retrieve(
                caller, run_id, account_id=account_id, now=now, deadline=deadline, only_fresh=only_fresh
            )

    def answered(self, request: Request, known: Known) -> HttpResponse:
        response = tagged_answer(runs_body(known), etags=etags_of(request), tagged_as=dated_addresses(known))
        if not known.is_final:
            response["Retry-After"] = str(round(UNFINISHED_FOR.total_seconds()))
        return response

    def listed(self, request: Request, query: dict[str, Any]) -> Known:
        account_id = query["account_id"] or caller_of(request).pk
        now, deadline = timezone.now(), upstream.deadline_from_now()
        only_fresh = etags_of(request) is not None
        return queries.of_account(account_id, limit=query["limit"], now=now, deadline=deadline, only_fresh=only_fresh)

    def started(self, request: Request, task: Task, run_id: str, *, deadline: float) -> Known:
        now = timezone.now()
        try:
            caller, account_id = caller_of(request), task.account_id
            return queries.look_at_started(caller, run_id, account_id=account_id, now=now, deadline=deadline)
        except (TriggerError, queries.RunNotFound) as error:
            logger.warning("The run %s was started, and could not be looked at: %s", run_id, error)
            return run_now.just_started(task, run_id, at=now)
