"""docs/openapi.json is what we serve, and no change breaks the clients that were made from it."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from core.schema import document
from tests.contract.committed import COMMITTED, as_text, breaking_changes

Change = Callable[[dict[str, Any]], object]


def test_nothing_breaks_a_client_of_the_committed_document() -> None:
    assert list(breaking_changes(json.loads(COMMITTED.read_text()), document())) == []


def test_the_committed_document_is_what_we_serve() -> None:
    assert COMMITTED.read_text() == as_text(document()), 'docs/openapi.json is out of date: run "make openapi"'


def operation(changed: dict[str, Any], path: str = "/api/tasks", method: str = "get") -> Any:
    return changed["paths"][path][method]


def schema(changed: dict[str, Any], name: str) -> Any:
    return changed["components"]["schemas"][name]


NEW_PARAMETER = {"in": "query", "name": "new", "schema": {"type": "string"}}


@pytest.mark.parametrize(
    ("change", "is_breaking"),
    [
        (lambda it: it["paths"].pop("/api/keys"), True),
        (lambda it: operation(it)["parameters"].pop(), True),
        (lambda it: operation(it)["responses"].pop("200"), True),
        (lambda it: schema(it, "Task")["properties"].pop("prompt"), True),
        (lambda it: schema(it, "Artist")["properties"]["name"].update(type="integer"), True),
        (lambda it: schema(it, "CreateTaskRequest")["required"].append("model"), True),
        (lambda it: operation(it)["parameters"].append({**NEW_PARAMETER, "required": True}), True),
        (lambda it: operation(it).update(operationId="other"), True),
        (lambda it: schema(it, "CreateTaskRequest")["properties"]["title"].update(maxLength=5), True),
        (lambda it: schema(it, "CreateKeyRequest").update(additionalProperties=False), True),
        (lambda it: operation(it)["parameters"][0]["schema"].update(enum=["x"]), True),
        (lambda it: schema(it, "CreateTaskRequest")["required"].remove("prompt"), False),
        (lambda it: schema(it, "Task").update(required=["id"]), False),
        (lambda it: operation(it)["parameters"].append(NEW_PARAMETER), False),
        (lambda it: schema(it, "Task")["properties"].update(new={"type": "string"}), False),
        (lambda it: it["paths"].update({"/api/new": it["paths"]["/api/keys"]}), False),
        (lambda it: operation(it).update(summary="Other words"), False),
    ],
)
def test_a_breaking_change_is_told_from_an_addition(change: Change, is_breaking: bool) -> None:
    changed = copy.deepcopy(document())
    change(changed)
    assert bool(list(breaking_changes(document(), changed))) == is_breaking
