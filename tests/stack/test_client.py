"""The SDK and `bench` against the real TorchServe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import modelswitch
from modelswitch.errors import BadRequest, NotFound, NotServed, Overloaded
from tests.stack.deployment import Deployment, wait_for
from tests.stack.models import MODEL, REQUEST, answer_of


@pytest.fixture
def standing(deployment: Deployment) -> Deployment:
    deployment.stand("2", back="1")
    wait_for(lambda: deployment.all_serve() == {"2"})
    return deployment


@pytest.fixture
def client(standing: Deployment) -> Iterator[modelswitch.Client]:
    with modelswitch.Client(standing.urls["a"]) as made:
        yield made


def test_what_serves_and_what_has_a_label_answer_and_say_who_they_are(
    standing: Deployment, client: modelswitch.Client
) -> None:
    served, back = standing.slot("2"), standing.slot("1")
    values = [[1.0, 2.0]]
    for inputs in (values, REQUEST, np.array(values, np.float32), torch.tensor(values)):
        said = client.predict(MODEL, inputs)
        assert said.outputs == answer_of("2")
        assert (said.version, said.digest) == ("2", served.digest)
    older = client.predict(MODEL, values, version=back.label)
    assert (older.numpy().tolist(), older.digest) == (answer_of("1"), back.digest)


async def test_the_async_client_gets_the_same(standing: Deployment) -> None:
    async with modelswitch.AsyncClient(standing.urls["b"]) as client:
        said = await client.predict(MODEL, REQUEST)
    assert (said.outputs, said.model_version) == (answer_of("2"), f"{MODEL}@2")


def test_arrays_go_and_come_as_they_are(client: modelswitch.Client) -> None:
    rows = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    said = client.predict(MODEL, rows, answer="npy")
    np.testing.assert_array_equal(said.numpy(), 2 * rows)
    assert said.numpy().dtype == np.float32


def test_refusals_have_their_types(client: modelswitch.Client) -> None:
    with pytest.raises(BadRequest) as raised:
        client.predict(MODEL, [[1.0, 2.0, 3.0]])
    assert raised.value.model_version == f"{MODEL}@2"
    with pytest.raises(NotServed, match="nothing answered 404"):
        client.predict("nothing", [1])
    with pytest.raises(NotServed):
        client.predict(MODEL, [1], version="9-00000000")


def test_nothing_in_production_is_told_apart_by_the_facade(deployment: Deployment) -> None:
    deployment.clear()
    assert deployment.run("promote", f"{MODEL}@1", "--to", "staging", "--reason", "x").exit == 0
    with modelswitch.Client(deployment.urls["a"]) as client, pytest.raises(Overloaded) as raised:
        client.predict(MODEL, REQUEST)
    assert raised.value.reason == "queue_full_or_no_worker"
    assert raised.value.retry_after_s == 1.0
    with pytest.raises(NotFound, match="no version in production"):
        deployment.switch.served.predict(MODEL, REQUEST)


def test_bench_measures_a_label_and_reads_the_servers_own_times(
    standing: Deployment, tmp_path: Path
) -> None:
    picture = tmp_path / "bench.png"
    short = ("--clients", "1,2", "--seconds", "1", "--warm-up", "1", "--sla-ms", "10000")
    said = standing.run("bench", f"{MODEL}@1", *short, "--picture", str(picture))
    assert said.exit == 0, said
    data = said.document["data"]
    assert data["subject"]["label"] == standing.slot("1").label
    assert data["subject"]["body_from"] == "golden request"
    assert [point["clients"] for point in data["points"]] == [1, 2]
    for point in data["points"]:
        assert point["errors"] == {}
        assert point["requests"] > 0
        assert 0 < point["p50_ms"] <= point["p95_ms"] <= point["p99_ms"] <= point["max_ms"]
        assert point["queue_ms"] >= 0
        assert 0 < point["worker_ms"] < point["mean_ms"]
        assert point["others"] == 0
    assert data["sla"] == {"ms": 10000.0, "percentile": 95, "holds_up_to": 2, "fails_at": None}
    assert data["suggestion"]["why"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bench_says_what_one_request_would(standing: Deployment, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"inputs": [[1.0, 2.0, 3.0]]}))
    said = standing.run("bench", MODEL, "--input", str(wrong))
    assert (said.exit, said.code) == (1, "bad_request")
    assert standing.run("bench", f"{MODEL}@3").code == "refused"
    assert standing.run("bench", "nothing").code == "not_found"
