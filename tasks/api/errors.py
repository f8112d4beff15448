"""Errors of the gateway, of starting a run and of idempotency keys, as answers of the API."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from rest_framework.exceptions import APIException, NotFound

from core.serializers import InvalidField
from tasks import idempotency, writes
from tasks.api.permissions import TASK_NOT_FOUND
from tasks.api.serializers import plan_limit_body
from tasks.gateway.environment import NotOurEnvironment
from tasks.limits import PlanLimit, TooManyBytes
from tasks.models import Task
from tasks.runs import run_now
from tasks.trigger.errors import NotSent, QuotaExceeded, TooManyRequests, TriggerError

TRIGGER_UNAVAILABLE = (
    "Trigger.dev is unavailable at the moment, and no earlier answer is stored. Please try again in {} seconds."
)
QUOTA_EXCEEDED = "Your account has looked up too many runs within a minute. Please try again in {} seconds."
NO_SUCH_RUN = "Task run not found"
RETRY_AFTER = 5

logger = logging.getLogger(__name__)


class RetryLater(APIException):
    """An error with a Retry-After header. The message has a placeholder for the seconds."""

    status_code = 500

    def __init__(self, message: str, *, seconds: float) -> None:
        self.wait = max(1, math.ceil(seconds))
        super().__init__(message.format(self.wait))


class TooManyCalls(RetryLater):
    status_code = 429


class Conflict(APIException):
    status_code = 409

    def __init__(self, conflict: Exception) -> None:
        super().__init__(str(conflict.__doc__))
        if isinstance(conflict, idempotency.InProgress):
            self.wait = 2


class OverPlanLimit(APIException):
    status_code = 402

    def __init__(self, limit: PlanLimit) -> None:
        super().__init__(str(limit))
        self.body = plan_limit_body(limit)


class NotSetUp(APIException):
    status_code = 500
    default_detail = (
        "No run was started: this service was moved to another Trigger.dev environment, and its operator has not "
        "accepted that yet."
    )


def as_api_exception(error: TriggerError) -> APIException:
    """What a caller is told when Trigger.dev gives no answer."""
    if isinstance(error, QuotaExceeded):
        return TooManyCalls(QUOTA_EXCEEDED, seconds=error.retry_after)
    if isinstance(error, NotSent):
        return RetryLater(TRIGGER_UNAVAILABLE, seconds=error.retry_after)
    logger.warning("A request could not be answered: %s", error)
    seconds = error.retry_after if isinstance(error, TooManyRequests) else RETRY_AFTER
    return RetryLater(TRIGGER_UNAVAILABLE, seconds=seconds)


@contextmanager
def write_errors() -> Iterator[None]:
    """Translates what writing a task can raise."""
    try:
        yield
    except writes.ScheduleRefused as refusal:
        field = "timezone" if "timezone" in str(refusal) else "schedule"
        raise InvalidField(f"Trigger.dev refuses the schedule: {refusal}", [field]) from None
    except writes.TaskGone:
        raise NotFound(TASK_NOT_FOUND) from None
    except PlanLimit as limit:
        raise OverPlanLimit(limit) from None
    except TooManyBytes as problem:
        raise InvalidField(str(problem), ["prompt"]) from None
    except (idempotency.DifferentBody, idempotency.TaskDeleted, idempotency.InProgress) as conflict:
        raise Conflict(conflict) from None


@contextmanager
def start_errors(task: Task) -> Iterator[None]:
    """Translates what starting a run can raise."""
    try:
        yield
    except NotOurEnvironment as error:
        logger.error("A run of task %s was not started: %s", task.pk, error)
        raise NotSetUp from error
    except NotSent as error:
        message = "No run was started: Trigger.dev cannot be called now. Try again in {} seconds."
        raise RetryLater(message, seconds=error.retry_after) from error
    except TriggerError as error:
        logger.warning("A run of task %s was not confirmed: %s", task.pk, error)
        raise RetryLater(run_now.NOT_CONFIRMED, seconds=RETRY_AFTER) from error
