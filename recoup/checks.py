"""`manage.py check`: unsafe settings; with `--deploy` also a Trigger.dev environment that nobody has accepted."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import Error as DatabaseError

from recoup.safety import problems
from tasks.gateway.environment import environment_problem


@register(Tags.security)
def unsafe_settings(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    return [Error(problem.what, hint=problem.to_do, id=problem.id) for problem in problems(settings)]


@register(Tags.security, deploy=True)
def trigger_environment(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """Nothing is written to Trigger.dev until it is accepted. Before the first migration there is nothing to say."""
    try:
        problem = environment_problem()
    except DatabaseError:
        return []
    return [Warning(problem, id="recoup.W001")] if problem else []
