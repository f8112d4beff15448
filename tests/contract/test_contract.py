import pytest
import yaml
from openapi_spec_validator import validate

from tasks.api import examples
from tests.contract.comparison import FOLDER, differences, ours, published
from tests.contract.validation import generated, validator


def test_our_schema_differs_from_the_published_one_in_the_listed_additions_only() -> None:
    listed = set(yaml.safe_load((FOLDER / "additions.yaml").read_text()))
    law = published()
    found = set(differences(law, ours(generated(), known=law)))
    assert found - listed == set(), "in our schema, and not listed in additions.yaml"
    assert listed - found == set(), "listed in additions.yaml, and not in our schema"


def test_our_schema_is_valid_openapi() -> None:
    validate(generated())


@pytest.mark.parametrize("name", ["TASKS", "RUNS", "FINISHED_RUN", "STARTED_RUN", "PREVIEW"])
def test_the_examples_of_the_docs_are_as_the_schema_says(name: str) -> None:
    component = {"TASKS": "TasksResponse", "PREVIEW": "PreviewResponse"}.get(name, "TaskRunListResponse")
    validator(component).validate(getattr(examples, name))


def test_every_error_of_every_operation_is_explained_with_an_example() -> None:
    for path, methods in generated()["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                if status == "304":
                    continue
                content = answer["content"]["application/json"]
                assert answer["description"], f"{method} {path} {status}"
                component = content["schema"]["$ref"].rsplit("/", 1)[1]
                for example in content["examples"].values():
                    validator(component).validate(example["value"])


def test_the_comparison_sees_what_is_removed_renamed_and_narrowed() -> None:
    law = published()
    narrowed = published()
    del narrowed["schemas"]["Task"]["properties"]["owner_email"]
    narrowed["schemas"]["Task"]["properties"]["model"]["type"] = ["string"]
    narrowed["GET /api/tasks/runs"]["parameters"]["limit"]["schema"]["maximum"] = 50
    del narrowed["GET /api/tasks/runs"]["responses"]["404"]
    narrowed["schemas"]["TaskRunListResponse"]["required"] = ["runs"]
    assert set(differences(law, narrowed)) == {
        "removed schemas > Task > properties > owner_email",
        "removed schemas > Task > properties > model > type > null",
        "changed GET /api/tasks/runs > parameters > limit > schema > maximum from 100 to 50",
        "removed GET /api/tasks/runs > responses > 404",
        "removed schemas > TaskRunListResponse > required > status",
    }
