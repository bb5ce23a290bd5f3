"""What a worker lacks of what a version needs."""

from __future__ import annotations

import pytest

from modelswitch.archive.needs import lacking, used_by
from modelswitch.archive.recipe import Recipe, parse_recipe
from modelswitch.errors import UsageError
from modelswitch.reports import Environment

WORKER = Environment(python="3.11.7", packages={"torch": "2.14.1+cu130", "numpy": "2.4.6"})


def test_library_of_the_flavor_must_be_of_the_same_minor_version() -> None:
    assert lacking(["torch==2.14.*"], WORKER) == []
    assert lacking(["torch==2.13.*"], WORKER) == [
        'it has torch 2.14.1+cu130, the model was logged with ==2.13.*: pip install "torch==2.13.*"'
    ]


@pytest.mark.parametrize("needs", ["numpy==1.26.4", "NumPy==2.4.6", "numpy>=2,<3", "numpy"])
def test_version_that_happened_to_be_installed_is_no_demand(needs: str) -> None:
    assert lacking([needs], WORKER) == []


@pytest.mark.parametrize("needs", ["numpy>=3", "numpy~=2.5", "numpy<2", "numpy!=2.4.6"])
def test_range_that_somebody_wrote_is_one(needs: str) -> None:
    [why] = lacking([needs], WORKER)

    assert why.startswith("it has numpy 2.4.6, the model was logged with")
    assert why.endswith(f'pip install "{needs}"')


def test_absent_package_is_named_with_what_mends_it() -> None:
    assert lacking(["torchvision==0.29.1"], WORKER) == [
        'it has no torchvision: pip install "torchvision==0.29.*"'
    ]


def test_another_build_of_a_library_is_that_library() -> None:
    worker = Environment(packages={"xgboost-cpu": "3.2.0", "mlflow": "3.17.2"})

    assert lacking(["xgboost==3.2.*", "mlflow-skinny"], worker) == []
    assert "it has xgboost 3.2.0" in lacking(["xgboost==3.1.*"], worker)[0]


def test_requirement_for_other_pythons_is_none() -> None:
    line = 'tomli==2.0; python_version < "3.11"'

    assert lacking([line], WORKER) == []
    assert lacking([line], WORKER.model_copy(update={"python": "3.10.2"})) == [
        'it has no tomli: pip install "tomli==2.0.*"'
    ]


def test_bytecode_of_another_python_is_said() -> None:
    [why] = lacking(["python==3.12.*"], WORKER)

    assert why == (
        "it has Python 3.11.7, and the model's pickled code was written by ==3.12.*: "
        "log it again by Python 3.11.*"
    )
    assert lacking(["python==3.11.*"], WORKER) == []


def test_environment_that_says_nothing_is_not_judged() -> None:
    assert lacking(["torch==1.0.*"], Environment()) == []


LINES = [
    "mlflow[gateway]==3.17.2",
    "torchvision==0.29.1  # for nms",
    "-r other.txt",
    "--extra-index-url https://example.org/simple",
    "",
    "# a comment",
    "git+https://example.org/repository.git",
    "./a.whl",
    "there @ https://example.org/there-1.0-py3-none-any.whl",
    "Cloud_Pickle[fast]==3.1.2",
    "torch",
]


def test_graphs_need_only_what_adds_operators_to_torch() -> None:
    assert used_by(LINES, ("torch", "torchvision"), {"torch": "2.14.1+cu130"}) == (
        "torch==2.14.*",
        "torchvision==0.29.1",
    )


def test_whatever_else_is_loaded_needs_all_that_was_written_down() -> None:
    assert used_by(LINES, None, {"mlflow-skinny": "", "python": "3.11.7"}) == (
        "cloud-pickle==3.1.2",
        "mlflow-skinny",
        "python==3.11.*",
        "there",
        "torch",
        "torchvision==0.29.1",
    )


def test_recipe_names_the_handler_release_that_is_installed() -> None:
    recipe = parse_recipe('{"batch_size": 4}')

    assert recipe.handler_release == Recipe().handler_release
    assert parse_recipe(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"batch": 4}', "batch"),
        ('{"batch_size": 0}', "batch_size"),
        ('{"batch_size": "4"}', "batch_size"),
        ('{"handler": "tensorflow"}', "handler"),
        ('{"module": "net.py"}', "module"),
        ('{"module": "net:Net", "handler": "onnx"}', "document"),
        ("[]", "document"),
        ("nonsense", "document"),
    ],
)
def test_wrong_recipe_is_refused_by_its_key(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        parse_recipe(text, source="tag modelswitch.recipe")
    assert str(caught.value.next).startswith("keys of a recipe: handler")
