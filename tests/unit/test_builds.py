"""Which recipe an archive is built by: what was registered, and what is asked for over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from modelswitch.archive.recipe import Image, Recipe
from modelswitch.builds import Builds
from modelswitch.errors import UsageError
from modelswitch.registry import RECIPE_TAG, ModelVersion, Registry
from modelswitch.store import ArchiveStore, BuildKey


class Asked:
    """A store that has nothing, and remembers what it was asked for."""

    def find_build(self, key: BuildKey) -> str | None:
        self.key = key
        return None


def recipe_of(registered: Mapping[str, Any] | None, recipe: Mapping[str, Any] | None) -> Recipe:
    tags = {RECIPE_TAG: json.dumps(registered)} if registered is not None else {}
    version = ModelVersion(
        *("faces", "1", None, "models:/m-1", "READY"),
        tags=tags,
        aliases=(),
        stage=None,
        description="",
        created_at=datetime.now(UTC),
    )
    store = Asked()
    builds = Builds(cast(Registry, None), cast(ArchiveStore, store), {})
    assert builds.find(version, recipe=recipe) is None
    return store.key.recipe


PICTURES = {"input": "image", "image": {"crop": 32, "labels": ["a", "b"]}, "batch_size": 2}


def test_another_engine_keeps_what_was_registered() -> None:
    found = recipe_of(PICTURES, {"engine": "onnx"})

    assert (found.engine, found.input, found.batch_size) == ("onnx", "image", 2)
    assert found.image == Image(crop=32, labels=["a", "b"])


def test_what_is_asked_for_stands_over_what_was_registered() -> None:
    found = recipe_of(PICTURES, {"batch_size": 8, "image": {"crop": 64}})

    assert found.batch_size == 8
    assert found.image == Image(crop=64, labels=["a", "b"])


def test_a_picture_model_may_be_asked_with_numbers_again() -> None:
    found = recipe_of(PICTURES, {"input": "json"})

    assert (found.input, found.image) == ("json", None)


@pytest.mark.parametrize(("registered", "recipe"), [(None, None), ({}, {}), (None, {})])
def test_without_either_it_is_the_default(registered: Any, recipe: Any) -> None:
    assert recipe_of(registered, recipe) == Recipe()


def test_a_tag_that_is_no_recipe_is_named() -> None:
    with pytest.raises(UsageError, match=f"the tag {RECIPE_TAG} of faces@1: batches"):
        recipe_of({"batches": 2}, {"batch_size": 2})
