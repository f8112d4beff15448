"""How callers authenticate, which errors that causes, and the operations of this app, in the OpenAPI schema."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from accounts.api.authentication import NOT_EXACTLY_ONE
from accounts.api.permissions import OUT_OF_REACH
from accounts.api.serializers import (
    AccountIdResponseSerializer,
    AccountResponseSerializer,
    AdminResponseSerializer,
    ArtistsResponseSerializer,
    CreatedKeySerializer,
    CreateKeyRequestSerializer,
    DeleteKeyRequestSerializer,
    KeysResponseSerializer,
    OrganizationsResponseSerializer,
    SuccessResponseSerializer,
)
from core.schema import ErrorTexts, for_methods

NO_SUCH_ACCOUNT = "Account not found"
NO_SUCH_KEY = "Key not found"
ALL = ("GET", "POST", "DELETE")
OWN_ERROR_TEXTS: ErrorTexts = {
    **for_methods(401, "Not exactly one credential, or one that is unknown, expired or revoked.", NOT_EXACTLY_ONE),
    **for_methods(
        429,
        "Too many requests per minute with one credential or from one address. `Retry-After` says when to try again.",
        "More than 3000 requests per minute with this credential. Try again in 7 seconds.",
    ),
}
ACCOUNT_ERROR_TEXTS: ErrorTexts = {
    **OWN_ERROR_TEXTS,
    **for_methods(
        403,
        "`account_id` names an account that the caller may not act for, or that does not exist.",
        OUT_OF_REACH,
    ),
}
ACCOUNT_BY_ID_ERROR_TEXTS: ErrorTexts = {
    **OWN_ERROR_TEXTS,
    **for_methods(404, "No such account, or none that the caller may act for.", NO_SUCH_ACCOUNT),
}
KEY_ERROR_TEXTS: ErrorTexts = {
    **OWN_ERROR_TEXTS,
    **for_methods(
        400, "The body is not a JSON object, or a field is unknown, missing or wrong.", "key_name is required."
    ),
    ("GET", 400): ("A parameter is unknown.", "Unknown parameter 'account_id'. This request has no parameters."),
    ("DELETE", 404): ("No such key of the caller.", NO_SUCH_KEY),
}


class CredentialScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.api.authentication.CredentialAuthentication"
    name = ["apiKeyAuth", "bearerAuth"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        return [{"apiKeyAuth": []}, {"bearerAuth": []}]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [{"type": "apiKey", "in": "header", "name": "x-api-key"}, {"type": "http", "scheme": "bearer"}]


ALICE, ARTIST = "f01b6f46-2367-5b77-b640-f7bffcf5ba36", "7a48e9c7-3e14-5a29-a211-498a6743b8fa"
ORGANIZATION = {
    "id": "1",
    "organization_id": "6e3a4a5e-51c5-5b0e-8f5f-0a3a1f1d0c11",
    "organization_name": "Northlight Records",
    "organization_image": None,
}
KEY = {
    "id": "12",
    "name": "Nightly report",
    "prefix": "recoup_sk_Qm3xZt",
    "created_at": "2026-11-22T01:07:21.589Z",
    "last_used_at": None,
    "expires_at": "2027-05-22T01:07:21.589Z",
}


def response(serializer: Any, description: str, example: dict[str, Any]) -> dict[int, OpenApiResponse]:
    example = {"status": "success", **example}
    examples = [OpenApiExample("Success", example)]
    return {200: OpenApiResponse(serializer, description=description, examples=examples)}


get_account_id = extend_schema(
    operation_id="get_account_id",
    summary="Who am I",
    responses=response(AccountIdResponseSerializer, "The account of the credential.", {"accountId": ALICE}),
)
get_account = extend_schema(
    operation_id="get_account",
    summary="Retrieve an account",
    description="The caller's own account, or one that it may act for.",
    parameters=[
        OpenApiParameter(
            "id",
            {"type": "string", "format": "uuid"},
            OpenApiParameter.PATH,
            examples=[OpenApiExample("The demo's Alice", ALICE)],
        )
    ],
    responses=response(
        AccountResponseSerializer,
        "The account.",
        {
            "account": {
                "id": ALICE,
                "name": "Alice Moreau",
                "image": None,
                "emails": [{"email": "alice@northlight.example", "is_primary": True}],
                "organizations": [ORGANIZATION],
            }
        },
    ),
)
get_admin = extend_schema(
    operation_id="get_admin",
    summary="Am I an admin",
    responses=response(AdminResponseSerializer, "Whether the caller may act for every account.", {"isAdmin": False}),
)
list_organizations = extend_schema(
    operation_id="list_organizations",
    summary="List organizations",
    description="The organizations of the caller, or of an account that it may act for.",
    responses=response(OrganizationsResponseSerializer, "By name.", {"organizations": [ORGANIZATION]}),
)
list_artists = extend_schema(
    operation_id="list_artists",
    summary="List artists",
    description=(
        "Exactly the accounts that the caller, or an account that it may act for, may name as `artist_account_id` of "
        "a task, newest first. An admin's own list holds every account, page by page."
    ),
    responses=response(
        ArtistsResponseSerializer,
        "The artists; an empty list where there are none.",
        {
            "artists": [
                {
                    "id": ARTIST,
                    "account_id": ARTIST,
                    "name": "Mira Solène",
                    "image": None,
                    "instruction": None,
                    "knowledges": [],
                    "label": None,
                    "pinned": True,
                    "account_socials": [],
                }
            ]
        },
    ),
)
list_keys = extend_schema(
    operation_id="list_keys",
    summary="List API keys",
    description="The caller's own keys that were not revoked, newest first. No key can be read again.",
    responses=response(KeysResponseSerializer, "The keys.", {"keys": [KEY]}),
)
create_key = extend_schema(
    operation_id="create_key",
    summary="Create an API key",
    description="For the caller itself. A key that is made with an expiring key expires no later than that one.",
    request=CreateKeyRequestSerializer,
    examples=[OpenApiExample("A key", {"key_name": "Nightly report"}, request_only=True)],
    responses=response(
        CreatedKeySerializer,
        "The key, shown only once.",
        {"key": "recoup_sk_Qm3xZtR0b8sK5vY2nW7cJ4hL1pD6fG9aT3eU0iO8wXq", **KEY},
    ),
)
delete_key = extend_schema(
    operation_id="delete_key",
    summary="Delete an API key",
    description="It stops working at once. The id may be in the body or in the query.",
    request=DeleteKeyRequestSerializer,
    responses=response(SuccessResponseSerializer, "The key is revoked.", {}),
)
