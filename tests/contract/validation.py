"""Holds a body to our generated schema, which `test_contract` holds to the published one.

Objects that are ours may have no other keys than the schema lists; a run may, since Trigger.dev may add some.
"""

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator, FormatChecker

OPEN_COMPONENTS = ("TaskRunResponse", "CreateContentRunOutput")


@cache
def generated() -> dict[str, Any]:
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return schema


@cache
def closed_components() -> dict[str, Any]:
    components = generated()["components"]["schemas"]
    return {
        name: schema if name in OPEN_COMPONENTS else {**schema, "additionalProperties": False}
        for name, schema in components.items()
    }


def check_answer(method: str, path: str, response: Any) -> None:
    """Fails with the first key of the body that is not as the schema says. A HEAD or an OPTIONS has no such body."""
    if method in ("HEAD", "OPTIONS") or not path.startswith("/api/") or path.startswith("/api/schema"):
        return
    if response.status_code == 304:
        assert response.content == b""
        assert "304" in generated()["paths"][path.rstrip("/")][method.lower()]["responses"]
        return
    assert response["content-type"] == "application/json", response["content-type"]
    validator(documented(method, path.rstrip("/"), response.status_code)).validate(response.json())


def documented(method: str, path: str, status: int) -> str:
    """The component that a status is documented with; what no operation documents has the error shape of its path."""
    operation = generated()["paths"].get(path, {}).get(method.lower(), {})
    answer = operation.get("responses", {}).get(str(status))
    if answer is None:
        assert status >= 400, f"{method} {path} answered {status}, which the schema does not know"
        return "TaskRunsErrorResponse" if path == "/api/tasks/runs" else "Error"
    reference: str = answer["content"]["application/json"]["schema"]["$ref"]
    return reference.rsplit("/", 1)[1]


@cache
def validator(component: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{component}", "components": {"schemas": closed_components()}}
    return Draft202012Validator(schema, format_checker=FormatChecker())
