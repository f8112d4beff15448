"""Creates the accounts, tasks and runs of the benchmark. For each N in SIZES, one account owns N tasks.

Another one owns as many tasks, with prompts as long together, as an account may have.
"""

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from accounts.credentials import api_keys
from accounts.models import Account, AccountEmail, ApiKey
from demo.standin.schedules import fired, next_fire
from demo.standin.state import StandinRun, StandinSchedule, State
from tasks.models import Task

RUNS = 5
SIZES = (1, 10, 50, 200)
LARGEST = settings.TASK_LIMIT
FINISHED, UNFINISHED = "run_cbenchfinished00000000000", "run_cbenchunfinished000000000"


def key_of(size: int) -> str:
    return f"{api_keys.PREFIX}bench_{size}_".ljust(53, "0")


def create(folder: Path) -> None:
    state = State(folder)
    artist = Account.objects.create(name="Artist")
    for size in (*SIZES, LARGEST):
        owner = Account.objects.create(name=f"Owner of {size}")
        AccountEmail.objects.create(account=owner, email=f"owner{size}@example.com")
        key = key_of(size)
        digest = api_keys.digest(key, secret=settings.API_KEY_SECRET)
        # last_used_at is in the future, so that no measured request updates it.
        last_used_at = timezone.now() + timedelta(days=1)
        ApiKey.objects.create(
            account=owner, name="Bench", prefix=api_keys.prefix_of(key), digest=digest, last_used_at=last_used_at
        )
        for number in range(size):
            make_task(state, owner, artist, number)
        if size == LARGEST:
            # Four bytes each.
            Task.objects.filter(account=owner).update(prompt="\U0001f600" * (settings.MAX_PROMPT_BYTES // size // 4))
        for run_id, stuck_as in ((FINISHED, None), (UNFINISHED, "EXECUTING")) if size == 1 else ():
            created = state.now - 600
            tags = [f"account:{owner.pk}"]
            state.add_run(
                StandinRun(
                    "create-content",
                    created,
                    run_id,
                    tags=tags,
                    stuck_as=stuck_as,
                    has_output=True,
                    output={"a": "b" * 400},
                )
            )
    state.close()


def make_task(state: State, owner: Account, artist: Account, number: int) -> None:
    """Creates a daily task with past runs. Its next run is in about 12 hours."""
    now = timezone.now()
    cron = f"{number % 60} {(now.hour + 12) % 24} * * *"
    task = Task.objects.create(
        title=f"Task {number}",
        prompt="List this week's new releases that share listeners with the artist. " * 4,
        schedule=cron,
        account=owner,
        artist_account=artist,
        synced_generation=1,
        schedule_changed_at=now - timedelta(days=30),
    )
    Task.objects.filter(pk=task.pk).update(trigger_schedule_id=f"sched_{task.pk.hex[:21]}")
    schedule = StandinSchedule(
        task=settings.TRIGGER_TASK_IDENTIFIER,
        cron=cron,
        created=now.timestamp(),
        id=f"sched_{task.pk.hex[:21]}",
        key=str(task.pk),
        external_id=str(task.pk),
    )
    schedule.next_fire = next_fire(schedule, now=now.timestamp())
    state.put_schedule(schedule)
    for days in range(1, RUNS + 1):
        state.add_run(fired(schedule, (schedule.next_fire or 0) - days * 86400))
