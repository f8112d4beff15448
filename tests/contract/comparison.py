"""Compares two OpenAPI documents member by member, after normalizing notation and removing prose."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
PROSE = ("description", "summary", "example", "examples", "title", "operationId", "tags")
UNORDERED = ("required", "enum", "type", "security")


def published_contract() -> dict[str, Any]:
    """The published documents merged into one: operations by `METHOD path` and components by name."""
    documents = [yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "published").glob("*.yaml"))]
    merged: dict[str, Any] = {}
    for document in documents:
        normalized = normalize_document(document)
        for kind in normalized:
            merged.setdefault(kind, {}).update(normalized[kind])
    return {**merged.pop("operations"), **merged}


def our_contract(document: Mapping[str, Any], *, known: Mapping[str, Any]) -> dict[str, Any]:
    """Our document. Components that the published one does not have are inlined where they are used."""
    normalized = normalize_document(
        inline_references(document, document["components"]["schemas"], names=set(known["schemas"]))
    )
    schemas = {name: schema for name, schema in normalized["schemas"].items() if name in known["schemas"]}
    return {**normalized["operations"], "schemas": schemas, "securitySchemes": normalized["securitySchemes"]}


def normalize_document(document: Mapping[str, Any]) -> dict[str, Any]:
    operations = {
        f"{method.upper()} {path}": normalize_operation(operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    components = document["components"]
    return {
        "operations": operations,
        "schemas": {name: normalize_schema(schema) for name, schema in components["schemas"].items()},
        "securitySchemes": without_prose(components["securitySchemes"]),
    }


def normalize_operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {
        parameter["name"]: {
            "in": parameter["in"],
            "required": parameter.get("required", False),
            "schema": normalize_schema(parameter["schema"]),
        }
        for parameter in operation.get("parameters", [])
    }
    responses = {
        status: {media: normalize_schema(content["schema"]) for media, content in response.get("content", {}).items()}
        for status, response in operation["responses"].items()
    }
    body = operation.get("requestBody")
    request_body = (
        {media: normalize_schema(content["schema"]) for media, content in body["content"].items()} if body else {}
    )
    is_required = bool(body and body.get("required", False))
    security = sorted(scheme for requirement in operation["security"] for scheme in requirement)
    return {
        "parameters": parameters,
        "body": request_body,
        "body required": is_required,
        "responses": responses,
        "security": security,
    }


def normalize_schema(schema: Any) -> Any:
    """OpenAPI 3.0 `nullable` becomes the type `null`. Without a type it has no meaning."""
    if isinstance(schema, list):
        return [normalize_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    members = {key: value for key, value in schema.items() if key not in PROSE and key != "nullable"}
    if schema.get("nullable") and "type" in schema:
        members["type"] = [schema["type"], "null"]
    properties = members.pop("properties", None)
    normalized = {key: sorted(value) if key in UNORDERED and isinstance(value, list) else normalize_schema(value)
              for key, value in members.items()}  # fmt: skip
    if properties is not None:
        normalized["properties"] = {name: normalize_schema(value) for name, value in properties.items()}
    return normalized


def without_prose(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_prose(item) for key, item in value.items() if key not in PROSE}
    return value


def inline_references(value: Any, components: Mapping[str, Any], *, names: set[str]) -> Any:
    if isinstance(value, list):
        return [inline_references(item, components, names=names) for item in value]
    if not isinstance(value, Mapping):
        return value
    reference = value.get("$ref", "").rsplit("/", 1)[-1] if isinstance(value.get("$ref"), str) else ""
    if reference and reference not in names:
        return inline_references(components[reference], components, names=names)
    return {key: inline_references(item, components, names=names) for key, item in value.items()}


def differences(published: Any, ours: Any, *, at: str = "") -> Iterator[str]:
    """Yields one line for each outermost member that was added, removed or changed."""
    if isinstance(published, Mapping) and isinstance(ours, Mapping):
        for key in published.keys() | ours.keys():
            path = f"{at} > {key}" if at else str(key)
            if key not in ours:
                yield f"removed {path}"
            elif key not in published:
                yield f"added {path}"
            else:
                yield from differences(published[key], ours[key], at=path)
    elif (
        isinstance(published, list)
        and isinstance(ours, list)
        and all(isinstance(item, str) for item in published + ours)
    ):
        yield from (f"removed {at} > {item}" for item in published if item not in ours)
        yield from (f"added {at} > {item}" for item in ours if item not in published)
    elif published != ours:
        yield f"changed {at} from {published} to {ours}"
