"""Accounts, the organizations they share, the artists they work with, and their credentials.

An account is a person, an agent or an artist. Staff of the admin site are Django users, not accounts.
"""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy as _


class Account(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_authenticated(self) -> bool:
        """REST framework expects it of `request.user`."""
        return True


class AccountEmail(models.Model):
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="emails")
    email = models.EmailField()
    is_primary = models.BooleanField(blank=True, default=False, help_text=_("The first one is primary by itself."))

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
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    grants_admin = models.BooleanField(default=False, help_text=_("Its members may act for every account."))

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="memberships")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "organization"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.account} in {self.organization}"


class ArtistLink(models.Model):
    """An account, or an organization, works with an artist."""

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
