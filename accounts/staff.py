"""Who may log in to the admin site: Django users. The demo's user only with a Trigger.dev on this machine."""

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend

DEMO_NAME = "demo"
DEMO_PASSWORD = "demo"  # noqa: S105  public, so it only works on this machine


class StaffBackend(ModelBackend):
    def user_can_authenticate(self, user: Any) -> bool:
        """Django calls this at every request, so a session of the demo's user ends with the demo."""
        is_demo = user is not None and user.get_username() == DEMO_NAME
        return super().user_can_authenticate(user) and (settings.IS_DEVELOPMENT or not is_demo)
