"""A task: an account's prompt for one artist, and the schedule that Trigger.dev should have for it.

The row is the desired state. Each write increments `generation`; `synced_generation` is the one that Trigger.dev is
known to hold. A deleted task keeps its row, without title and prompt: it tells whose runs those were.
"""

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Self

from django.db import models
from django.db.models import F, OuterRef, Q, Subquery
from django.db.models.functions import Now
from django.utils.timezone import now

from accounts.models import Account, AccountEmail
from tasks.cron.calendar import Period, from_json


class SyncStatus(models.TextChoices):
    IN_SYNC = "in_sync", "in sync"
    PENDING = "pending", "pending"
    REFUSED = "refused", "refused"


# The columns that a response needs. A list reads many rows, and converting a column costs time.
SHOWN = (
    *("id", "title", "prompt", "schedule", "timezone", "account_id", "artist_account_id", "enabled", "model"),
    *("created_at", "updated_at", "trigger_schedule_id", "generation", "synced_generation"),
    *("refused_generation", "unsettled_until", "run_by_hand_at", "polled_at", "next_poll_at", "watched_until"),
    *("quiet_until", "unfinished_stored_at", "recent_runs"),
)


class TaskQuerySet(models.QuerySet["Task"]):
    def living(self) -> Self:
        return self.filter(deleted_at__isnull=True)

    def poll_soon(self, *, at: datetime) -> int:
        """What is stored may have changed: it is fresh until now, and due now. A deleted task is never due."""
        self.filter(quiet_until__gt=at).update(quiet_until=at)
        return self.filter(next_poll_at__gt=at).update(next_poll_at=at)

    def unsettled(self) -> Self:
        """Tasks that Trigger.dev is not known to hold, deleted ones included."""
        return self.filter(is_settled=False)

    def in_parts(self, size: int = 1000) -> "Iterator[Task]":
        """All of them by primary key. Not by a cursor: a call to Trigger.dev gives the connection back meanwhile."""
        rows = self.order_by("pk")
        part = list(rows[:size])
        while part:
            yield from part
            part = list(rows.filter(pk__gt=part[-1].pk)[:size])

    def to_show(self) -> Self:
        """With the artist's name and the owner's e-mail, in one query, and without columns that no response needs."""
        primary = AccountEmail.objects.filter(account=OuterRef("account"), is_primary=True)
        people = {"artist_name": F("artist_account__name"), "owner_email": Subquery(primary.values("email")[:1])}
        return self.annotate(**people).only(*SHOWN)


class Task(models.Model):
    recorded = ("title", "prompt", "schedule", "timezone", "artist_account_id", "enabled", "model")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.TextField()
    prompt = models.TextField()
    schedule = models.CharField(max_length=200, help_text="Cron, five fields.")
    timezone = models.CharField(max_length=64, default="UTC", help_text="The IANA time zone that the cron is read in.")
    # PROTECT: a cascade would remove the row, and its schedule would go on firing.
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="tasks")
    artist_account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="artist_tasks")
    enabled = models.BooleanField(null=True, default=True, help_text="Null counts as true.")
    model = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001  the contract says null or non-empty
    created_at = models.DateTimeField(default=now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    schedule_changed_at = models.DateTimeField(
        db_default=Now(), editable=False, help_text="Since when the task has its present cron and time zone."
    )
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Trigger.dev does not find such runs by schedule, so these tasks are also queried by tag.
    run_by_hand_at = models.DateTimeField(null=True, blank=True, editable=False)

    # Which cron expression was in force when: `tasks.cron.calendar` as JSON. Empty before the first write or poll.
    fire_periods = models.JSONField(default=list, blank=True, editable=False)
    # Null: never polled, and for `next_poll_at` no poll is due, since the task is deleted.
    polled_at = models.DateTimeField(null=True, blank=True, editable=False)
    deep_polled_at = models.DateTimeField(null=True, blank=True, editable=False)
    next_poll_at = models.DateTimeField(null=True, blank=True, editable=False, default=now)
    # When the task would be due if it were watched.
    watched_poll_at = models.DateTimeField(null=True, blank=True, editable=False)
    watched_until = models.DateTimeField(null=True, blank=True, editable=False)
    # What `tasks.runs.due.as_of` needs.
    quiet_until = models.DateTimeField(null=True, blank=True, editable=False)
    unfinished_stored_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Of its newest runs, for lists: the newest five as JSON objects with commas between them, and the newest status.
    recent_runs = models.TextField(blank=True, default="", editable=False)
    last_run_status = models.CharField(max_length=40, blank=True, default="", editable=False)

    trigger_schedule_id = models.CharField(max_length=100, null=True, blank=True, editable=False)  # noqa: DJ001
    generation = models.PositiveBigIntegerField(default=1, editable=False)
    synced_generation = models.PositiveBigIntegerField(default=0, editable=False)
    unsettled_until = models.DateTimeField(null=True, blank=True, editable=False)
    # A column, because PostgreSQL takes nearly every row for unsettled when it compares two columns.
    is_settled = models.GeneratedField(
        expression=models.ExpressionWrapper(
            Q(synced_generation=F("generation")) & Q(unsettled_until__isnull=True), models.BooleanField()
        ),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    refused_generation = models.PositiveBigIntegerField(null=True, blank=True, editable=False)
    # The worker does not try again before. Set when Trigger.dev refuses for another reason than the schedule.
    settle_after = models.DateTimeField(null=True, blank=True, editable=False)
    lease_token = models.UUIDField(null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    sync_error = models.TextField(blank=True, default="", editable=False)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(
                fields=["account", "-created_at", "-id"], condition=Q(deleted_at__isnull=True), name="task_list"
            ),
            models.Index(fields=["updated_at", "id"], condition=Q(is_settled=False), name="task_unsettled"),
            models.Index(fields=["next_poll_at"], condition=Q(next_poll_at__isnull=False), name="task_next_poll"),
            models.Index(fields=["-created_at", "-id"], condition=Q(deleted_at__isnull=True), name="task_newest"),
            models.Index(fields=["-created_at", "-id"], condition=Q(deleted_at__isnull=False), name="task_deleted"),
            models.Index(fields=["last_run_status"], condition=Q(deleted_at__isnull=True), name="task_last_status"),
            models.Index(
                fields=["refused_generation"], condition=Q(refused_generation__isnull=False), name="task_refused"
            ),
            models.Index(fields=["watched_until"], condition=Q(watched_until__isnull=False), name="task_watched"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(deleted_at__isnull=False) | ~(Q(title="") | Q(prompt="") | Q(schedule="")),
                name="task_has_its_texts",
            ),
            models.CheckConstraint(condition=~Q(timezone=""), name="task_has_a_timezone"),
            models.CheckConstraint(condition=~Q(model=""), name="task_model_null_or_not_empty"),
            models.CheckConstraint(condition=~Q(trigger_schedule_id=""), name="task_schedule_id_null_or_not_empty"),
            models.UniqueConstraint(fields=["trigger_schedule_id"], name="task_schedule_id_once"),
            models.CheckConstraint(
                condition=Q(synced_generation__lte=F("generation")), name="task_synced_at_most_generation"
            ),
        ]

    def __str__(self) -> str:
        return self.title or f"deleted task {self.id}"

    @property
    def is_enabled(self) -> bool:
        return self.enabled is not False

    @property
    def calendar(self) -> list[Period]:
        """When the task can have fired. Before anything is stored, its expression may have fired at any time."""
        if self.fire_periods:
            return from_json(self.fire_periods)
        return [Period(self.schedule, self.timezone)] if self.is_enabled and self.deleted_at is None else []

    @property
    def sync_status(self) -> SyncStatus:
        if self.refused_generation == self.generation:
            return SyncStatus.REFUSED
        if self.synced_generation == self.generation and self.unsettled_until is None:
            return SyncStatus.IN_SYNC
        return SyncStatus.PENDING


class RunRequest(models.Model):
    """A request to run a task now. Stored before the call to Trigger.dev, so every started run has an owner."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="run_requests")
    requested_by = models.ForeignKey(Account, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    requested_by_staff = models.CharField(max_length=150, blank=True, default="")
    requested_at = models.DateTimeField()
    digest = models.CharField(max_length=64, unique=True, help_text="What Trigger.dev tells repeated requests by.")
    run_id = models.CharField(max_length=100, null=True, blank=True)  # noqa: DJ001  null until Trigger.dev confirms it

    class Meta:
        ordering = ["-requested_at", "-id"]
        indexes = [models.Index(fields=["requested_at"], name="run_request_requested")]
        constraints = [
            models.CheckConstraint(
                condition=Q(requested_by__isnull=False) ^ ~Q(requested_by_staff=""),
                name="run_request_by_an_account_or_staff",
            ),
        ]

    def __str__(self) -> str:
        return self.run_id or "not confirmed"


class Run(models.Model):
    """A copy of a run at Trigger.dev. `data` is the item of its list as JSON text; the columns are parts of it."""

    id = models.CharField(max_length=100, primary_key=True)
    task = models.ForeignKey(Task, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs")
    status = models.CharField(max_length=40)
    is_final = models.BooleanField()
    task_identifier = models.CharField(max_length=200)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField()
    data = models.TextField()
    # Found by the schedule of its task, not by a tag.
    is_scheduled = models.BooleanField(default=False)
    stored_at = models.DateTimeField()
    # When an unfinished run was last certain, if lists and retrieves have not shown it since.
    absent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["task", "-created_at", "-id"], name="run_of_task"),
            models.Index(fields=["created_at"], name="run_created"),
            models.Index(fields=["task"], condition=Q(is_final=False), name="run_unfinished"),
        ]

    def __str__(self) -> str:
        return self.id


class RunOwner(models.Model):
    """An account that owns a run. No foreign key: a tag may name an account that does not exist here."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="owners")
    account_id = models.UUIDField()
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["account_id", "-created_at", "-run"], name="run_of_account")]
        constraints = [models.UniqueConstraint(fields=["run", "account_id"], name="run_owner_once")]

    def __str__(self) -> str:
        return f"{self.account_id} owns {self.run_id}"


class MissedRun(models.Model):
    """A time at which a task certainly had to run, and no run came within 70 minutes."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="missed_runs")
    expected_at = models.DateTimeField()
    noticed_at = models.DateTimeField()

    class Meta:
        ordering = ["-expected_at"]
        indexes = [models.Index(fields=["expected_at"], name="missed_run_expected")]
        constraints = [models.UniqueConstraint(fields=["task", "expected_at"], name="missed_run_once")]

    def __str__(self) -> str:
        return f"{self.task} at {self.expected_at:%Y-%m-%d %H:%M} UTC"


class SyncFailure(models.Model):
    """Since when a task was not as Trigger.dev had it, and why: the first attempt of a series that failed."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="sync_failures")
    at = models.DateTimeField(db_index=True)
    reason = models.TextField()

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.task} at {self.at:%Y-%m-%d %H:%M} UTC: {self.reason}"


class RunFeed(models.Model):
    """How far the runs of an account are known that no poll of its tasks follows. `tasks.runs.feeds` polls them.

    No foreign key: an admin may list the runs of an account that exists only in tags.
    """

    account_id = models.UUIDField(primary_key=True)
    polled_at = models.DateTimeField(null=True)
    next_poll_at = models.DateTimeField()
    watched_until = models.DateTimeField(db_index=True)
    # A gap of runs that are not read yet: the cursor where it starts, and the time before which runs are known.
    gap_after = models.TextField(blank=True, default="", db_default="")
    gap_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.account_id)


class SharedPoll(models.Model):
    """The one row about the lists that serve many tasks or accounts: when they were last read, and are read next.

    `as_of`, `next_at`, `pages`: of the unfinished runs. `newest_*`: of the environment's newest runs. An account whose
    own list was read at `newest_since` or later has no gap to them. `is_newest_cut`: there were too many to read all.
    """

    as_of = models.DateTimeField(null=True)
    next_at = models.DateTimeField()
    pages = models.PositiveIntegerField(default=1)
    newest_as_of = models.DateTimeField(null=True)
    newest_since = models.DateTimeField(null=True)
    newest_next_at = models.DateTimeField(null=True)
    is_newest_cut = models.BooleanField(default=False)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(pk=1), name="one_shared_poll")]

    def __str__(self) -> str:
        return f"as of {self.as_of}"


class TaskCreation(models.Model):
    """The Idempotency-Key of a POST that created a task. The same POST again is answered with that task."""

    caller = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    body_digest = models.CharField(max_length=64)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key"], name="idempotency_key_once")]

    def __str__(self) -> str:
        return self.key


class TriggerBinding(models.Model):
    """One row: the Trigger.dev environment and namespace that this database was last used with."""

    fingerprint = models.CharField(max_length=12)
    since = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(pk=1), name="one_trigger_binding")]

    def __str__(self) -> str:
        return self.fingerprint


class Upkeep(models.Model):
    """When a piece of the daily work was done, and is due. `tasks.upkeep` does it."""

    name = models.CharField(max_length=40, primary_key=True)
    next_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    outcome = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return self.name


class BulkJob(models.Model):
    """One change of many tasks, which the worker makes task by task. `tasks.bulk` has the steps."""

    class Kind(models.TextChoices):
        PAUSE = "pause", "pause"
        RESUME = "resume", "resume"
        SYNC = "sync", "sync with Trigger.dev"

    kind = models.CharField(max_length=20, choices=Kind.choices)
    about = models.CharField(max_length=300, blank=True, default="", help_text="Which tasks, in words.")
    reason = models.TextField(blank=True, default="")
    requested_by_staff = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["id"], condition=Q(finished_at__isnull=True), name="bulk_job_unfinished")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.about}".strip()


class BulkJobTask(models.Model):
    """A task of a bulk job, and what came of it."""

    class Outcome(models.TextChoices):
        WAITING = "waiting", "waiting"
        DONE = "done", "done"
        UNCHANGED = "unchanged", "unchanged"
        FAILED = "failed", "failed"

    job = models.ForeignKey(BulkJob, on_delete=models.CASCADE, related_name="items")
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="+")
    outcome = models.CharField(max_length=20, choices=Outcome.choices, default=Outcome.WAITING)
    message = models.TextField(blank=True, default="")
    claimed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["job", "id"], condition=Q(outcome="waiting"), name="bulk_job_waiting"),
        ]
        constraints = [models.UniqueConstraint(fields=["job", "task"], name="bulk_job_task_once")]

    def __str__(self) -> str:
        return f"{self.task}: {self.outcome}"
