"""A large change by one action, and a large import. SCALE=1 is the full size; the default is a tenth of it."""

import json
import os
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings
from django.utils import timezone

from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Event, Membership, Organization
from demo.standin.standin import Standin
from demo.standin.state import StandinSchedule
from tasks import bulk
from tasks.models import BulkJob, Task
from tasks.schedules.settling import settle_pending
from tests.cast import Cast
from tests.client import with_key
from tests.tasks.test_bulk import browser as browser
from tests.tasks.test_bulk import make_tasks
from tests.tasks.test_import import FORMER_KEY, digest_of, former_tables

SCALE = float(os.environ.get("SCALE", "0.1"))
Record = Callable[[str, object], None]


@pytest.mark.slow
def test_three_thousand_tasks_are_paused_by_one_action(
    browser: Client, cast: Cast, trigger: Standin, record_property: Record
) -> None:
    """With the default number of calls a minute; a step of the worker takes a second. Each count is what is true."""
    count, shown = int(3000 * SCALE), list[bulk.Progress]()
    trigger.rate_limit = 0
    with time_machine.travel(timezone.now(), tick=False) as clock:
        with override_settings(TRIGGER_CALLS_PER_MINUTE=10**6, TASK_LIMIT=10**6):
            first, *_ = make_tasks(cast.alice, cast.artist, count)
        action = {"action": "pause", "select_across": "1", "_selected_action": [str(first.pk)], "number": str(count)}
        assert trigger.state.count_schedules() == count
        page = browser.post("/admin/tasks/task/", action, follow=True).content.decode()
        job = BulkJob.objects.get()
        assert f"In progress: 0 of {count} tasks" in page
        while bulk.step():
            clock.shift(1)
            progress = bulk.progress_of(job)
            assert progress.in_sync == paused_at(trigger)
            shown.append(progress)
        at_the_end = shown[-1].in_sync
        while Task.objects.unsettled().exists():
            clock.shift(61)
            settle_pending(limit=500)
        page = browser.get(f"/admin/tasks/bulkjob/{job.pk}/change/").content.decode()
    assert [progress.done for progress in shown] == [min(bulk.STEP * (n + 1), count) for n in range(len(shown))]
    final = f"{count} of {count} tasks: {count} done. {count} of {count} are so at Trigger.dev too."
    assert f"Finished: {final}" in page
    assert paused_at(trigger) == count
    last = f"{at_the_end} of {count} at Trigger.dev with the last step, {count} with the passes of the next minutes"
    record_property("bulk", f"{count} paused in {len(shown)} steps; {last}")


def paused_at(trigger: Standin) -> int:
    return sum(not schedule.active for schedule in trigger.state.schedules())


# Each kind of bad row, a hundredth of the good ones.
BAD_ROWS = {
    "accounts": ("null, 'x'", "'not a uuid', 'x'", "former.uuid_of(n), 'Again'"),
    "account_emails": (
        "null, 'x@example.com'",
        "former.uuid_of(-n), 'x@example.com'",
        "former.uuid_of(n), null",
        "former.uuid_of(n), 'nonsense'",
        "former.uuid_of(n), 'OWNER' || n || '@example.com'",
        "former.uuid_of(n), 'owner' || (n + 1) || '@example.com'",
    ),
    "account_organization_ids": (
        "former.uuid_of(n), null",
        "former.uuid_of(-n), former.uuid_of(1)",
        "former.uuid_of(n), former.uuid_of(-n)",
        "former.uuid_of(n), former.uuid_of(1)",
    ),
    "account_artist_ids": (
        "former.uuid_of(n), null, null",
        "former.uuid_of(n), former.uuid_of(-n), true",
        "former.uuid_of(n), former.uuid_of(n + 1), false",
    ),
    "artist_organization_ids": ("former.uuid_of(-n), former.uuid_of(1)", "former.uuid_of(n), former.uuid_of(1)"),
    "account_api_keys": (
        "former.uuid_of(-n), 'Agent', repeat('a', 64), null, null, null",
        "former.uuid_of(n), 'Agent', null, null, null, null",
        "former.uuid_of(n), 'Agent', 'plain', null, null, null",
    ),
    "scheduled_actions": (
        "null, 't', 'p', '0 9 * * *', former.uuid_of(1), former.uuid_of(2)",
        "gen_random_uuid()::text, 't', 'p', '0 9 * * *', former.uuid_of(-n), former.uuid_of(2)",
        "gen_random_uuid()::text, 't', 'p', '0 9 * * *', former.uuid_of(1), former.uuid_of(-n)",
        "gen_random_uuid()::text, 't', null, '0 9 * * *', former.uuid_of(1), former.uuid_of(2)",
        "gen_random_uuid()::text, 't', 'p', '@daily', former.uuid_of(1), former.uuid_of(2)",
        "gen_random_uuid()::text, 't', 'p', '0 9 * * *', former.uuid_of(1), null",
        "former.task_of(n), 'Again', 'p', '0 9 * * *', former.uuid_of(1), former.uuid_of(2)",
    ),
}
GOOD_ROWS = {
    "accounts": "former.uuid_of(n), 'Owner ' || n",
    "account_emails": "former.uuid_of(n), 'owner' || n || '@example.com'",
    "account_organization_ids": "former.uuid_of(n), former.uuid_of(1)",
    "account_artist_ids": "former.uuid_of(n), former.uuid_of(n + 1), n % 2 = 0",
    "artist_organization_ids": "former.uuid_of(n), former.uuid_of(1)",
    "account_api_keys": "former.uuid_of(n), 'Agent', encode(sha256(n::text::bytea), 'hex'), now(), null, 'infinity'",
}
TASK_ROWS = """former.task_of(n), 'Report ' || n, 'Write it.', '0 9 * * *', former.uuid_of(1 + n % {accounts}),
  former.uuid_of(1 + (n + 1) % {accounts}), n % 10 <> 0, null, 'sched_' || n, now() - interval '1 year', now()"""
FUNCTIONS = """
CREATE FUNCTION former.uuid_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
  AS $$ SELECT md5('account' || n)::uuid::text $$;
CREATE FUNCTION former.task_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
  AS $$ SELECT md5('task' || n)::uuid::text $$;
"""
MODELS = (Account, AccountEmail, Organization, Membership, ArtistLink, ApiKey, Task, Event)


def fill(accounts: int, tasks: int, each_bad: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(FUNCTIONS)
        # The artist of the last account is an account too.
        counts = {"accounts": accounts + 1, **dict.fromkeys(set(GOOD_ROWS) - {"accounts"}, accounts)}
        for table, values in GOOD_ROWS.items():
            cursor.execute(f"INSERT INTO former.{table} SELECT {values} FROM generate_series(1, {counts[table]}) n")  # noqa: S608
        row = TASK_ROWS.format(accounts=accounts)
        cursor.execute(f"INSERT INTO former.scheduled_actions SELECT {row} FROM generate_series(1, {tasks}) n")  # noqa: S608
        for table, kinds in BAD_ROWS.items():
            for values in kinds:
                cursor.execute(f"INSERT INTO former.{table} SELECT {values} FROM generate_series(1, {each_bad}) n")  # noqa: S608
        cursor.execute(
            "INSERT INTO former.account_api_keys VALUES (former.uuid_of(1), 'Old', %s, now(), null, null)",
            [digest_of(FORMER_KEY)],
        )


def make_schedules(trigger: Standin) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, schedule, enabled, trigger_schedule_id FROM former.scheduled_actions "
            "WHERE trigger_schedule_id IS NOT NULL"
        )
        for task_id, cron, is_enabled, schedule_id in cursor.fetchall():
            schedule = StandinSchedule(settings.TRIGGER_TASK_IDENTIFIER, cron, timezone.now().timestamp())
            schedule.id, schedule.timezone, schedule.active = schedule_id, "Europe/Paris", is_enabled
            schedule.external_id = schedule.key = task_id
            trigger.state.put_schedule(schedule)


def run_import(url: str, *options: str) -> Any:
    """It ends with status 1, since rows are left out."""
    output = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("import_recoup", url, "--json", *options, stdout=output)
    assert ended.value.code == 1
    return json.loads(output.getvalue())["counts"]


@pytest.mark.slow
def test_ten_thousand_accounts_and_twenty_thousand_tasks_are_imported(
    transactional_db: None, trigger: Standin, record_property: Record
) -> None:
    accounts, tasks, each_bad = int(10_000 * SCALE), int(20_000 * SCALE), int(100 * SCALE)
    with former_tables() as url:
        fill(accounts, tasks, each_bad)
        make_schedules(trigger)
        counts = run_import(url)
        imported = {table: found["imported"] for table, found in counts.items()}
        assert imported == {
            **{"accounts": accounts + 1, "account_emails": accounts, "organizations": 1},
            **{"account_organization_ids": accounts, "account_artist_ids": accounts},
            **{"artist_organization_ids": accounts, "account_api_keys": accounts + 1, "scheduled_actions": tasks},
        }
        for table, kinds in BAD_ROWS.items():
            assert sum(counts[table].values()) == imported[table] + each_bad * len(kinds)
        before = [model.objects.count() for model in MODELS]
        again = run_import(url)
        assert [model.objects.count() for model in MODELS] == before
        assert not any("imported" in found for found in again.values())
    shown = with_key(FORMER_KEY).get("/api/tasks").json()["tasks"]
    assert {task["timezone"] for task in shown} == {"Europe/Paris"}
    output = StringIO()
    call_command("sync_schedules", "--full", "--dry-run", stdout=output)
    record_property("import", f"{json.dumps(counts)}; again: {json.dumps(again)}; sync: {output.getvalue()}")
    assert "In sync" in output.getvalue()
