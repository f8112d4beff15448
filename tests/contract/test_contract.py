import pytest
import yaml
from openapi_spec_validator import validate

from core.schema import document
from tasks.api import examples
from tests.contract.comparison import FOLDER, differences, our_contract, published_contract
from tests.contract.validation import validator


def test_our_schema_differs_from_the_published_schema_only_as_listed() -> None:
    listed = set(yaml.safe_load((FOLDER / "additions.yaml").read_text()))
    published = published_contract()
    found = set(differences(published, our_contract(document(), known=published)))
    assert found - listed == set(), "differences in our schema that additions.yaml does not list"
    assert listed - found == set(), "lines of additions.yaml that no longer apply"


def test_our_schema_is_valid_openapi() -> None:
    validate(document())


@pytest.mark.parametrize("name", ["TASKS", "RUNS", "FINISHED_RUN", "STARTED_RUN", "PREVIEW"])
def test_the_documented_examples_match_the_schema(name: str) -> None:
    component = {"TASKS": "TasksResponse", "PREVIEW": "PreviewResponse"}.get(name, "TaskRunListResponse")
    validator(component).validate(getattr(examples, name))


def test_every_response_of_every_operation_has_a_description_and_valid_examples() -> None:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                if status == "304":
                    continue
                content = response["content"]["application/json"]
                assert response["description"], f"{method} {path} {status}"
                component = content["schema"]["$ref"].rsplit("/", 1)[1]
                for example in content["examples"].values():
                    validator(component).validate(example["value"])


def test_a_description_is_of_one_thing() -> None:
    """Not that of the base class: readers of the schema do not know it."""
    schemas = document()["components"]["schemas"].values()
    found = [schema["description"] for schema in schemas if "description" in schema]
    assert len(found) == len(set(found))


def test_the_comparison_reports_removed_and_narrowed_members() -> None:
    published = published_contract()
    narrowed = published_contract()
    del narrowed["schemas"]["Task"]["properties"]["owner_email"]
    narrowed["schemas"]["Task"]["properties"]["model"]["type"] = ["string"]
    narrowed["GET /api/tasks/runs"]["parameters"]["limit"]["schema"]["maximum"] = 50
    del narrowed["GET /api/tasks/runs"]["responses"]["404"]
    narrowed["schemas"]["TaskRunListResponse"]["required"] = ["runs"]
    assert set(differences(published, narrowed)) == {
        "removed schemas > Task > properties > owner_email",
        "removed schemas > Task > properties > model > type > null",
        "changed GET /api/tasks/runs > parameters > limit > schema > maximum from 100 to 50",
        "removed GET /api/tasks/runs > responses > 404",
        "removed schemas > TaskRunListResponse > required > status",
    }
