"""Whose schedules these are: a database belongs to one Trigger.dev environment and namespace.

Keys of schedules are per Trigger.dev project, so that a staging copy of a production database would take over its
schedules. A key that is not a production's therefore needs a namespace, and a change of key or namespace is refused
until somebody accepts it.
"""

from datetime import datetime

from django.conf import settings

from core import digests
from tasks.models import TriggerBinding


class NotOurEnvironment(Exception):
    """Trigger.dev's project or namespace is another one than the database was last used with"""


def check_environment(*, at: datetime) -> None:
    """Raises NotOurEnvironment with what to do; the first use binds the database."""
    used = digests.fingerprint(f"{settings.TRIGGER_NAMESPACE} {settings.TRIGGER_SECRET_KEY}")
    if not settings.TRIGGER_SECRET_KEY.startswith("tr_prod_") and not settings.TRIGGER_NAMESPACE:
        raise NotOurEnvironment("TRIGGER_SECRET_KEY is not a tr_prod_ one, so TRIGGER_NAMESPACE must be set")
    bound, _ = TriggerBinding.objects.get_or_create(pk=1, defaults={"fingerprint": used, "since": at})
    if bound.fingerprint != used:
        raise NotOurEnvironment(
            "TRIGGER_SECRET_KEY or TRIGGER_NAMESPACE is not the one that this database was last used with. "
            "If that is meant: manage.py accept_trigger_environment"
        )


def accept_environment(*, at: datetime) -> None:
    used = digests.fingerprint(f"{settings.TRIGGER_NAMESPACE} {settings.TRIGGER_SECRET_KEY}")
    TriggerBinding.objects.update_or_create(pk=1, defaults={"fingerprint": used, "since": at})
