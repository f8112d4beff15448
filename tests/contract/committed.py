"""The committed copy of our OpenAPI document, docs/openapi.json: `make openapi` writes it, and a test compares it.

Run as `python -m tests.contract.committed`. A change that breaks clients is written only with BREAKING=1.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contract.comparison import differences, normalize_document, our_contract

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def breaking_changes(former: dict[str, Any], present: dict[str, Any]) -> Iterator[str]:
    """What clients of the former document may rely on and no longer get, and what they must send anew."""
    normalized = normalize_document(former)
    known = {**normalized.pop("operations"), **normalized}
    ours = our_contract(present, known=known)
    for line in differences(known, ours):
        kind, _, member = line.partition(" ")
        if kind == "removed" and is_of_request(member.split(" > ")) and "required" in member.split(" > ")[2:]:
            continue  # what need not be sent any more
        if kind in ("removed", "changed") or is_newly_required(member, ours) or is_new_constraint(member):
            yield line
    for path, methods in former["paths"].items():
        for method, operation in methods.items():
            now = present["paths"].get(path, {}).get(method, operation)["operationId"]
            if now != operation["operationId"]:
                yield f"changed {method.upper()} {path} > operationId from {operation['operationId']} to {now}"


# What refuses values that were accepted.
CONSTRAINTS = ("enum", "maxLength", "minLength", "pattern", "minimum", "maximum", "additionalProperties", "format")


def is_new_constraint(member: str) -> bool:
    steps = member.split(" > ")
    return is_of_request(steps) and steps[-1] in CONSTRAINTS


def is_of_request(steps: list[str]) -> bool:
    return "parameters" in steps or "body" in steps or (len(steps) > 1 and steps[1].endswith("Request"))


def is_newly_required(member: str, ours: dict[str, Any]) -> bool:
    steps = member.split(" > ")
    if len(steps) == 3 and steps[1] == "parameters":
        return bool(ours[steps[0]]["parameters"][steps[2]]["required"])
    return is_of_request(steps) and steps[-2] == "required"


def main() -> int:
    import django

    django.setup()
    from core.schema import document

    breaking = list(breaking_changes(json.loads(COMMITTED.read_text()), document())) if COMMITTED.exists() else []
    for line in breaking:
        sys.stdout.write(f"breaks clients: {line}\n")
    if breaking and not os.environ.get("BREAKING"):
        sys.stdout.write("docs/openapi.json was not written. BREAKING=1 writes it all the same.\n")
        return 1
    COMMITTED.write_text(as_text(document()))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recoup.settings")
    sys.exit(main())
