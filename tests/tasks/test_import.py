"""import_recoup: the former service is brought over, bad rows are named, and importing again changes nothing."""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Event, Membership, Organization
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinSchedule
from tasks.importing import TABLES, Importer, Report
from tasks.models import Task
from tests.cast import TESTER
from tests.client import with_key

ALICE, ARTIST, LABEL, TASK, NOBODY = (uuid4() for _ in range(5))
FORMER_KEY = "recoup_sk_an_old_key_of_the_former_service"
CREATED = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "id": TASK,
    "title": "Weekly report",
    "prompt": "Write it.",
    "schedule": "0 9 * * 1",
    "account_id": ALICE,
    "artist_account_id": ARTIST,
    "enabled": True,
    "model": None,
    "trigger_schedule_id": "sched_old",
    "created_at": CREATED,
    "updated_at": CREATED + timedelta(days=1),
}


def digest_of(key: str) -> str:
    return hmac.new(settings.API_KEY_SECRET.encode(), key.encode(), hashlib.sha256).hexdigest()


def rows() -> dict[str, list[dict[str, Any]]]:
    """A small installation without a fault."""
    key = {"account": ALICE, "name": "Agent", "key_hash": digest_of(FORMER_KEY), "created_at": CREATED}
    return {
        "accounts": [{"id": ALICE, "name": "Alice"}, {"id": ARTIST, "name": "Artist"}, {"id": LABEL, "name": "Label"}],
        "account_emails": [{"account_id": ALICE, "email": "Alice@Example.com"}],
        "account_organization_ids": [{"account_id": ALICE, "organization_id": LABEL}],
        "account_artist_ids": [{"account_id": ALICE, "artist_id": ARTIST, "pinned": True}],
        "artist_organization_ids": [{"artist_id": ARTIST, "organization_id": LABEL}],
        "account_api_keys": [{**key, "last_used": None, "expires_at": None}],
        "scheduled_actions": [dict(GOOD)],
    }


def do_import(source: Mapping[str, Sequence[Mapping[str, Any]]], **zones: str) -> Report:
    """In batches of two."""

    def batches(table: str, columns: Sequence[str]) -> Any:
        found = source[table]
        assert all(set(row) == set(columns) for row in found)
        return [found[start : start + 2] for start in range(0, len(found), 2)]

    return Importer(batches, zones, TESTER, timezone.now()).run()


def test_an_installation_is_brought_over_and_an_old_key_works(db: None, trigger: Standin) -> None:
    report = do_import(rows(), sched_old="Europe/Paris")
    assert report.examples == {}
    task = Task.objects.get()
    assert (task.pk, task.timezone, task.created_at, task.updated_at) == (
        TASK,
        "Europe/Paris",
        CREATED,
        GOOD["updated_at"],
    )
    assert (task.trigger_schedule_id, task.sync_status) == ("sched_old", "in_sync")
    assert ApiKey.objects.get().created_at == CREATED
    api = with_key(FORMER_KEY)
    shown = api.get("/api/tasks").json()["tasks"][0]
    assert (shown["owner_email"], shown["artist_name"], len(shown["upcoming"])) == ("Alice@Example.com", "Artist", 10)
    assert {"Alice", "Artist"} <= {artist["name"] for artist in api.get("/api/artists").json()["artists"]}
    kinds = set(Event.objects.values_list("target_kind", flat=True))
    assert kinds == {"account", "account_email", "organization", "membership", "artist_link", "api_key", "task"}


def test_a_second_import_changes_nothing_and_keeps_what_was_changed_here(db: None) -> None:
    do_import(rows(), sched_old="UTC")
    Task.objects.update(title="Renamed here")
    models = (Account, AccountEmail, Organization, Membership, ArtistLink, ApiKey, Task, Event)
    before = [model.objects.count() for model in models]
    report = do_import(rows(), sched_old="UTC")
    assert [model.objects.count() for model in models] == before
    assert all(set(counted) == {"here already"} for table, counted in report.counts.items())
    assert Task.objects.get().title == "Renamed here"


def test_a_task_without_a_schedule_is_pending_and_gets_one(db: None, trigger: Standin) -> None:
    source = rows()
    source["scheduled_actions"][0]["trigger_schedule_id"] = None
    do_import(source)
    assert Task.objects.get().sync_status == "pending"
    call_command("sync_schedules", stdout=StringIO())
    assert trigger.state.count_schedules() == 1


BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "accounts": [
        ({"id": None, "name": "x"}, "no id"),
        ({"id": "not a uuid", "name": "x"}, "no id"),
        ({"id": ALICE, "name": "Alice again"}, "duplicated"),
    ],
    "account_emails": [
        ({"account_id": None, "email": "x@example.com"}, "no account_id"),
        ({"account_id": NOBODY, "email": "x@example.com"}, "no such account"),
        ({"account_id": ALICE, "email": None}, "no e-mail address"),
        ({"account_id": ALICE, "email": "nonsense"}, "no e-mail address"),
        ({"account_id": ARTIST, "email": "ALICE@example.com"}, "the address belongs to another account"),
        ({"account_id": ALICE, "email": "alice@example.com"}, "duplicated"),
    ],
    "account_organization_ids": [
        ({"account_id": ALICE, "organization_id": None}, "no organization_id"),
        ({"account_id": NOBODY, "organization_id": LABEL}, "no such account"),
        ({"account_id": ALICE, "organization_id": NOBODY}, "no such organization"),
        ({"account_id": ALICE, "organization_id": LABEL}, "duplicated"),
    ],
    "account_artist_ids": [
        ({"account_id": ALICE, "artist_id": None, "pinned": None}, "no artist_id"),
        ({"account_id": ALICE, "artist_id": NOBODY, "pinned": None}, "no such account"),
        ({"account_id": ALICE, "artist_id": ARTIST, "pinned": None}, "duplicated"),
    ],
    "artist_organization_ids": [
        ({"artist_id": NOBODY, "organization_id": LABEL}, "no such account"),
        ({"artist_id": ARTIST, "organization_id": LABEL}, "duplicated"),
    ],
    "account_api_keys": [
        ({"account": NOBODY, "key_hash": "a" * 64}, "no such account"),
        ({"account": ALICE, "key_hash": None}, "no HMAC-SHA256 in hex"),
        ({"account": ALICE, "key_hash": "plain"}, "no HMAC-SHA256 in hex"),
    ],
    "scheduled_actions": [
        ({**GOOD, "id": None}, "no id"),
        ({**GOOD, "id": uuid4(), "account_id": NOBODY}, "no such account"),
        ({**GOOD, "id": uuid4(), "artist_account_id": NOBODY}, "no such artist"),
        ({**GOOD, "id": uuid4(), "artist_account_id": None}, "no artist_account_id"),
        ({**GOOD, "id": uuid4(), "prompt": None}, "no prompt"),
        ({**GOOD, "id": uuid4(), "schedule": "@daily"}, "no valid cron expression"),
        ({**GOOD, "id": uuid4(), "schedule": None}, "no valid cron expression"),
        (GOOD, "duplicated"),
    ],
}
CASES = [(table, row, outcome) for table, cases in BAD.items() for row, outcome in cases]


@pytest.mark.parametrize(("table", "row", "outcome"), CASES, ids=[f"{case[0]}, {case[2]}" for case in CASES])
def test_a_bad_row_is_counted_and_named_and_stops_nothing(
    db: None, table: str, row: Mapping[str, Any], outcome: str
) -> None:
    source = rows()
    source[table].append({**dict.fromkeys(TABLES[table]), **row})
    report = do_import(source)
    assert report.counts[table][outcome] == 1
    assert report.examples[table, outcome]
    assert (Task.objects.count(), AccountEmail.objects.count(), Membership.objects.count()) == (1, 1, 1)


def test_odd_values_are_made_storable(db: None) -> None:
    source = rows()
    source["accounts"][1]["name"] = None
    odd = {"title": "", "prompt": "Write\x00 it", "model": "", "enabled": None, "created_at": None, "updated_at": None}
    source["scheduled_actions"][0] |= {**odd, "trigger_schedule_id": ""}
    assert do_import(source).examples == {}
    task = Task.objects.get()
    values = (task.title, task.prompt, task.model, task.enabled, task.timezone, task.artist_account.name)
    assert values == ("Unnamed", "Write it", None, None, "UTC", "Unnamed")


@pytest.mark.parametrize("zones", [{}, {"sched_old": "Mars/Olympus"}])
def test_a_task_whose_time_zone_is_unknown_is_paused_and_named(db: None, zones: dict[str, str]) -> None:
    report = do_import(rows(), **zones)
    assert report.examples == {("schedules", "unknown at Trigger.dev, so the task is paused and in UTC"): [str(TASK)]}
    task = Task.objects.get()
    assert (task.enabled, task.timezone, task.trigger_schedule_id, task.synced_generation) == (False, "UTC", None, 0)


def test_a_text_that_is_too_long_is_named(db: None) -> None:
    source = rows()
    source["scheduled_actions"][0]["title"] = "x" * 501
    source["scheduled_actions"].append({**GOOD, "id": uuid4(), "prompt": "x" * 50_001})
    report = do_import(source, sched_old="UTC")
    outcomes = {outcome for _, outcome in report.examples}
    assert outcomes == {"a title was cut after 500 characters", "the prompt is longer than 50000 characters"}


def test_no_digest_of_a_key_is_printed(db: None) -> None:
    source = rows()
    source["account_api_keys"] *= 2
    assert do_import(source, sched_old="UTC").examples == {("account_api_keys", "duplicated"): ["Agent"]}


def test_two_tasks_with_one_schedule_do_not_share_it(db: None) -> None:
    source = rows()
    source["scheduled_actions"].append({**GOOD, "id": uuid4()})
    report = do_import(source, sched_old="UTC")
    assert report.counts["schedules"]["the schedule belongs to another task"] == 1
    assert sorted(Task.objects.values_list("trigger_schedule_id", "synced_generation"), key=str) == [
        ("sched_old", 1),
        (None, 0),
    ]


# --- The command -----------------------------------------------------------------------------------------------------


def forever(row: Mapping[str, Any]) -> dict[str, str]:
    """A time that PostgreSQL has and Python has not."""
    return {"expires_at": "infinity"} if "expires_at" in row else {}


@contextmanager
def former_tables() -> Iterator[str]:
    """The empty tables of the former service, in a schema of the test's own PostgreSQL. Their address."""
    if connection.vendor != "postgresql":
        pytest.skip("The source of an import is PostgreSQL.")
    types = {"enabled": "boolean", "pinned": "boolean"} | dict.fromkeys(
        ("created_at", "updated_at", "last_used", "expires_at"), "timestamptz"
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA former")
        for table, columns in TABLES.items():
            declared = ", ".join(f'"{name}" {types.get(name, "text")}' for name in columns)
            cursor.execute(f'CREATE TABLE former."{table}" ({declared})')
    yield (
        "postgresql://{USER}@{HOST}:{PORT}/{NAME}".format(**connection.settings_dict)
        + "?options=-csearch_path%3Dformer"
    )
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA former CASCADE")


@pytest.fixture
def source_url(transactional_db: None) -> Iterator[str]:
    with former_tables() as url:
        with connection.cursor() as cursor:
            for table, columns in TABLES.items():
                for row in [{**row, **forever(row)} for row in rows()[table]]:
                    places = ", ".join(["%s"] * len(columns))
                    values = [str(row[name]) if isinstance(row[name], UUID) else row[name] for name in columns]
                    cursor.execute(f'INSERT INTO former."{table}" VALUES ({places})', values)  # noqa: S608
        yield url


def run_import(url: str, *options: str) -> Any:
    output = StringIO()
    call_command("import_recoup", url, "--json", *options, stdout=output)
    return json.loads(output.getvalue())


def test_the_command_reads_postgresql_and_takes_time_zones_from_trigger(source_url: str, trigger: Standin) -> None:
    schedule = StandinSchedule(settings.TRIGGER_TASK_IDENTIFIER, GOOD["schedule"], timezone.now().timestamp())
    schedule.timezone, schedule.id = "America/New_York", "sched_old"
    schedule.external_id = schedule.key = str(TASK)
    trigger.state.put_schedule(schedule)
    dry = run_import(source_url, "--dry-run")
    assert (dry["counts"]["scheduled_actions"], Task.objects.count()) == ({"imported": 1}, 0)
    assert run_import(source_url)["counts"] == {**dry["counts"]}
    assert Task.objects.get().timezone == "America/New_York"
    output = StringIO()
    call_command("sync_schedules", "--full", "--dry-run", stdout=output)
    assert "In sync" in output.getvalue()


def test_without_trigger_nothing_is_imported(db: None, trigger: Standin) -> None:
    trigger.faults.add(Fault("status", status=401))
    with pytest.raises(CommandError, match="time zones of the schedules cannot be read"):
        call_command("import_recoup", "postgresql://nobody@127.0.0.1:1/nothing")


def test_a_source_that_cannot_be_read_is_one_sentence_without_its_password(db: None, trigger: Standin) -> None:
    with pytest.raises(CommandError) as error:
        call_command("import_recoup", "postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert str(error.value) == "The source cannot be read: OperationalError."
