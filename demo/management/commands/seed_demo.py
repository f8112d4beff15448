"""Fills the database and the stand-in for Trigger.dev with people, artists, tasks and runs of music labels.

Every object has a fixed id, so seeding again adds only the runs that have become due since the last time.
"""

import hashlib
import json
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accounts import staff
from accounts.credentials import api_keys
from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Membership, Organization
from demo.data import ADMIN_ORGANIZATION, ARTISTS, ORGANIZATIONS, PEOPLE, RUN_IDS, TASKS, DemoTask, id_of, upstream_id
from demo.standin.run_json import iso_timestamp
from demo.standin.schedules import next_fire
from demo.standin.state import StandinRun, StandinSchedule, State
from tasks import cron
from tasks.cron.expressions import parse
from tasks.cron.fire_times import times
from tasks.models import Task


class Command(BaseCommand):
    help = (
        "Add the people, tasks and runs of the demo. Refused with a real Trigger.dev, because the demo keys are public."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print ids and keys as JSON, for scripts")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_real_trigger()
        now = timezone.now()
        with transaction.atomic():
            seed_staff()
            seed_people()
            for task in TASKS:
                seed_task(task, at=now)
        state = State(settings.STANDIN_FOLDER)
        for task in TASKS:
            seed_schedule(state, task, at=now)
        remove_if_ended(state, RUN_IDS["video in the making"])
        for run in [run for task in TASKS if task.has_run for run in scheduled_runs(task, at=now)] + content_runs(
            at=now
        ):
            state.add_run(run)
        state.close()
        self.stdout.write(json.dumps(ids_and_keys(), indent=2) if options["json"] else "Demo data added.")


def refuse_real_trigger() -> None:
    if not settings.IS_DEVELOPMENT:
        raise CommandError(
            f"The demo's keys are public, and TRIGGER_API_URL is {settings.TRIGGER_API_URL}. "
            "Unset it to use the stand-in on this machine."
        )


def ids_and_keys() -> dict[str, Any]:
    return {
        "accounts": {person: {"id": str(id_of(person)), "api_key": api_keys.demo_key(person)} for person in PEOPLE},
        "artists": {artist: str(id_of(artist)) for artist in ARTISTS},
        "organizations": {organization: str(id_of(organization)) for organization in ORGANIZATIONS},
        "tasks": {task.title: str(id_of(task.title)) for task in TASKS},
        "runs": RUN_IDS,
    }


def seed_staff() -> None:
    """The user of the admin site. `accounts.staff` lets this user log in only with a local Trigger.dev."""
    users = get_user_model().objects
    if not users.filter(username=staff.DEMO_NAME).exists():
        users.create_superuser(staff.DEMO_NAME, password=staff.DEMO_PASSWORD)


def seed_people() -> None:
    for name, members in ORGANIZATIONS.items():
        organization, _ = Organization.objects.update_or_create(
            id=id_of(name), defaults={"name": name, "grants_admin": name == ADMIN_ORGANIZATION}
        )
        for person in members:
            seed_person(person, organization)
    for artist, label in ARTISTS.items():
        account, _ = Account.objects.update_or_create(id=id_of(artist), defaults={"name": artist})
        ArtistLink.objects.get_or_create(artist_account=account, organization_id=id_of(label))


def seed_person(person: str, organization: Organization) -> None:
    name, email = PEOPLE[person]
    account, _ = Account.objects.update_or_create(id=id_of(person), defaults={"name": name})
    AccountEmail.objects.get_or_create(email=email, defaults={"account": account})
    Membership.objects.get_or_create(account=account, organization=organization)
    key = api_keys.demo_key(person)
    ApiKey.objects.get_or_create(
        digest=api_keys.digest(key, secret=settings.API_KEY_SECRET),
        defaults={"account": account, "name": "Demo", "prefix": api_keys.prefix_of(key)},
    )


def seed_task(task: DemoTask, *, at: datetime) -> None:
    """Creates the task. An existing task is not changed, because a user of the demo may have edited it."""
    created = at - timedelta(days=210 - TASKS.index(task))
    Task.objects.get_or_create(
        id=id_of(task.title),
        defaults={
            "title": task.title,
            "prompt": task.prompt,
            "schedule": task.schedule,
            "timezone": task.timezone,
            "account_id": id_of(task.owner),
            "artist_account_id": id_of(task.artist),
            "enabled": task.enabled,
            "created_at": created,
            "schedule_changed_at": created,
            "trigger_schedule_id": schedule_id(task),
            "synced_generation": 1,
        },
    )


def schedule_id(task: DemoTask) -> str:
    return upstream_id("sched_", task.title, 21)


def seed_schedule(state: State, task: DemoTask, *, at: datetime) -> None:
    """Creates the schedule of a task. Schedules that exist, and schedules of deleted tasks, are left unchanged."""
    if state.schedule(schedule_id(task)) or not Task.objects.living().filter(pk=id_of(task.title)).exists():
        return
    schedule = StandinSchedule(
        task=settings.TRIGGER_TASK_IDENTIFIER,
        cron=task.schedule,
        created=at.timestamp(),
        id=schedule_id(task),
        key=f"{settings.TRIGGER_NAMESPACE}{id_of(task.title)}",
        external_id=str(id_of(task.title)),
        timezone=task.timezone,
        active=task.enabled is not False,
    )
    schedule.next_fire = next_fire(schedule, now=at.timestamp())
    state.put_schedule(schedule)


def scheduled_runs(task: DemoTask, *, at: datetime) -> Iterator[StandinRun]:
    """The last eight runs that were due before `at`. A paused task has not run for three weeks."""
    end = at if task.enabled is not False else at - timedelta(days=21)
    expression, zone = parse(task.schedule), ZoneInfo(task.timezone)
    fired = list(takewhile(lambda due: due < end, times(expression, zone, after=end - timedelta(days=180))))[-8:]
    for previous, due in zip([None, *fired], fired, strict=False):
        yield scheduled_run(task, due, previous)


def scheduled_run(task: DemoTask, due: datetime, previous: datetime | None) -> StandinRun:
    task_id = str(id_of(task.title))
    fails = int(hashlib.sha256(f"{task.title} {due}".encode()).hexdigest(), 16) % 7 == 0
    return StandinRun(
        id=upstream_id("run_c", f"{task.title} {due}", 24),
        task=settings.TRIGGER_TASK_IDENTIFIER,
        created=due.timestamp(),
        ends_after=44,
        kind="SCHEDULED",
        ends_as="COMPLETED_WITH_ERRORS" if fails else "COMPLETED_SUCCESSFULLY",
        error={"name": "Error", "message": "The model did not answer in time", "stackTrace": "Error: timed out"},
        has_output=True,
        output={"text": f"{task.title}: done, and mailed to {PEOPLE[task.owner][1]}."},
        schedule={
            "id": schedule_id(task),
            "externalId": task_id,
            "deduplicationKey": task_id,
            "generator": {"type": "CRON", "expression": task.schedule, "description": ""},
        },
        payload={
            "scheduleId": schedule_id(task),
            "type": "IMPERATIVE",
            "timestamp": iso_timestamp(due.timestamp()),
            "lastTimestamp": iso_timestamp(previous.timestamp()) if previous else None,
            "externalId": task_id,
            "timezone": task.timezone,
            "upcoming": [
                iso_timestamp(time.timestamp()) for time in cron.next_times(task.schedule, task.timezone, after=due)
            ],
        },
    )


def remove_if_ended(state: State, run_id: str) -> None:
    """Removes the run, so that each start of the demo has a run that is still executing."""
    run = state.run(run_id)
    if run and run.created + run.ends_after < state.now:
        state.remove_run(run_id)


def content_runs(*, at: datetime) -> list[StandinRun]:
    """Runs that agents started without a schedule. They carry the tag of their account."""
    alice, charlie = f"account:{id_of('alice')}", f"account:{id_of('charlie')}"
    earlier = datetime(at.year, at.month, at.day, tzinfo=UTC).timestamp() - 20 * 3600
    video = {
        "videoSourceUrl": "https://media.example/videos/paper-lanterns.mp4",
        "imageUrl": "https://media.example/images/paper-lanterns.jpg",
        "captionText": "we kept the lights on",
        "template": "artist-caption-bedroom",
        "lipsync": False,
    }
    missing_song = {"name": "Error", "message": "No song was found for the artist", "stackTrace": "Error: no song"}
    task = "create-content"
    batch = RUN_IDS["batch"]
    return [
        StandinRun(
            task, earlier, RUN_IDS["finished video"], tags=[alice], has_output=True, output=video, ends_after=95
        ),
        StandinRun(
            task,
            earlier + 600,
            RUN_IDS["failed video"],
            tags=[alice],
            ends_as="COMPLETED_WITH_ERRORS",
            error=missing_song,
        ),
        StandinRun(
            task,
            at.timestamp(),
            RUN_IDS["video in the making"],
            starts_after=20,
            ends_after=120,
            tags=[alice],
            has_output=True,
            output=video,
        ),
        StandinRun("setup-sandbox", earlier + 1200, RUN_IDS["sandbox"], tags=[charlie], has_output=True, output=None),
        StandinRun("run-batch", earlier + 1800, batch, tags=[alice], has_output=True, output="2 videos were made."),
        StandinRun(
            task, earlier + 1801, upstream_id("run_c", "child", 24), tags=[alice], parent_id=batch, root_id=batch
        ),
        StandinRun(
            task, earlier + 1801, RUN_IDS["batch child of charlie"], tags=[charlie], parent_id=batch, root_id=batch
        ),
    ]
