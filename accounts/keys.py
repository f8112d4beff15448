"""Creating, finding and revoking API keys, for the API, the admin site and the commands."""

from datetime import datetime

from django.conf import settings
from django.db import transaction

from accounts import events
from accounts.credentials import api_keys
from accounts.models import ApiKey


def digests_of(text: str) -> list[str]:
    """Of a key in plain text: with the present secret, and with each former one that still counts."""
    secrets = [settings.API_KEY_SECRET, *settings.API_KEY_SECRET_FALLBACKS]
    return [api_keys.digest(text, secret=secret) for secret in secrets]


def create_key(key: ApiKey, *, actor: events.Actor, at: datetime) -> str:
    """Saves a new key. The key in plain text, which is stored nowhere."""
    text = api_keys.create()
    key.prefix, key.digest = api_keys.prefix_of(text), api_keys.digest(text, secret=settings.API_KEY_SECRET)
    with transaction.atomic():
        key.save(force_insert=True)
        after = events.snapshot(key)
        events.record(events.CREATED, key, account_id=key.account_id, actor=actor, at=at, after=after)
    return text


def revoke_key(key: ApiKey, *, actor: events.Actor, at: datetime) -> bool:
    """False where it was revoked before."""
    with transaction.atomic():
        before = events.snapshot(key)
        if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=at):
            return False
        key.revoked_at = at
        return events.record_change(key, before, account_id=key.account_id, actor=actor, at=at)
