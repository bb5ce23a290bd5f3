"""A transformers pipeline, made here without any hub, from MLflow to an answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack.deployment import Deployment

pytestmark = pytest.mark.stack

NAME = "moods"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
TEXTS = ["a good film", "a bad film", "good", "film film film"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A text classifier of one small layer; what it says means nothing, but is its own."""
    import torch
    import transformers

    vocabulary = tmp_path_factory.mktemp("words") / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=1.0,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    return transformers.pipeline(
        "text-classification",
        model=transformers.BertForSequenceClassification(config).eval(),
        tokenizer=transformers.BertTokenizerFast(vocab_file=str(vocabulary)),
    )


@pytest.fixture(scope="module")
def moods(deployment: Deployment, pipe: Any) -> Iterator[Deployment]:
    log(pipe, deployment.tracking_uri)
    said = deployment.run("promote", f"{NAME}@1", "--reason", "to see what it says")
    assert said.exit == 0, said
    yield deployment
    said = deployment.run("retire", NAME, "--reason", "seen", "--yes")
    assert said.exit == 0, said


def log(pipe: Any, tracking_uri: str) -> None:
    import mlflow

    before = dict(os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"  # else it asks a hub for the model's card
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("tests")
    with mlflow.start_run():
        mlflow.transformers.log_model(
            pipe,
            name=NAME,
            input_example=["a good film"],
            pip_requirements=["mlflow", "torch", "transformers"],
            registered_model_name=NAME,
        )
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def test_every_server_says_what_the_pipeline_says(moods: Deployment, pipe: Any) -> None:
    wanted = [{"label": found["label"], "score": found["score"]} for found in pipe(TEXTS)]
    assert len({found["label"] for found in wanted}) == 2  # else any answer would do

    for server in moods.urls:
        answer = moods.ask(server, NAME, json={"inputs": TEXTS})

        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model-version"] == f"{NAME}@1"
        for found, expected in zip(answer.json()["predictions"], wanted, strict=True):
            assert found["label"] == expected["label"]
            assert found["score"] == pytest.approx(expected["score"], rel=1e-4)


@pytest.mark.parametrize("body", [{"inputs": 3}, {"inputs": []}, {"inputs": [{"x": 1}]}, {}])
def test_what_is_no_text_is_a_4xx(moods: Deployment, body: Any) -> None:
    answer = moods.ask("a", NAME, json=body)

    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["message"]


def test_the_archive_says_that_loading_it_runs_code(moods: Deployment, tmp_path: Path) -> None:
    said = moods.run("show", f"{NAME}@1")

    assert said.exit == 0
    assert "pyfunc" in said.out
    assert said.document["data"]["archives"][0]["runs_code"] is True
