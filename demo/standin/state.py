"""The state of the stand-in, in one SQLite file that survives restarts, or in memory for tests.

The status of a run is not stored. It follows from the clock, so runs move through QUEUED and EXECUTING over time.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import string
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demo.standin.replicas import Replicas

ID_CHARACTERS = string.ascii_lowercase + string.digits
SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id TEXT PRIMARY KEY, created REAL NOT NULL, schedule_id TEXT, parent_id TEXT, idempotency_key TEXT,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS run_created ON run (created DESC, id DESC);
CREATE INDEX IF NOT EXISTS run_schedule ON run (schedule_id, created DESC, id DESC);
CREATE INDEX IF NOT EXISTS run_parent ON run (parent_id);
CREATE UNIQUE INDEX IF NOT EXISTS run_idempotency_key ON run (idempotency_key);
CREATE TABLE IF NOT EXISTS schedule (
    id TEXT PRIMARY KEY, key TEXT UNIQUE, created REAL NOT NULL, next_fire REAL, record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS schedule_next_fire ON schedule (next_fire);
CREATE TABLE IF NOT EXISTS tag (
    tag TEXT, run_id TEXT, created REAL NOT NULL, PRIMARY KEY (tag, created, run_id)
) WITHOUT ROWID;
"""


@dataclass
class StandinRun:
    """One run. It executes from `starts_after` to `ends_after` seconds after `created`, and ends with status `ends_as`.

    With `stuck_as`, one of Trigger.dev's stored statuses, it keeps that status instead. `pauses`: seconds after
    `created` at which it turns from executing to waiting, and back.
    """

    task: str
    created: float
    id: str = ""
    starts_after: float = 2.0
    ends_after: float = 10.0
    ends_as: str = "COMPLETED_SUCCESSFULLY"
    stuck_as: str | None = None
    pauses: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    payload: Any = None
    has_output: bool = False
    output: Any = None
    presigned_payload: str | None = None
    presigned_output: str | None = None
    error: dict[str, str] | None = None
    metadata: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    kind: str = "STANDARD"
    parent_id: str | None = None
    root_id: str | None = None
    idempotency_key: str | None = None
    trigger_function: str = "trigger"
    batch_id: str | None = None
    ttl: str | None = None
    is_test: bool = False
    # When it was stored, in epoch seconds. A schedule can fire before or after `created`.
    inserted: float | None = None

    def __post_init__(self) -> None:
        self.id = self.id or new_id("run_c", 24)


@dataclass
class StandinSchedule:
    """One schedule. `next_fire` is None while it is inactive. A poisoned schedule breaks each list that includes it."""

    task: str
    cron: str
    created: float
    id: str = ""
    key: str | None = None
    external_id: str | None = None
    timezone: str = "UTC"
    window: str | None = None
    active: bool = True
    kind: str = "IMPERATIVE"
    poisoned: bool = False
    last_fire: float | None = None
    next_fire: float | None = None

    def __post_init__(self) -> None:
        self.id = self.id or new_id("sched_", 21)


def new_id(prefix: str, length: int) -> str:
    return prefix + "".join(secrets.choice(ID_CHARACTERS) for _ in range(length))


def utc_now() -> datetime:
    return datetime.now(UTC)


class State:
    def __init__(self, folder: Path | None = None, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Without `folder`, everything stays in memory. `clock` returns an aware datetime."""
        self.clock = clock
        # Without a deployment the list of schedules is always empty.
        self.deployed = True
        # A filter that the server does not understand is none, as an empty one is (recorded: EMPTY_is_ignored).
        self.ignores_tags = False
        # Related runs have related runs of their own.
        self.nests_related = False
        self.replicas: Replicas | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            folder / "standin.sqlite3" if folder else ":memory:", check_same_thread=False, isolation_level=None
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.executescript(SCHEMA)

    @property
    def now(self) -> float:
        return self.clock().timestamp()

    def close(self) -> None:
        self._database.close()

    def add_run(self, run: StandinRun) -> StandinRun:
        """Stores the run, unless a run with the same id or idempotency key exists."""
        run.inserted = run.inserted or self.now
        with self._lock, suppress(sqlite3.IntegrityError):
            self._database.execute(
                "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?)",
                (
                    run.id,
                    run.created,
                    run.schedule["id"] if run.schedule else None,
                    run.parent_id,
                    run.idempotency_key,
                    json.dumps(asdict(run)),
                ),
            )
            self._database.executemany(
                "INSERT INTO tag VALUES (?, ?, ?)", [(tag, run.id, run.created) for tag in set(run.tags)]
            )
        return run

    def remove_run(self, run_id: str) -> None:
        with self._lock:
            self._database.execute("DELETE FROM run WHERE id = ?", (run_id,))
            self._database.execute("DELETE FROM tag WHERE run_id = ?", (run_id,))

    def run(self, run_id: str) -> StandinRun | None:
        return next(self._runs("SELECT record FROM run WHERE id = ?", run_id), None)

    def run_by_idempotency_key(self, key: str) -> StandinRun | None:
        return next(self._runs("SELECT record FROM run WHERE idempotency_key = ?", key), None)

    def forget_idempotency_key(self, run_id: str) -> None:
        with self._lock:
            self._database.execute("UPDATE run SET idempotency_key = NULL WHERE id = ?", (run_id,))

    def children(self, run_id: str) -> list[StandinRun]:
        return list(self._runs("SELECT record FROM run WHERE parent_id = ? ORDER BY created, id", run_id))

    def newest_runs(self, *, schedule_ids: list[str], tags: list[str], since: float) -> Iterator[StandinRun]:
        """Newest first. An empty list of schedules or tags means no such filter."""
        conditions, values = ["created >= ?"], [since, *schedule_ids, *tags]
        if schedule_ids:
            conditions.append(f"schedule_id IN ({placeholders(schedule_ids)})")
        if tags:
            conditions.append(f"id IN (SELECT run_id FROM tag WHERE tag IN ({placeholders(tags)}))")
        where = " AND ".join(conditions)
        return self._runs(f"SELECT record FROM run WHERE {where} ORDER BY created DESC, id DESC", *values)

    def detach_runs(self, schedule_id: str) -> None:
        """Keeps the runs of a deleted schedule, but removes the schedule from them."""
        for run in list(self._runs("SELECT record FROM run WHERE schedule_id = ?", schedule_id)):
            run.schedule = None
            with self._lock:
                self._database.execute(
                    "UPDATE run SET schedule_id = NULL, record = ? WHERE id = ?", (json.dumps(asdict(run)), run.id)
                )

    def put_schedule(self, schedule: StandinSchedule) -> StandinSchedule:
        """Inserts or updates the schedule. Raises IntegrityError if another schedule has its key."""
        values = (schedule.key, schedule.created, schedule.next_fire, json.dumps(asdict(schedule)))
        with self._lock:
            self._database.execute(
                "INSERT INTO schedule (id, key, created, next_fire, record) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) "
                "DO UPDATE SET key = excluded.key, next_fire = excluded.next_fire, record = excluded.record",
                (schedule.id, *values),
            )
        return schedule

    def remove_schedule(self, schedule_id: str) -> None:
        with self._lock:
            self._database.execute("DELETE FROM schedule WHERE id = ?", (schedule_id,))
        self.detach_runs(schedule_id)

    def schedule(self, id_or_key: str) -> StandinSchedule | None:
        """By id or by deduplication key. A key that looks like an id is not found."""
        column = "id" if id_or_key.startswith("sched_") else "key"
        return next(self._schedules(f"SELECT record FROM schedule WHERE {column} = ?", id_or_key), None)

    def schedules(self, *, limit: int = -1, offset: int = 0) -> list[StandinSchedule]:
        query = "SELECT record FROM schedule ORDER BY created DESC, id LIMIT ? OFFSET ?"
        return list(self._schedules(query, limit, offset))

    def count_schedules(self) -> int:
        with self._lock:
            count: int = self._database.execute("SELECT count(*) FROM schedule").fetchone()[0]
        return count

    def due_schedules(self, *, now: float) -> list[StandinSchedule]:
        return list(self._schedules("SELECT record FROM schedule WHERE next_fire <= ?", now))

    def _schedules(self, query: str, *values: object) -> Iterator[StandinSchedule]:
        with self._lock:
            rows = self._database.execute(query, values).fetchall()
        for (record,) in rows:
            yield StandinSchedule(**json.loads(record))

    def _runs(self, query: str, *values: object) -> Iterator[StandinRun]:
        with self._lock:
            rows = self._database.execute(query, values).fetchall()
        for (record,) in rows:
            yield StandinRun(**json.loads(record))


def placeholders(values: list[str]) -> str:
    return ",".join("?" * len(values))
