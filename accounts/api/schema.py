"""How callers authenticate, and which errors that causes, in the OpenAPI schema."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

from accounts.api.authentication import NOT_EXACTLY_ONE
from accounts.api.permissions import OUT_OF_REACH
from core.schema import ErrorTexts, for_methods

ACCOUNT_ERROR_TEXTS: ErrorTexts = {
    **for_methods(401, "Not exactly one credential, or one that is unknown, expired or revoked.", NOT_EXACTLY_ONE),
    **for_methods(
        403,
        "`account_id` names an account that the caller may not act for, or that does not exist.",
        OUT_OF_REACH,
    ),
}


class CredentialScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.api.authentication.CredentialAuthentication"
    name = ["apiKeyAuth", "bearerAuth"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        return [{"apiKeyAuth": []}, {"bearerAuth": []}]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [{"type": "apiKey", "in": "header", "name": "x-api-key"}, {"type": "http", "scheme": "bearer"}]
