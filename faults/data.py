"""Creates accounts and tasks, and prints their keys and ids as JSON. A process of its own, for each database."""

import json
import sys
from pathlib import Path

import django

django.setup()

from django.conf import settings  # noqa: E402  Django must be set up first
from django.core.management import call_command  # noqa: E402

from accounts.credentials import api_keys  # noqa: E402
from accounts.models import Account, ApiKey, ArtistLink  # noqa: E402
from bench.data import make_task  # noqa: E402
from demo.standin.state import State  # noqa: E402
from tasks.models import Task  # noqa: E402

ACCOUNTS, TASKS = 20, 10


def main(folder: Path) -> None:
    call_command("migrate", verbosity=0)
    state = State(folder)
    artist = Account.objects.create(name="Artist")
    found = []
    for number in range(ACCOUNTS):
        owner = Account.objects.create(name=f"Owner {number}")
        key = f"{api_keys.PREFIX}faults_{number}_".ljust(53, "0")
        digest = api_keys.digest(key, secret=settings.API_KEY_SECRET)
        ApiKey.objects.create(account=owner, name="Faults", prefix=api_keys.prefix_of(key), digest=digest)
        ArtistLink.objects.create(artist_account=artist, account=owner)
        for task in range(TASKS):
            make_task(state, owner, artist, task)
        tasks = Task.objects.filter(account=owner).values_list("pk", flat=True)
        found.append({"key": key, "account": str(owner.pk), "tasks": [str(pk) for pk in tasks]})
    state.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
