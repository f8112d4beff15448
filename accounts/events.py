"""Events: who changed what. Each is written in the transaction of its change, by the function that makes the change.

The actor is an argument of every such function, so that no way in can forget it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models

from accounts.models import Account, Event
from core.text import format_timestamp

CREATED, UPDATED, DELETED = "created", "updated", "deleted"
# Never stored as they are.
PRIVATE_TEXTS = frozenset(("prompt",))

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Actor:
    """Who makes a change, and through what. `id`: of an account, the name of staff or of a command, or an issuer."""

    kind: Event.ActorKind
    id: str
    via: Event.Via


def account_actor(account: Account, *, via: Event.Via = Event.Via.API) -> Actor:
    return Actor(Event.ActorKind.ACCOUNT, str(account.pk), via)


def staff_actor(username: str) -> Actor:
    return Actor(Event.ActorKind.STAFF, username, Event.Via.ADMIN)


def command_actor(name: str) -> Actor:
    return Actor(Event.ActorKind.COMMAND, name, Event.Via.COMMAND)


def record(
    action: str,
    target: models.Model,
    *,
    account_id: UUID | None,
    actor: Actor,
    at: datetime,
    before: Values | None = None,
    after: Values | None = None,
    reason: str = "",
) -> None:
    """Call it in the transaction of the change. `before` and `after` come from `snapshot`."""
    Event.objects.create(
        at=at,
        target_kind=kind_of(type(target)),
        target_id=str(target.pk),
        account_id=account_id,
        action=action,
        actor_kind=actor.kind,
        actor_id=actor.id,
        via=actor.via,
        before=before or {},
        after=after or {},
        reason=reason,
    )


def kind_of(model: type[models.Model]) -> str:
    """`api_key` for ApiKey."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", model.__name__).lower()


def record_change(
    target: models.Model, before: Values, *, account_id: UUID | None, actor: Actor, at: datetime, reason: str = ""
) -> bool:
    """An event with what differs from the snapshot `before`. No event, and False, where nothing differs."""
    after = snapshot(target)
    changed = [name for name in after if after[name] != before.get(name)]
    if changed:
        former, present = ({name: values.get(name) for name in changed} for values in (before, after))
        record(UPDATED, target, account_id=account_id, actor=actor, at=at, before=former, after=present, reason=reason)
    return bool(changed)


def snapshot(target: Any) -> dict[str, Any]:
    """The recorded columns of a row, as JSON values."""
    return {name: as_json(name, getattr(target, name)) for name in target.recorded}


def as_json(name: str, value: Any) -> Any:
    if name in PRIVATE_TEXTS:
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
        return {"characters": len(value), "sha256": digest}
    if isinstance(value, datetime):
        return format_timestamp(value)
    return str(value) if isinstance(value, UUID) else value
