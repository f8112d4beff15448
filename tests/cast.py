"""The accounts of the tests. Alice owns data, Bob shares her organization, Charlie is a stranger, Dora is an admin."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from accounts.credentials import api_keys
from accounts.events import command_actor
from accounts.models import Account, AccountEmail, ApiKey, Membership, Organization
from tasks.models import Task

TESTER = command_actor("tests")


@dataclass(frozen=True)
class Cast:
    alice: Account
    bob: Account
    charlie: Account
    dora: Account
    artist: Account

    def person(self, name: str) -> Account:
        account: Account = getattr(self, name)
        return account


def make_cast() -> Cast:
    label, other_organization = Organization.objects.create(name="Label"), Organization.objects.create(name="Elsewhere")
    staff = Organization.objects.create(name="Staff", grants_admin=True)
    return Cast(
        alice=make_account("Alice", label),
        bob=make_account("Bob", label),
        charlie=make_account("Charlie", other_organization),
        dora=make_account("Dora", staff),
        artist=Account.objects.create(name="The Artist"),
    )


def make_account(name: str, *organizations: Organization) -> Account:
    account = Account.objects.create(name=name)
    AccountEmail.objects.create(account=account, email=f"{name.lower()}@example.com")
    for organization in organizations:
        Membership.objects.create(account=account, organization=organization)
    return account


def make_key(account: Account, **fields: datetime | None) -> str:
    """Creates an API key for the account and returns it in plain text."""
    key = api_keys.create()
    digest = api_keys.digest(key, secret=settings.API_KEY_SECRET)
    ApiKey.objects.create(account=account, name="Test", prefix=api_keys.prefix_of(key), digest=digest, **fields)
    return key


def make_task(account: Account, artist: Account, **fields: Any) -> Task:
    """Creates a task that is in sync with Trigger.dev, unless `fields` change that."""
    values = {
        "title": "Weekly report",
        "prompt": "Write it.",
        "schedule": "0 9 * * *",
        "synced_generation": 1,
        "schedule_changed_at": timezone.now(),
        **fields,
    }
    return Task.objects.create(account=account, artist_account=artist, **values)
