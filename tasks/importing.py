"""Bringing over an installation of the service that this one replaces: its tables, row by row, into ours.

The source is only read. A row that exists here already stays as it is, so an import can be repeated. A row that cannot
be imported is counted and named, and stops nothing. Writes are batched, and Trigger.dev is not called.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Lower

from accounts.events import CREATED, Actor, kind_of, snapshot
from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Event, Membership, Organization
from core.text import is_email, is_storable, parse_uuid
from tasks import cron
from tasks.cron import calendar, zones
from tasks.limits import MAX_PROMPT, MAX_TITLE
from tasks.models import Task
from tasks.runs import task_polls

Row = Mapping[str, Any]
# A table and its columns -> batches of rows.
Source = Callable[[str, Sequence[str]], Iterable[Sequence[Row]]]

TABLES: Mapping[str, Sequence[str]] = {
    "accounts": ("id", "name"),
    "account_emails": ("account_id", "email"),
    "account_organization_ids": ("account_id", "organization_id"),
    "account_artist_ids": ("account_id", "artist_id", "pinned"),
    "artist_organization_ids": ("artist_id", "organization_id"),
    "account_api_keys": ("account", "name", "key_hash", "created_at", "last_used", "expires_at"),
    "scheduled_actions": (
        *("id", "title", "prompt", "schedule", "account_id", "artist_account_id", "enabled", "model"),
        *("trigger_schedule_id", "created_at", "updated_at"),
    ),
}
IMPORTED, HERE, DUPLICATED = "imported", "here already", "duplicated"
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
UNNAMED, KEY_PREFIX = "Unnamed", "imported"
# Of each kind of problem.
MAX_EXAMPLES = 5


@dataclass
class Report:
    """By table: how many rows had which outcome, and examples of those that were not imported."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, table: str, outcome: str, name: object) -> None:
        self.counts.setdefault(table, Counter())[outcome] += 1
        if outcome not in (IMPORTED, HERE):
            examples = self.examples.setdefault((table, outcome), [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(str(name)[:100])

    def imported(self, table: str) -> int:
        return self.counts.get(table, Counter())[IMPORTED]


@dataclass
class Importer:
    """`zones`: the time zone of each schedule at Trigger.dev, by its id."""

    source: Source
    zones: Mapping[str, str]
    actor: Actor
    at: datetime
    on_progress: Callable[[str, int], None] = lambda table, count: None
    report: Report = field(default_factory=Report)
    seen: set[Any] = field(default_factory=set)

    def run(self) -> Report:
        for table, columns in TABLES.items():
            self.seen.clear()
            self.report.counts.setdefault(table, Counter())
            for batch in self.source(table, columns):
                with transaction.atomic():
                    HANDLERS[table](self, table, batch)
                self.on_progress(table, sum(self.report.counts[table].values()))
        return self.report

    # --- What the tables share ---

    def is_new(self, table: str, key: Any, here: set[Any], *, name: str = "") -> bool:
        """Counts a row that is here, or was in this import, already. `name`: where the key is a secret."""
        if key in self.seen:
            self.report.add(table, DUPLICATED, name or key)
            return False
        self.seen.add(key)
        if key in here:
            self.report.add(table, HERE, name or key)
        return key not in here

    def ids(self, table: str, row: Row, *names: str) -> list[UUID] | None:
        """The ids in these columns; None, and counted, where one is missing."""
        found = [parse_uuid(str(row[name])) if row[name] is not None else None for name in names]
        for name, value in zip(names, found, strict=True):
            if value is None:
                self.report.add(table, f"no {name}", dict(row).get("id") or row[names[0]])
                return None
        return [value for value in found if value is not None]

    def save(self, table: str, rows: Sequence[Any]) -> None:
        """All of them, each with an event."""
        if not rows:
            return
        model = type(rows[0])
        model.objects.bulk_create(rows)
        for row in rows:
            self.report.add(table, IMPORTED, row.pk)
        Event.objects.bulk_create([self.event_of(row) for row in rows])

    def event_of(self, row: Any) -> Event:
        account_id = row.pk if isinstance(row, Account) else getattr(row, "account_id", None)
        return Event(
            at=self.at,
            target_kind=kind_of(type(row)),
            target_id=str(row.pk),
            account_id=account_id,
            action=CREATED,
            actor_kind=self.actor.kind,
            actor_id=self.actor.id,
            via=self.actor.via,
            after=snapshot(row),
            reason="Imported",
        )

    def accounts_here(self, ids: Iterable[UUID]) -> set[UUID]:
        return set(Account.objects.filter(pk__in=set(ids)).values_list("pk", flat=True))

    def make_organizations(self, ids: Iterable[UUID]) -> set[UUID]:
        """In the former service an organization is an account; here it is a row of its own, with the same id."""
        wanted = set(ids)
        here = set(Organization.objects.filter(pk__in=wanted).values_list("pk", flat=True))
        named = Account.objects.filter(pk__in=wanted - here).values_list("pk", "name")
        self.save("organizations", [Organization(pk=pk, name=name) for pk, name in named])
        return here | {pk for pk, _ in named}


def text_of(value: Any, *, most: int) -> str:
    """Without what no database can hold."""
    text = value if isinstance(value, str) else ""
    return (text if is_storable(text) else text.encode("utf-8", "ignore").decode().replace("\x00", ""))[:most]


def import_accounts(work: Importer, table: str, batch: Sequence[Row]) -> None:
    rows = [(ids[0], row) for row in batch if (ids := work.ids(table, row, "id"))]
    here, made = work.accounts_here(pk for pk, _ in rows), []
    for pk, row in rows:
        if work.is_new(table, pk, here):
            made.append(Account(pk=pk, name=text_of(row["name"], most=200).strip() or UNNAMED))
    work.save(table, made)


def import_emails(work: Importer, table: str, batch: Sequence[Row]) -> None:
    rows = [(ids[0], row) for row in batch if (ids := work.ids(table, row, "account_id"))]
    accounts, made = work.accounts_here(pk for pk, _ in rows), list[AccountEmail]()
    addresses = [str(row["email"] or "").strip().lower() for _, row in rows]
    taken = dict(
        AccountEmail.objects.annotate(address=Lower("email"))
        .filter(address__in=addresses)
        .values_list("address", "account")
    )
    with_primary = set(
        AccountEmail.objects.filter(account__in=accounts, is_primary=True).values_list("account", flat=True)
    )
    for (account_id, row), address in zip(rows, addresses, strict=True):
        email = text_of(row["email"], most=1000).strip()
        if account_id not in accounts:
            work.report.add(table, "no such account", account_id)
        elif not is_email(email):
            work.report.add(table, "no e-mail address", account_id)
        elif address in taken and taken[address] != account_id:
            work.report.add(table, "the address belongs to another account", account_id)
        elif work.is_new(table, address, set(taken)):
            made.append(AccountEmail(account_id=account_id, email=email, is_primary=account_id not in with_primary))
            with_primary.add(account_id)
            taken[address] = account_id
            work.seen.add(address)
    work.save(table, made)


def import_memberships(work: Importer, table: str, batch: Sequence[Row]) -> None:
    def existing(pairs: Sequence[tuple[UUID, UUID]]) -> set[Any]:
        found = Membership.objects.filter(account__in={pair[0] for pair in pairs})
        return set(found.values_list("account", "organization"))

    found = pairs_of(work, table, batch, "account_id", existing)
    work.save(table, [Membership(account_id=pair[0], organization_id=pair[1]) for pair in found])


def import_organization_artists(work: Importer, table: str, batch: Sequence[Row]) -> None:
    def existing(pairs: Sequence[tuple[UUID, UUID]]) -> set[Any]:
        found = ArtistLink.objects.filter(artist_account__in={pair[0] for pair in pairs}, organization__isnull=False)
        return set(found.values_list("artist_account", "organization"))

    found = pairs_of(work, table, batch, "artist_id", existing)
    work.save(table, [ArtistLink(artist_account_id=pair[0], organization_id=pair[1]) for pair in found])


def pairs_of(
    work: Importer,
    table: str,
    batch: Sequence[Row],
    first: str,
    existing: Callable[[Sequence[tuple[UUID, UUID]]], set[Any]],
) -> Iterator[tuple[UUID, UUID]]:
    """The new pairs of an account and an organization."""
    rows = [(ids[0], ids[1]) for row in batch if (ids := work.ids(table, row, first, "organization_id"))]
    accounts = work.accounts_here(pair[0] for pair in rows)
    organizations = work.make_organizations(pair[1] for pair in rows)
    here = existing(rows)
    for account_id, organization_id in rows:
        if account_id not in accounts:
            work.report.add(table, "no such account", account_id)
        elif organization_id not in organizations:
            work.report.add(table, "no such organization", organization_id)
        elif work.is_new(table, (account_id, organization_id), here):
            yield account_id, organization_id


def import_artists(work: Importer, table: str, batch: Sequence[Row]) -> None:
    rows = [(ids[0], ids[1], row) for row in batch if (ids := work.ids(table, row, "account_id", "artist_id"))]
    accounts = work.accounts_here(pk for row in rows for pk in row[:2])
    links = ArtistLink.objects.filter(account__in={row[0] for row in rows})
    here, made = set(links.values_list("account", "artist_account")), []
    for account_id, artist_id, row in rows:
        if account_id not in accounts or artist_id not in accounts:
            work.report.add(table, "no such account", account_id if account_id not in accounts else artist_id)
        elif work.is_new(table, (account_id, artist_id), here):
            pinned = row["pinned"] is True
            made.append(ArtistLink(account_id=account_id, artist_account_id=artist_id, pinned=pinned))
    work.save(table, made)


def import_keys(work: Importer, table: str, batch: Sequence[Row]) -> None:
    rows = [(ids[0], row) for row in batch if (ids := work.ids(table, row, "account"))]
    accounts = work.accounts_here(pk for pk, _ in rows)
    digests = [str(row["key_hash"] or "").lower() for _, row in rows]
    here, made = set(ApiKey.objects.filter(digest__in=digests).values_list("digest", flat=True)), []
    for (account_id, row), digest in zip(rows, digests, strict=True):
        name = text_of(row["name"], most=200) or UNNAMED
        if account_id not in accounts:
            work.report.add(table, "no such account", account_id)
        elif not DIGEST.fullmatch(digest):
            work.report.add(table, "no HMAC-SHA256 in hex", name)
        elif work.is_new(table, digest, here, name=name):
            times = {"last_used_at": row["last_used"], "expires_at": row["expires_at"]}
            created_at = row["created_at"] or work.at
            key = ApiKey(account_id=account_id, name=name, prefix=KEY_PREFIX, digest=digest, **times)
            made.append((key, created_at))
    work.save(table, [key for key, _ in made])
    for key, created_at in made:
        key.created_at = created_at
    ApiKey.objects.bulk_update([key for key, _ in made], ["created_at"])


def import_tasks(work: Importer, table: str, batch: Sequence[Row]) -> None:
    names = ("id", "account_id", "artist_account_id")
    rows = [(ids, row) for row in batch if (ids := work.ids(table, row, *names))]
    accounts = work.accounts_here(pk for ids, _ in rows for pk in ids[1:])
    schedule_ids = [row["trigger_schedule_id"] for _, row in rows if row["trigger_schedule_id"]]
    taken = set(Task.objects.filter(trigger_schedule_id__in=schedule_ids).values_list("trigger_schedule_id", flat=True))
    here = set(Task.objects.filter(pk__in=[ids[0] for ids, _ in rows]).values_list("pk", flat=True))
    made = []
    for ids, row in rows:
        problem = problem_of(row, ids, accounts)
        if problem:
            work.report.add(table, problem, ids[0])
        elif work.is_new(table, ids[0], here):
            task = task_of(work, row, ids)
            if len(row["title"] or "") > MAX_TITLE:
                work.report.add("texts", f"a title was cut after {MAX_TITLE} characters", ids[0])
            if row["trigger_schedule_id"] and task.trigger_schedule_id is None:
                work.report.add("schedules", "unknown at Trigger.dev, so the task is paused and in UTC", ids[0])
            if task.trigger_schedule_id in taken:
                work.report.add("schedules", "the schedule belongs to another task", ids[0])
                task.trigger_schedule_id, task.synced_generation = None, 0
            elif task.trigger_schedule_id:
                taken.add(task.trigger_schedule_id)
            made.append((task, task.updated_at))
    work.save(table, [task for task, _ in made])
    # Django sets it when a row is inserted.
    for task, updated_at in made:
        task.updated_at = updated_at
    Task.objects.bulk_update([task for task, _ in made], ["updated_at"])


def problem_of(row: Row, ids: Sequence[UUID], accounts: set[UUID]) -> str:
    """Why a task cannot be imported; empty where it can."""
    if ids[1] not in accounts:
        return "no such account"
    if ids[2] not in accounts:
        return "no such artist"
    if not text_of(row["prompt"], most=MAX_PROMPT).strip():
        return "no prompt"
    if len(row["prompt"]) > MAX_PROMPT:
        return f"the prompt is longer than {MAX_PROMPT} characters"
    try:
        cron.check(str(row["schedule"] or ""))
    except cron.CronError:
        return "no valid cron expression"
    return ""


def task_of(work: Importer, row: Row, ids: Sequence[UUID]) -> Task:
    """In sync where it has a schedule: a full pass compares the two. Without one it is pending, and gets one."""
    schedule_id = text_of(row["trigger_schedule_id"], most=100) or None
    zone = work.zones.get(schedule_id, "") if schedule_id else "UTC"
    created_at, is_known = row["created_at"] or work.at, is_zone(zone)
    if not is_known:
        # It has fired nothing, and nobody knows at which hours it should: a person decides.
        schedule_id, zone = None, "UTC"
    task = Task(
        pk=ids[0],
        account_id=ids[1],
        artist_account_id=ids[2],
        title=text_of(row["title"], most=MAX_TITLE).strip() or UNNAMED,
        prompt=text_of(row["prompt"], most=MAX_PROMPT),
        schedule=str(row["schedule"]),
        timezone=zone,
        enabled=row["enabled"] if is_known else False,
        model=text_of(row["model"], most=200) or None,
        trigger_schedule_id=schedule_id,
        synced_generation=1 if schedule_id else 0,
        created_at=created_at,
        updated_at=row["updated_at"] or created_at,
        schedule_changed_at=work.at,
    )
    active = None if task.enabled is False else task.schedule
    task.fire_periods = calendar.to_json(calendar.change([], active, task.timezone, at=work.at))
    for name, value in task_polls.initial_plan(task, at=work.at).items():
        setattr(task, name, value)
    return task


def is_zone(name: str) -> bool:
    try:
        zones.check(name)
    except zones.ZoneError:
        return False
    return True


HANDLERS: Mapping[str, Callable[[Importer, str, Sequence[Row]], None]] = {
    "accounts": import_accounts,
    "account_emails": import_emails,
    "account_organization_ids": import_memberships,
    "account_artist_ids": import_artists,
    "artist_organization_ids": import_organization_artists,
    "account_api_keys": import_keys,
    "scheduled_actions": import_tasks,
}
