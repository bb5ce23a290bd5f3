"""What a worker lacks of what a version needs."""

from __future__ import annotations

import pytest

from modelswitch.archive.needs import lacking, used_by
from modelswitch.archive.recipe import Recipe, parse_recipe
from modelswitch.errors import UsageError
from modelswitch.reports import Environment

WORKER = Environment(python="3.11.7", packages={"torch": "2.14.1+cu130", "numpy": "2.4.6"})


@pytest.mark.parametrize(
    "needs", ["torch==2.14.1", "torch==2.14.0", "torch==2.14.1+cpu", "torch>=2.4", "torch", "Torch"]
)
def test_worker_with_the_same_minor_version_lacks_nothing(needs: str) -> None:
    assert lacking([needs], WORKER) == []


def test_other_minor_version_is_named_with_what_mends_it() -> None:
    assert lacking(["torch==2.13.1"], WORKER) == [
        'it has torch 2.14.1+cu130, the model was logged with ==2.13.1: pip install "torch==2.13.*"'
    ]


def test_absent_package_is_named_with_what_mends_it() -> None:
    assert lacking(["torchvision==0.29.1"], WORKER) == [
        'it has no torchvision: pip install "torchvision==0.29.*"'
    ]


def test_environment_that_says_nothing_is_not_judged() -> None:
    assert lacking(["torch==1.0"], Environment()) == []


def test_graphs_need_only_what_adds_operators_to_torch() -> None:
    lines = [
        "mlflow==3.17.2",
        "torchvision==0.29.1  # for nms",
        "-r other.txt",
        "",
        "cloudpickle",
        "torch",
    ]

    assert used_by("torch", lines, {"torch": "2.14.1"}) == ("torch==2.14.1", "torchvision==0.29.1")


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
        ('{"handler": "onnx"}', "handler"),
        ("[]", "document"),
        ("nonsense", "document"),
    ],
)
def test_wrong_recipe_is_refused_by_its_key(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        parse_recipe(text, source="tag modelswitch.recipe")
    assert str(caught.value.next).startswith("keys of a recipe: handler")
