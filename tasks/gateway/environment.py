"""A database belongs to one Trigger.dev environment and namespace.

Deduplication keys are per Trigger.dev project, so a staging copy of a production database would take over production's
schedules. A secret key that is not for production therefore needs a namespace, and after a change of key or namespace
nothing is written until an operator accepts it.
"""

from datetime import datetime

from django.conf import settings

from core.text import fingerprint
from tasks.models import TriggerBinding


class NotOurEnvironment(Exception):
    """The Trigger.dev environment or namespace differs from the one that the database was last used with"""


NO_NAMESPACE = "TRIGGER_SECRET_KEY does not start with tr_prod_, so TRIGGER_NAMESPACE must be set"
CHANGED = (
    "TRIGGER_SECRET_KEY or TRIGGER_NAMESPACE differs from the one that this database was last used with. "
    "If this is intended, run: manage.py accept_trigger_environment"
)


def check_environment(*, at: datetime) -> None:
    """Raises NotOurEnvironment with what to do. The first use binds the database."""
    if lacks_namespace():
        raise NotOurEnvironment(NO_NAMESPACE)
    bound, _ = TriggerBinding.objects.get_or_create(pk=1, defaults={"fingerprint": present(), "since": at})
    if bound.fingerprint != present():
        raise NotOurEnvironment(CHANGED)


def environment_problem() -> str:
    """What is wrong, and what to do; empty where nothing is. Binds nothing."""
    if lacks_namespace():
        return NO_NAMESPACE
    bound = TriggerBinding.objects.filter(pk=1).first()
    return CHANGED if bound is not None and bound.fingerprint != present() else ""


def lacks_namespace() -> bool:
    return not settings.TRIGGER_SECRET_KEY.startswith("tr_prod_") and not settings.TRIGGER_NAMESPACE


def present() -> str:
    return fingerprint(f"{settings.TRIGGER_NAMESPACE} {settings.TRIGGER_SECRET_KEY}")


def accept_environment(*, at: datetime) -> None:
    TriggerBinding.objects.update_or_create(pk=1, defaults={"fingerprint": present(), "since": at})
