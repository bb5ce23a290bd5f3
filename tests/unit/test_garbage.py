"""Loading is not stopped by the collector, and the collector works again afterwards."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelswitch.garbage import uncollected
from modelswitch.handlers.modelswitch_protocol import DOCUMENT, Worker


class Model:
    """An engine that notes whether garbage was looked for while it loaded."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.was_collecting: bool | None = None

    def load(self, folder: Path, document: dict[str, Any]) -> None:
        self.was_collecting = gc.isenabled()
        if self.error:
            raise self.error

    def decode(self, body: dict[str, Any]) -> Any:
        return body

    def predict(self, questions: list[Any]) -> list[Any]:
        return questions

    def encode(self, question: Any, output: Any) -> Any:
        return output


@pytest.fixture
def context(tmp_path: Path) -> Iterator[SimpleNamespace]:
    document = {"identity": {"model": "digits", "version": "3"}, "golden": None, "recipe": {}}
    (tmp_path / DOCUMENT).write_text(json.dumps(document))
    yield SimpleNamespace(system_properties={"model_dir": str(tmp_path)})
    gc.unfreeze()


def test_the_collector_rests_inside_and_works_after() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_works_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="torn"), uncollected():
        raise ValueError("torn")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_worker_sets_what_it_has_loaded_apart_from_garbage(context: SimpleNamespace) -> None:
    model = Model()

    Worker(model)(None, context)

    assert model.was_collecting is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_a_worker_that_cannot_load_collects_again(context: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="torn"):
        Worker(Model(ValueError("torn")))(None, context)
    assert gc.isenabled()
