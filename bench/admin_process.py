"""Measures the admin's list of tasks at a million tasks on PostgreSQL: the seconds and queries of each page.

Run it with `DATABASE_URL=postgres://... python -m bench.admin_process`. It fills a test database of its own.
"""

import statistics
import time
from datetime import timedelta

from bench import growth_process
from bench.growth import LARGE

# Django is set up by the import above.
from django.contrib.auth import get_user_model  # isort: skip
from django.core.management import call_command  # isort: skip
from django.db import connection  # isort: skip
from django.test import Client  # isort: skip
from django.test.utils import CaptureQueriesContext  # isort: skip
from django.utils import timezone  # isort: skip
from rich.console import Console  # isort: skip
from rich.table import Table  # isort: skip

from accounts.models import Account, AccountEmail, Membership, Organization  # isort: skip
from tasks.models import Task  # isort: skip

REPEAT = 5
ACCOUNTS, ORGANIZATIONS = 20_000, 200
# One task in a hundred has failed, one in ten thousand is refused or pending.
TASKS = """
INSERT INTO tasks_task (id, title, prompt, schedule, timezone, account_id, artist_account_id, enabled, created_at,
  updated_at, fire_periods, recent_runs, last_run_status, trigger_schedule_id, generation, synced_generation,
  refused_generation, sync_error)
SELECT gen_random_uuid(), 'Report ' || substr(md5(n::text), 1, 12) || ' of week ' || n %% 52,
  repeat('List what is new. ', 20), '0 9 * * *', 'UTC', accounts.ids[1 + n %% array_length(accounts.ids, 1)],
  accounts.ids[1 + (n * 7) %% array_length(accounts.ids, 1)], n %% 10 <> 0, %(now)s - n * interval '1 second',
  %(now)s - interval '1 day', '[]', '', CASE WHEN n %% 100 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, 'sched_' || n, 1,
  CASE WHEN n %% 10000 < 2 THEN 0 ELSE 1 END, CASE WHEN n %% 10000 = 0 THEN 1 END, ''
FROM generate_series(1, %(count)s) AS n, (SELECT array_agg(id) AS ids FROM accounts_account) AS accounts
"""


def fill() -> None:
    organizations = Organization.objects.bulk_create(Organization(name=f"Label {n}") for n in range(ORGANIZATIONS))
    accounts = Account.objects.bulk_create(Account(name=f"Owner {number:05d}") for number in range(ACCOUNTS))
    AccountEmail.objects.bulk_create(
        AccountEmail(account=account, email=f"owner{number:05d}@example.org", is_primary=True)
        for number, account in enumerate(accounts)
    )
    Membership.objects.bulk_create(
        Membership(account=account, organization=organizations[number % ORGANIZATIONS])
        for number, account in enumerate(accounts)
    )
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(TASKS, {"now": timezone.now(), "count": LARGE})
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("RESET statement_timeout")


def pages() -> dict[str, str]:
    task = Task.objects.order_by("created_at")[LARGE // 2]
    account, organization = task.account, task.account.memberships.get().organization
    page = "/admin/tasks/task/?"
    return {
        "index": "/admin/",
        "first page": page,
        "page 100": f"{page}p=100",
        "failed": f"{page}last=failed",
        "never ran": f"{page}last=never",
        "missed": f"{page}last=missed",
        "paused": f"{page}state=paused",
        "refused": f"{page}sync=refused",
        "pending": f"{page}sync=pending",
        "in sync": f"{page}sync=in_sync",
        "deleted": f"{page}deleted=yes",
        "of an account": f"{page}account__id__exact={account.pk}",
        "of an organization": f"{page}account__memberships__organization__id__exact={organization.pk}",
        "search: a title that one task has": f"{page}q={task.title.split()[1]}",
        "search: a title that many have": f"{page}q=week 7",
        "search: no task has it": f"{page}q=nobody has this title",
        "search: two letters": f"{page}q=ab",
        "search: owner": f"{page}q={account.name}",
        "search: organization": f"{page}q={organization.name}",
        "search: e-mail": f"{page}q={task.account.emails.get().email}",
        "search: task id": f"{page}q={task.pk}",
        "search: schedule id": f"{page}q={task.trigger_schedule_id}",
        "search: failed ones of a title": f"{page}last=failed&q=week 7",
        "page of a task": f"/admin/tasks/task/{task.pk}/change/",
    }


def measure() -> None:
    staff = get_user_model().objects.create_superuser("bench", password="")
    browser = Client()
    browser.force_login(staff)
    table = Table("page", "queries", "median", "slowest", title=f"The admin site at {LARGE:,} tasks, PostgreSQL")
    for name, path in pages().items():
        seconds, count = [], 0
        for _ in range(REPEAT):
            with CaptureQueriesContext(connection) as queries:
                started_at = time.perf_counter()
                response = browser.get(path)
                seconds.append(time.perf_counter() - started_at)
            count = len(queries)
        text = f"{count}" if response.status_code == 200 else f"{count} ({response.status_code})"
        table.add_row(name, text, f"{statistics.median(seconds):.3f} s", f"{max(seconds):.3f} s")
    Console(width=120).print(table)


def main() -> None:
    with growth_process.test_database():
        call_command("migrate", verbosity=0)
        started_at = time.perf_counter()
        fill()
        Console().print(f"Filled in {timedelta(seconds=time.perf_counter() - started_at)}.")
        measure()


if __name__ == "__main__":
    main()
