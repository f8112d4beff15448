"""Compares two OpenAPI documents member by member, by what they mean and not by how they write it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
PROSE = ("description", "summary", "example", "examples", "title", "operationId", "tags")
UNORDERED = ("required", "enum", "type", "security")


def published() -> dict[str, Any]:
    """The published documents as one: operations by `METHOD path`, and components by name."""
    documents = [yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "published").glob("*.yaml"))]
    merged: dict[str, Any] = {}
    for document in documents:
        normal = normalized(document)
        for kind in normal:
            merged.setdefault(kind, {}).update(normal[kind])
    return {**merged.pop("operations"), **merged}


def ours(document: Mapping[str, Any], *, known: Mapping[str, Any]) -> dict[str, Any]:
    """Our document; a component that the published one does not name is written out where it is used."""
    normal = normalized(inlined(document, document["components"]["schemas"], names=set(known["schemas"])))
    schemas = {name: schema for name, schema in normal["schemas"].items() if name in known["schemas"]}
    return {**normal["operations"], "schemas": schemas, "securitySchemes": normal["securitySchemes"]}


def normalized(document: Mapping[str, Any]) -> dict[str, Any]:
    operations = {
        f"{method.upper()} {path}": normal_operation(operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    components = document["components"]
    return {
        "operations": operations,
        "schemas": {name: normal_schema(schema) for name, schema in components["schemas"].items()},
        "securitySchemes": plain(components["securitySchemes"]),
    }


def normal_operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {
        parameter["name"]: {
            "in": parameter["in"],
            "required": parameter.get("required", False),
            "schema": normal_schema(parameter["schema"]),
        }
        for parameter in operation.get("parameters", [])
    }
    responses = {
        status: {media: normal_schema(content["schema"]) for media, content in answer.get("content", {}).items()}
        for status, answer in operation["responses"].items()
    }
    body = operation.get("requestBody")
    sent = {media: normal_schema(content["schema"]) for media, content in body["content"].items()} if body else {}
    security = sorted(scheme for requirement in operation["security"] for scheme in requirement)
    return {"parameters": parameters, "body": sent, "responses": responses, "security": security}


def normal_schema(schema: Any) -> Any:
    """`nullable` in its 3.0 meaning becomes a type; without a type it says nothing."""
    if isinstance(schema, list):
        return [normal_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: value for key, value in schema.items() if key not in PROSE and key != "nullable"}
    if schema.get("nullable") and "type" in schema:
        found["type"] = [schema["type"], "null"]
    properties = found.pop("properties", None)
    normal = {key: sorted(value) if key in UNORDERED and isinstance(value, list) else normal_schema(value)
              for key, value in found.items()}  # fmt: skip
    if properties is not None:
        normal["properties"] = {name: normal_schema(value) for name, value in properties.items()}
    return normal


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if key not in PROSE}
    return value


def inlined(value: Any, components: Mapping[str, Any], *, names: set[str]) -> Any:
    if isinstance(value, list):
        return [inlined(item, components, names=names) for item in value]
    if not isinstance(value, Mapping):
        return value
    reference = value.get("$ref", "").rsplit("/", 1)[-1] if isinstance(value.get("$ref"), str) else ""
    if reference and reference not in names:
        return inlined(components[reference], components, names=names)
    return {key: inlined(item, components, names=names) for key, item in value.items()}


def differences(theirs: Any, mine: Any, *, at: str = "") -> Iterator[str]:
    """One line for each outermost member that was added, removed or changed."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        for key in theirs.keys() | mine.keys():
            place = f"{at} > {key}" if at else str(key)
            if key not in mine:
                yield f"removed {place}"
            elif key not in theirs:
                yield f"added {place}"
            else:
                yield from differences(theirs[key], mine[key], at=place)
    elif isinstance(theirs, list) and isinstance(mine, list) and all(isinstance(item, str) for item in theirs + mine):
        yield from (f"removed {at} > {item}" for item in theirs if item not in mine)
        yield from (f"added {at} > {item}" for item in mine if item not in theirs)
    elif theirs != mine:
        yield f"changed {at} from {theirs} to {mine}"
