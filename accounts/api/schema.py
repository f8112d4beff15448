"""How callers prove who they are, in the schema."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class CredentialScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.api.authentication.CredentialAuthentication"
    name = ["apiKeyAuth", "bearerAuth"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        return [{"apiKeyAuth": []}, {"bearerAuth": []}]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [{"type": "apiKey", "in": "header", "name": "x-api-key"}, {"type": "http", "scheme": "bearer"}]
