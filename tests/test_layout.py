"""Imports point down. Each row may import the rows above it and its own; what is in no row is a room nobody planned."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    ("accounts", "accounts.keys", "accounts.ids", "accounts.jwks", "accounts.migrations.*"),
    ("accounts.models", "accounts.counters"),
    ("accounts.access", "accounts.tokens", "accounts.limits"),
    ("accounts.authentication", "accounts.permissions", "accounts.filters", "accounts.openapi"),
    ("accounts.admin", "accounts.apps", "accounts.lookup", "accounts.staff"),
    ("accounts.management*",),
    (
        "tasks",
        "tasks.cron",
        "tasks.cron_words",
        "tasks.zones",
        "tasks.lifeline",
        "tasks.moments",
        "tasks.trigger",
        "tasks.trigger.errors",
        "tasks.trigger.types",
        "tasks.trigger.transport",
        "tasks.trigger.answers",
        "tasks.trigger.client",
        "tasks.breaker",
        "tasks.fair_threads",
        "tasks.flights",
        "tasks.payers",
    ),
    ("tasks.trigger.standin*",),
    ("tasks.pace", "tasks.schedule_list"),
    ("tasks.budget",),
    ("tasks.manners",),
    ("tasks.upstream", "tasks.models", "tasks.migrations.*"),
    ("tasks.run_owners", "tasks.lookups"),
    ("tasks.snapshots", "tasks.fires"),
    ("tasks.known",),
    ("tasks.runs", "tasks.paging"),
    ("tasks.environment",),
    ("tasks.schedules",),
    ("tasks.settling",),
    ("tasks.enrichment", "tasks.started_runs", "tasks.waiting"),
    ("tasks.rendering",),
    ("tasks.writes",),
    ("tasks.idempotency", "tasks.reconciliation"),
    ("tasks.surplus",),
    ("tasks.sync", "tasks.sync_lock"),
    ("tasks.serializers", "tasks.bodies", "tasks.permissions"),
    ("tasks.filters",),
    ("tasks.demo_data", "tasks.examples", "tasks.api_views"),
    ("tasks.admin", "tasks.openapi", "tasks.views", "tasks.run_views", "tasks.urls", "tasks.apps", "tasks.management*"),
    ("recoup*",),
    ("tests*",),
)
# The only modules that may import these.
DOORS = {
    "requests": ("tasks.trigger.client", "tasks.trigger.answers", "tasks.trigger.transport", "accounts.jwks", "tests*"),
    "jwt": ("accounts.jwks", "accounts.tokens", "tests*"),
    "croniter": ("tasks.cron",),
    "cron_descriptor": ("tasks.cron_words",),
    "hashlib": (
        "accounts.keys",
        "tasks.trigger.standin.shapes",
        "tasks.demo_data",
        "tasks.management.commands.seed_demo",
        "tests*",
    ),
    "tasks.trigger.standin": (
        "tasks.trigger.standin*",
        "tasks.management.commands.run_trigger_standin",
        "tasks.management.commands.seed_demo",
        "tests*",
    ),
    "django": ("accounts*", "tasks*", "recoup*", "tests*"),
}
# What knows neither Django nor our models.
PURE = (
    *("accounts.keys", "accounts.ids", "tasks.cron*", "tasks.zones", "tasks.lifeline", "tasks.moments"),
    *("tasks.trigger*", "tasks.schedule_list", "tasks.pace", "tasks.breaker", "tasks.payers"),
    *("tasks.fair_threads", "tasks.flights"),
)


def modules() -> dict[str, Path]:
    found = {}
    for package in ("accounts", "tasks", "recoup", "tests"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """(name, statement) of everything that a file imports, whatever line it is on."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else node.module), node


def layer(module: str) -> int:
    for number, row in enumerate(LAYERS):
        if any(fnmatchcase(module, pattern) for pattern in row):
            return number
    raise AssertionError(f"{module} is in no row of LAYERS")


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        if name in MODULES:
            assert layer(name) <= layer(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_each_door_is_used_by_its_own_room_only(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        for door, rooms in DOORS.items():
            if name == door or name.startswith(door + "."):
                assert matches(module, rooms), f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if matches(module, PURE)])
def test_the_pure_rooms_know_neither_django_nor_our_models(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        assert not name.startswith(("django", "rest_framework", "accounts.models", "tasks.models")), name


def test_no_modules_import_each_other() -> None:
    graph = {module: {name for name, _ in imports(path) if name in MODULES} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_our_own_code_is_imported_at_the_top(module: str) -> None:
    if module.endswith(".apps"):
        return
    late = [name for name, node in imports(MODULES[module]) if name in MODULES and node.col_offset > 0]
    assert late == [], f"{module} imports {late} late"


def test_imports_are_absolute() -> None:
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_files_are_short_enough_to_understand() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in MODULES.items() if not name.startswith("tests")}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}
