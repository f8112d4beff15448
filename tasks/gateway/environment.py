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


def check_environment(*, at: datetime) -> None:
    """Raises NotOurEnvironment with what to do. The first use binds the database."""
    used = fingerprint(f"{settings.TRIGGER_NAMESPACE} {settings.TRIGGER_SECRET_KEY}")
    if not settings.TRIGGER_SECRET_KEY.startswith("tr_prod_") and not settings.TRIGGER_NAMESPACE:
        raise NotOurEnvironment("TRIGGER_SECRET_KEY does not start with tr_prod_, so TRIGGER_NAMESPACE must be set")
    bound, _ = TriggerBinding.objects.get_or_create(pk=1, defaults={"fingerprint": used, "since": at})
    if bound.fingerprint != used:
        raise NotOurEnvironment(
            "TRIGGER_SECRET_KEY or TRIGGER_NAMESPACE differs from the one that this database was last used with. "
            "If this is intended, run: manage.py accept_trigger_environment"
        )


def accept_environment(*, at: datetime) -> None:
    used = fingerprint(f"{settings.TRIGGER_NAMESPACE} {settings.TRIGGER_SECRET_KEY}")
    TriggerBinding.objects.update_or_create(pk=1, defaults={"fingerprint": used, "since": at})
