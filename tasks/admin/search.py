"""Searching tasks: each kind of text has its own index, so a million tasks are searched in a few short queries."""

from django.db.models import Q, QuerySet

from accounts.models import Account, AccountEmail, Membership
from core.text import parse_uuid
from tasks.models import Run, Task

# Of each kind. Who finds more searches for something longer.
MAX_FOUND = 500


def search(tasks: QuerySet[Task], text: str) -> tuple[QuerySet[Task], bool]:
    """By id, run id or schedule id; by e-mail; else by the title, or the name of owner, artist or organization.

    Also whether more may be found than is returned.
    """
    task_id = parse_uuid(text)
    if task_id is not None:
        return tasks.filter(Q(pk=task_id) | Q(account=task_id) | Q(artist_account=task_id)), False
    if text.startswith("run_"):
        return tasks.filter(pk__in=list(Run.objects.filter(pk=text).values_list("task", flat=True))), False
    if text.startswith("sched_"):
        return tasks.filter(trigger_schedule_id=text), False
    if "@" in text:
        accounts = list(AccountEmail.objects.with_address(text).values_list("account", flat=True))
        return tasks.filter(account__in=accounts), False
    return named(tasks, text)


def named(tasks: QuerySet[Task], text: str) -> tuple[QuerySet[Task], bool]:
    """The newest of each kind, of those that the filters let through."""
    accounts = list(Account.objects.filter(name__icontains=text).order_by().values_list("pk", flat=True)[:MAX_FOUND])
    members = Membership.objects.filter(organization__name__icontains=text).order_by()
    in_organizations = list(members.values_list("account", flat=True)[:MAX_FOUND])
    rows = tasks.order_by("-created_at", "-pk")
    parts = (
        rows.filter(title__icontains=text),
        rows.filter(account__in=[*accounts, *in_organizations]),
        rows.filter(artist_account__in=accounts),
    )
    found = [list(part.values_list("pk", flat=True)[:MAX_FOUND]) for part in parts]
    is_cut = any(len(part) == MAX_FOUND for part in (accounts, in_organizations, *found))
    return tasks.filter(pk__in=[pk for part in found for pk in part]), is_cut
