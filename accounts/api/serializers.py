"""Request and response serializers of the endpoints about accounts."""

import re
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from accounts.models import Account, AccountEmail, ApiKey, Membership
from core.pagination import CursorField
from core.serializers import (
    BodySerializer,
    BodyTimestampField,
    InvalidField,
    QueryIntegerField,
    QuerySerializer,
    TextField,
    TimestampField,
    UUIDField,
)

MAX_ARTISTS = 100
MAX_KEY_NAME = 200
KEY_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
OF_ACCOUNT = "Of this account, which the caller must be able to act for; the caller by default."


@extend_schema_field({"type": "string"})
class KeyIdField(serializers.Field[int, Any, str, Any]):
    """The id of an API key: a text of digits, as in the list of keys. A number is understood too."""

    def to_internal_value(self, data: Any) -> int:
        text = str(data) if isinstance(data, int) and not isinstance(data, bool) else data
        if not isinstance(text, str) or not KEY_ID.fullmatch(text):
            raise serializers.ValidationError("must be the id of a key, as in the list of keys.")
        return int(text)

    def to_representation(self, value: int) -> str:
        return str(value)


# --- Requests --------------------------------------------------------------------------------------------------------


class OrganizationListQuerySerializer(QuerySerializer):
    account_id = UUIDField(required=False, help_text=OF_ACCOUNT)


class ArtistListQuerySerializer(QuerySerializer):
    account_id = UUIDField(required=False, help_text=OF_ACCOUNT)
    org_id = UUIDField(required=False, help_text="Only artists of this organization, which must be the account's.")
    limit = QueryIntegerField(
        minimum=1,
        maximum=MAX_ARTISTS,
        required=False,
        help_text="The maximum number of artists; all by default, for an admin 100.",
    )
    cursor = CursorField(required=False, help_text="The `next_cursor` of the previous page.")


class CreateKeyRequestSerializer(BodySerializer):
    """A new key for oneself."""

    key_name = TextField(
        max_characters=MAX_KEY_NAME, required=False, help_text="What the key is for. Required, here or as `name`."
    )
    name = TextField(max_characters=MAX_KEY_NAME, required=False, help_text="The same as `key_name`.")
    expires_at = BodyTimestampField(
        required=False, allow_null=True, help_text="When it stops working; never by default."
    )

    def validated(self) -> dict[str, Any]:
        found = super().validated()
        names = {found.pop(name) for name in ("key_name", "name") if name in found}
        if not names:
            raise InvalidField("key_name is required.", ["key_name"])
        if len(names) > 1:
            raise InvalidField("key_name and name differ. Give one of them.", ["name"])
        expires_at = found.get("expires_at")
        if expires_at is not None and expires_at <= timezone.now():
            raise InvalidField("expires_at must be in the future.", ["expires_at"])
        return {"name": names.pop(), "expires_at": expires_at}


class DeleteKeyQuerySerializer(QuerySerializer):
    id = KeyIdField(required=False, help_text="The key, where the body does not name it.")


class DeleteKeyRequestSerializer(BodySerializer):
    """The key to delete. The query may name it instead."""

    id = KeyIdField(required=False, help_text="The key. Required, here or in the query.")

    def validated(self) -> dict[str, Any]:
        found = super().validated()
        if "id" not in found:
            raise InvalidField("id is required.", ["id"])
        return found


# --- Responses -------------------------------------------------------------------------------------------------------


class AccountIdResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    accountId = serializers.UUIDField(help_text="The account of the credential.")


class AdminResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    isAdmin = serializers.BooleanField(help_text="Whether the caller may act for every account.")


class ImageField(serializers.CharField):
    """Null where there is none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, help_text="The address of a picture; null without one.", **kwargs)

    def to_representation(self, value: Any) -> Any:
        return value or None


class OrganizationSerializer(serializers.ModelSerializer[Membership]):
    id = serializers.SerializerMethodField(help_text="Of the membership.")
    organization_id = serializers.UUIDField()
    organization_name = serializers.CharField(source="organization.name")
    organization_image = ImageField(source="organization.image")

    class Meta:
        model = Membership
        fields = ("id", "organization_id", "organization_name", "organization_image")

    def get_id(self, membership: Membership) -> str:
        return str(membership.pk)


@extend_schema_serializer(many=False)
class OrganizationsResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    organizations = OrganizationSerializer(many=True)


class AccountEmailSerializer(serializers.ModelSerializer[AccountEmail]):
    class Meta:
        model = AccountEmail
        fields = ("email", "is_primary")


class AccountSerializer(serializers.ModelSerializer[Account]):
    image = ImageField()
    emails = AccountEmailSerializer(many=True)
    organizations = OrganizationSerializer(source="memberships", many=True)

    class Meta:
        model = Account
        fields = ("id", "name", "image", "emails", "organizations")


class AccountResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    account = AccountSerializer()


class ArtistSerializer(serializers.ModelSerializer[Account]):
    """An artist that a task may have. What this service does not keep is null or empty."""

    account_id = serializers.UUIDField(source="id", help_text="The same as `id`: the `artist_account_id` of a task.")
    image = ImageField()
    instruction = serializers.SerializerMethodField()
    knowledges = serializers.SerializerMethodField()
    label = serializers.SerializerMethodField()  # type: ignore[assignment]
    pinned = serializers.BooleanField(help_text="Whether the account or its organization has pinned the artist.")
    account_socials = serializers.SerializerMethodField()

    class Meta:
        model = Account
        fields = (
            *("id", "account_id", "name", "image", "instruction", "knowledges", "label", "pinned"),
            "account_socials",
        )

    def get_instruction(self, artist: Account) -> str | None:
        return None

    def get_label(self, artist: Account) -> str | None:
        return None

    def get_knowledges(self, artist: Account) -> list[str]:
        return []

    def get_account_socials(self, artist: Account) -> list[str]:
        return []


@extend_schema_serializer(many=False)
class ArtistsResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    artists = ArtistSerializer(many=True)
    next_cursor = serializers.CharField(
        required=False, allow_null=True, help_text="With `limit`: the `cursor` of the next page; null on the last one."
    )


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    id = KeyIdField()
    prefix = serializers.CharField(help_text="The beginning of the key, by which people tell their keys apart.")
    created_at = TimestampField()
    last_used_at = TimestampField(allow_null=True)
    expires_at = TimestampField(allow_null=True)

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = ("id", "name", "prefix", "created_at", "last_used_at", "expires_at")


@extend_schema_serializer(many=False)
class KeysResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    keys = ApiKeySerializer(many=True)


class CreatedKeySerializer(ApiKeySerializer):
    status = serializers.ChoiceField(choices=["success"])
    key = serializers.CharField(help_text="The key. It is shown only once.")

    class Meta(ApiKeySerializer.Meta):
        fields: tuple[str, ...] = ("status", "key", *ApiKeySerializer.Meta.fields)


class SuccessResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
