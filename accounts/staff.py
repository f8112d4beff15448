"""Who may log in to the admin site: Django's users, but the demo's only beside a local Trigger.dev."""

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend

DEMO_NAME = "demo"
DEMO_PASSWORD = "demo"  # noqa: S105  public, which is why it works on one machine only


class StaffBackend(ModelBackend):
    def user_can_authenticate(self, user: Any) -> bool:
        """Asked at every request too, so that a session of the demo's user ends where the demo does."""
        is_demo = user is not None and user.get_username() == DEMO_NAME
        return super().user_can_authenticate(user) and (settings.TRIGGER_IS_LOCAL or not is_demo)
