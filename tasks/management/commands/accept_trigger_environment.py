"""Accepts the current TRIGGER_SECRET_KEY and TRIGGER_NAMESPACE for this database."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from tasks.gateway.environment import accept_environment


class Command(BaseCommand):
    help = "Use this database with the current TRIGGER_SECRET_KEY and TRIGGER_NAMESPACE from now on."

    def handle(self, *args: Any, **options: Any) -> None:
        accept_environment(at=timezone.now())
        self.stdout.write("Accepted. Schedules are kept in this Trigger.dev environment from now on.")
