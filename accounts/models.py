"""Accounts, the organizations they share, the artists they work with, and their credentials.

An account is a person, an agent or an artist. Staff of the admin site are Django users, not accounts. `recorded` names
the columns of a model that its events hold.
"""

import uuid
from typing import Any, NoReturn, Self

from django.core.validators import URLValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy as _

IMAGE = URLValidator(["https"])


class Account(models.Model):
    recorded = ("name", "image", "task_limit", "min_cadence_minutes")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    image = models.CharField(
        max_length=500, blank=True, default="", validators=[IMAGE], help_text=_("The https address of a picture.")
    )
    created_at = models.DateTimeField(auto_now_add=True)
    task_limit = models.PositiveIntegerField(
        null=True, blank=True, help_text=_("The most tasks that it may have. Empty: the setting TASK_LIMIT.")
    )
    min_cadence_minutes = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text=_("The fewest minutes between two runs of a task. Empty: the setting MIN_CADENCE_MINUTES."),
    )

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_authenticated(self) -> bool:
        """REST framework expects it of `request.user`."""
        return True


class AccountEmailQuerySet(models.QuerySet["AccountEmail"]):
    def with_address(self, email: str) -> Self:
        """In any case, by the unique index.

        Not `iexact`: it compares upper case, and PostgreSQL makes an `I` of a dotless i, which anybody may register.
        """
        return self.annotate(address=Lower("email")).filter(address=email.lower())


class AccountEmail(models.Model):
    recorded = ("account_id", "email", "is_primary")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="emails")
    email = models.EmailField()
    is_primary = models.BooleanField(blank=True, default=False, help_text=_("The first one is primary by itself."))

    objects = AccountEmailQuerySet.as_manager()

    class Meta:
        ordering = ["email"]
        constraints = [
            models.UniqueConstraint(
                Lower("email"), name="email_once", violation_error_message=_("This e-mail address is taken.")
            ),
            models.UniqueConstraint(fields=["account"], condition=Q(is_primary=True), name="one_primary_email"),
        ]

    def __str__(self) -> str:
        return self.email

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding and not AccountEmail.objects.filter(account=self.account_id, is_primary=True).exists():
            self.is_primary = True
        super().save(*args, **kwargs)


class Organization(models.Model):
    recorded = ("name", "image", "grants_admin")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    image = models.CharField(
        max_length=500, blank=True, default="", validators=[IMAGE], help_text=_("The https address of a picture.")
    )
    grants_admin = models.BooleanField(default=False, help_text=_("Its members may act for every account."))

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    recorded = ("account_id", "organization_id")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="memberships")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "organization"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.account} in {self.organization}"


class ArtistLink(models.Model):
    """An account, or an organization, works with an artist."""

    recorded = ("artist_account_id", "account_id", "organization_id", "pinned")

    artist_account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="artist_links")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, null=True, blank=True, related_name="artists")
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, null=True, blank=True, related_name="artists"
    )
    pinned = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(account__isnull=True) ^ Q(organization__isnull=True),
                name="artist_of_account_or_organization",
                violation_error_message=_("Choose either an account or an organization."),
            ),
            models.UniqueConstraint(
                fields=["account", "artist_account"], condition=Q(account__isnull=False), name="account_artist_once"
            ),
            models.UniqueConstraint(
                fields=["organization", "artist_account"],
                condition=Q(organization__isnull=False),
                name="organization_artist_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account or self.organization} works with {self.artist_account}"


class ApiKey(models.Model):
    recorded = ("name", "prefix", "expires_at", "revoked_at")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=200, help_text=_("What it is for, for example the agent that uses it."))
    prefix = models.CharField(max_length=32, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("API key")
        ordering = ["-created_at"]
        constraints = [models.CheckConstraint(condition=Q(digest__regex=r"^[0-9a-f]{64}$"), name="digest_is_sha256")]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class Identity(models.Model):
    """The account that a bearer token of a provider is for."""

    recorded = ("account_id", "issuer", "subject")

    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=500)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="identities")

    class Meta:
        verbose_name_plural = _("identities")
        constraints = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="identity_once"),
            models.CheckConstraint(condition=~Q(issuer="") & ~Q(subject=""), name="identity_not_empty"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class EventQuerySet(models.QuerySet["Event"]):
    def refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Events are never changed or deleted.")

    update = bulk_update = update_or_create = delete = refuse


class Event(models.Model):
    """Who changed what, and through what. Append-only, and it outlives what it is about: it has no foreign keys.

    `accounts.events` writes them. `before` and `after` hold the values that changed; for a text such as a prompt its
    length and digest. Never a key or a token.
    """

    class ActorKind(models.TextChoices):
        ACCOUNT = "account", _("account")
        STAFF = "staff", _("staff")
        COMMAND = "command", _("command")
        PROVIDER = "provider", _("token provider")

    class Via(models.TextChoices):
        API = "api", _("API")
        MCP = "mcp", _("MCP")
        ADMIN = "admin", _("admin site")
        COMMAND = "command", _("command")

    at = models.DateTimeField()
    target_kind = models.CharField(max_length=40)
    target_id = models.CharField(max_length=100)
    account_id = models.UUIDField(null=True, help_text=_("The account that the target belongs to."))
    action = models.CharField(max_length=40)
    actor_kind = models.CharField(max_length=20, choices=ActorKind.choices)
    actor_id = models.CharField(max_length=500)
    via = models.CharField(max_length=20, choices=Via.choices)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    reason = models.TextField(blank=True, default="")

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["target_kind", "target_id", "-at", "-id"], name="event_of_target"),
            models.Index(fields=["account_id", "-at", "-id"], name="event_of_account"),
        ]

    def __str__(self) -> str:
        return f"{self.target_kind} {self.target_id} {self.action}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("An event never changes.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError("An event is never deleted.")
