"""Validates response bodies against our generated schema. `test_contract` compares that with the published schema.

Our own objects may only have the keys in the schema. Runs may have more, since Trigger.dev may add some.
"""

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from core.schema import document

OPEN_COMPONENTS = ("TaskRunResponse", "CreateContentRunOutput")


@cache
def strict_components() -> dict[str, Any]:
    components = document()["components"]["schemas"]
    return {
        name: schema if name in OPEN_COMPONENTS else {**schema, "additionalProperties": False}
        for name, schema in components.items()
    }


def check_response(method: str, path: str, response: Any) -> None:
    """Fails at the first key that does not match the schema. HEAD and OPTIONS responses are not checked."""
    if method in ("HEAD", "OPTIONS") or not path.startswith("/api/") or path.startswith("/api/schema"):
        return
    if response.status_code == 304:
        assert response.content == b""
        assert "304" in operations_at(path.rstrip("/"))[method.lower()]["responses"]
        return
    assert response["content-type"] == "application/json", response["content-type"]
    validator(documented_component(method, path.rstrip("/"), response.status_code)).validate(response.json())


def operations_at(path: str) -> Any:
    """Of the path itself, or of the one with a parameter in its place."""
    paths = document()["paths"]
    return paths.get(path) or paths.get(f"{path.rpartition('/')[0]}/{{id}}", {})


def documented_component(method: str, path: str, status: int) -> str:
    """The component documented for this status. Undocumented errors use the error component of the path."""
    operation = operations_at(path).get(method.lower(), {})
    response = operation.get("responses", {}).get(str(status))
    if response is None:
        assert status >= 400, f"{method} {path} answered {status}, which is not in the schema"
        return "TaskRunsErrorResponse" if path == "/api/tasks/runs" else "Error"
    reference: str = response["content"]["application/json"]["schema"]["$ref"]
    return reference.rsplit("/", 1)[1]


@cache
def validator(component: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{component}", "components": {"schemas": strict_components()}}
    return Draft202012Validator(schema, format_checker=FormatChecker())
