"""Brings tasks of a demo into each state in which a task does not run, so that its page can be looked at.

Everything is done as it happens: by requests, and by faults of the stand-in. Only the missed run is written into the
database, since one is noticed after 70 minutes.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID

from accounts.credentials.api_keys import demo_key
from clients.__main__ import Demo
from demo.data import id_of

PATIENCE = 180  # seconds


def send(method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
    headers = {"x-api-key": demo_key("alice"), "content-type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    with urlopen(Request(url, data, headers, method=method), timeout=30) as answer:  # noqa: S310  of the demo
        return json.loads(answer.read())


@dataclass
class Answers:
    """`paths`: by the name of the answer, the page of its task."""

    service: Demo
    folder: Path
    paths: dict[str, str] = field(default_factory=dict)

    def make(self) -> None:
        """What needs Trigger.dev."""
        self.make_paused()
        self.make_failed()
        self.make_missed()
        self.make_deleted()
        self.away = self.create("away", "Merchandise restock", "0 10 * * 1")
        self.make_refused()

    def take_trigger_away(self) -> None:
        self.bring_trigger_back()
        self.fault(kind="status", status=503)
        self.change(self.away, schedule="0 11 * * 1")
        self.create("never-scheduled", "Sync licensing leads", "0 12 * * *")

    def bring_trigger_back(self) -> None:
        send("DELETE", f"{self.service.standin}/standin/faults")

    def make_paused(self) -> None:
        self.change(self.create("paused", "Ticket sales digest", "0 16 * * *"), enabled=False)

    def make_refused(self) -> None:
        """It was accepted while Trigger.dev was away, and the answer comes later. From now on it is always refused."""
        self.fault(kind="status", status=503)
        task = self.create("refused", "Chart positions", "0 7 * * *")
        self.bring_trigger_back()
        self.fault(kind="status", status=400, path="/api/v1/schedules*", message="Invalid cron expression: 0 7 * * *")
        self.wait(lambda: self.status_of(task) == "refused")

    def make_failed(self) -> None:
        task = self.create("failed", "Fan survey summary", "0 13 * * *")
        schedule_id = self.shown(task)["trigger_schedule_id"]
        schedule = {"id": schedule_id, "externalId": str(task), "deduplicationKey": str(task)}
        schedule["generator"] = {"type": "CRON", "expression": "0 13 * * *", "description": ""}
        for minutes, ends_as in ((50, "COMPLETED_SUCCESSFULLY"), (35, "COMPLETED_WITH_ERRORS"), (20, "CRASHED")):
            run = {"task": "customer-prompt-task", "kind": "SCHEDULED", "schedule": schedule, "ends_as": ends_as}
            run |= {"created": time.time() - minutes * 60, "payload": {"externalId": str(task)}}
            run["error"] = {
                "name": "Error",
                "message": "The model is rate limited",
                "stackTrace": "Error: rate limited",
            }
            send("POST", f"{self.service.standin}/standin/runs", run)
        self.wait(lambda: len(self.shown(task)["recent_runs"]) == 3)

    def make_missed(self) -> None:
        task, now = self.create("missed", "Press mentions", "0 6 * * *"), datetime.now(UTC)
        expected_at = now.replace(hour=6, minute=0, second=0, microsecond=0) - timedelta(days=1)
        with sqlite3.connect(self.folder / "demo.sqlite3", timeout=30) as database:
            database.execute(
                "INSERT INTO tasks_missedrun (task_id, expected_at, noticed_at) VALUES (?, ?, ?)",
                (task.hex, f"{expected_at:%Y-%m-%d %H:%M:%S}", f"{now:%Y-%m-%d %H:%M:%S}"),
            )
            created_at = f"{now - timedelta(days=9):%Y-%m-%d %H:%M:%S}"
            database.execute("UPDATE tasks_task SET created_at = ? WHERE id = ?", (created_at, task.hex))

    def make_deleted(self) -> None:
        send(
            "DELETE",
            f"{self.service.url}/api/tasks",
            {"id": str(self.create("deleted", "Old newsletter", "0 8 * * 5"))},
        )

    def create(self, answer: str, title: str, schedule: str) -> UUID:
        body = {"title": title, "prompt": "Collect it, and write a summary.", "schedule": schedule}
        body |= {"account_id": str(id_of("alice")), "artist_account_id": str(id_of("Mira Solène"))}
        task = UUID(send("POST", f"{self.service.url}/api/tasks", body)["tasks"][0]["id"])
        self.paths[f"why-{answer}"] = f"/admin/tasks/task/{task}/change/"
        return task

    def change(self, task: UUID, **changes: Any) -> None:
        send("PATCH", f"{self.service.url}/api/tasks", {"id": str(task), **changes})

    def shown(self, task: UUID) -> Any:
        return send("GET", f"{self.service.url}/api/tasks?id={task}")["tasks"][0]

    def status_of(self, task: UUID) -> Any:
        return self.shown(task).get("sync_status")

    def fault(self, **values: Any) -> None:
        send("POST", f"{self.service.standin}/standin/faults", values)

    def wait(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > until:
                raise SystemExit("A task of the demo did not come into its state.")
            time.sleep(1)
