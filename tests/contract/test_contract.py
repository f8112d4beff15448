import yaml
from openapi_spec_validator import validate

from tests.contract.comparison import FOLDER, differences, ours, published
from tests.contract.validation import generated


def test_our_schema_differs_from_the_published_one_in_the_listed_additions_only() -> None:
    listed = set(yaml.safe_load((FOLDER / "additions.yaml").read_text()))
    law = published()
    found = set(differences(law, ours(generated(), known=law)))
    assert found - listed == set(), "in our schema, and not listed in additions.yaml"
    assert listed - found == set(), "listed in additions.yaml, and not in our schema"


def test_our_schema_is_valid_openapi() -> None:
    validate(generated())


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
