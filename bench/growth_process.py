"""The process of `bench.growth` for one database: fills a test database to two sizes and measures requests at each."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
os.environ["LOG_LEVEL"] = "ERROR"
django.setup()

from django.conf import settings  # noqa: E402  Django must be set up first
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from rest_framework.test import APIClient  # noqa: E402

from accounts.credentials import api_keys  # noqa: E402
from accounts.models import Account, ApiKey  # noqa: E402
from bench.growth import LARGE, PER_ACCOUNT, SMALL, median_ms  # noqa: E402
from tasks.models import Task  # noqa: E402

REPEAT = 60
REQUESTS = {
    "GET /api/tasks, 50 tasks": "/api/tasks",
    "one task by id": "/api/tasks?id={id}",
    "tasks of an artist": "/api/tasks?artist_account_id={artist}",
    "paused tasks": "/api/tasks?enabled=false",
}


def fill(count: int) -> None:
    """Creates tasks up to `count`, 50 per account. They have no schedule, so that requests do not call Trigger.dev."""
    artist = Account.objects.get_or_create(name="Artist")[0]
    now = datetime.now(UTC)
    while (existing := Task.objects.count()) < count:
        owners = [Account(name="Owner") for _ in range(min(400, (count - existing) // PER_ACCOUNT))]
        Account.objects.bulk_create(owners)
        Task.objects.bulk_create(
            [
                Task(
                    id=uuid.uuid4(),
                    title=f"Task {number}",
                    prompt="List this week's new releases.",
                    schedule="0 9 * * *",
                    account=owner,
                    artist_account=artist,
                    synced_generation=1,
                    enabled=number % 10 != 0,
                    created_at=now - timedelta(seconds=number),
                    schedule_changed_at=now,
                )
                for owner in owners
                for number in range(PER_ACCOUNT)
            ],
            batch_size=2000,
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def client_for(owner: Account) -> APIClient:
    key = api_keys.create()
    digest = api_keys.digest(key, secret=settings.API_KEY_SECRET)
    last_used_at = datetime.now(UTC) + timedelta(days=1)
    ApiKey.objects.create(
        account=owner, name="Bench", prefix=api_keys.prefix_of(key), digest=digest, last_used_at=last_used_at
    )
    client = APIClient()
    client.credentials(HTTP_X_API_KEY=key)
    return client


def measure() -> dict[str, float]:
    task = Task.objects.order_by("created_at").first()
    if task is None:
        raise RuntimeError("There are no tasks.")
    client = client_for(task.account)
    paths = {name: path.format(id=task.pk, artist=task.artist_account_id) for name, path in REQUESTS.items()}
    return {name: median_duration(lambda path=path: client.get(path)) for name, path in paths.items()}  # type: ignore[misc]


def median_duration(send_request: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEAT):
        started_at = time.perf_counter()
        send_request()
        seconds.append(time.perf_counter() - started_at)
    return median_ms(seconds[REPEAT // 4 :])


def compare(fill: Callable[[int], None], measure: Callable[[], dict[str, float]], *, large: int) -> None:
    """Prints the medians at both sizes."""
    call_command("migrate", verbosity=0)
    medians = []
    for count in (SMALL, large):
        fill(count)
        medians.append(measure())
    for name in medians[0]:
        print(f"{name}\t{medians[0][name]:.2f}\t{medians[1][name]:.2f}")  # noqa: T201  bench.growth parses this output


@contextmanager
def test_database() -> Iterator[None]:
    """So that existing data is not touched. It is destroyed at the end."""
    settings.ALLOWED_HOSTS.append("testserver")
    name = connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)


if __name__ == "__main__":
    with test_database():
        compare(fill, measure, large=LARGE)
