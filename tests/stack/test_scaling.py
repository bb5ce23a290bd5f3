"""Workers and recipes changed on real servers, under load: no call fails, none is wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.archive.verify import read_document
from modelswitch.archive.writer import write
from modelswitch.line import Slot
from tests.stack.clients import Clients
from tests.stack.deployment import WHY, Deployment
from tests.stack.models import MODEL

SLOW = """
_quick = TorchModel.run

def _slow(self, arrays):
    import time
    time.sleep(0.04)
    return _quick(self, arrays)

TorchModel.run = _slow
"""


@pytest.fixture
def standing(deployment: Deployment) -> Iterator[Deployment]:
    """2 serves with one worker, 1 is the way back; afterwards everything must be as it was."""
    deployment.stand("2", back="1")
    yield deployment
    deployment.switch.moves.scale(MODEL, deployment.slot("2"), 1, WHY)
    assert deployment.all_serve() == {"2"}
    deployment.assert_one_story()


def ready(deployment: Deployment) -> list[int]:
    label = deployment.slot("2").label
    return [r.slot(MODEL, label).workers for r in deployment.switch.reports()]


def test_workers_come_and_go_under_load_and_no_call_notices(standing: Deployment) -> None:
    with Clients(list(standing.urls.values())) as clients:
        up = standing.run("scale", MODEL, "--workers", "2", "--reason", "a test")
        assert up.exit == 0, up
        assert set(ready(standing)) == {2}
        again = standing.run("scale", MODEL, "--workers", "2", "--reason", "a test")
        assert (again.exit, again.document["data"]["changed"]) == (0, False)
        refused = standing.run("scale", MODEL, "--workers", "1000", "--reason", "a test")
        assert refused.code == "refused"
        assert f"does not fit: {MODEL}@2: 1000 workers × " in refused.message
        print(refused.message)
        down = standing.run("scale", f"{MODEL}@2", "--workers", "1", "--reason", "a test")
        assert down.exit == 0, down
        assert set(ready(standing)) == {1}
    print(f"scaled up and down: {clients}")
    assert (clients.failed, clients.wrong) == ([], [])
    assert set(clients.answered) == {"2"}


def test_another_recipe_of_a_version_is_switched_and_rolled_back_like_a_version(
    standing: Deployment, tmp_path: Path
) -> None:
    recipe = tmp_path / "faster.toml"
    recipe.write_text("[recipe]\nresponse_timeout_s = 2\nbatch_size = 4\nmax_batch_delay_ms = 3\n")
    line = ("promote", f"{MODEL}@2", "--recipe", str(recipe), "--reason", "a test of batches")
    with Clients(list(standing.urls.values())) as clients:
        dry = standing.run(*line, "--dry-run")
        assert dry.exit == 3, dry
        done = standing.run(*line)
        assert done.exit == 0, done
        batched = standing.line.serving[0]
        assert [slot.version for slot in standing.line.serving] == ["2", "2"]
        document = standing.switch.versions.document(batched.digest)
        assert document is not None
        assert document.recipe.batch_size == 4
        again = standing.run(*line)
        assert (again.exit, again.document["data"]["changed"]) == (0, False)
        back = standing.run("rollback", MODEL, "--reason", "a test goes back")
        assert back.exit == 0, back
    print(f"another recipe and back: {clients}")
    assert (clients.failed, clients.wrong) == ([], [])
    assert set(clients.answered) == {"2"}
    assert standing.line.serving[0].digest == standing.slot("2").digest
    listed = standing.run("quarantine", "list").document["data"]
    assert [(e["digest"], e["whole_version"]) for e in listed] == [(batched.digest, False)]
    assert standing.run(*line).code == "quarantined"


def slowed(deployment: Deployment, folder: Path, version: str) -> Slot:
    """The same version, answering right and slowly: its workers are busy all the time."""
    good = folder / "good.mar"
    deployment.switch.store.fetch(deployment.slot(version).digest, good)
    document, _ = read_document(good)
    with zipfile.ZipFile(good) as archive:
        entries = {name: archive.read(name) for name in document.entries}
    entries["modelswitch_torch.py"] += SLOW.encode()
    written = write(folder, document.model_copy(update={"entries": {}}), entries)
    deployment.switch.store.put(written.path, written.digest)
    return Slot(version, written.digest)


def test_fewer_workers_lose_no_request_though_all_of_them_are_busy(
    standing: Deployment, tmp_path: Path
) -> None:
    slot = slowed(standing, tmp_path, "2")
    standing.switch.moves.promote(MODEL, slot, WHY)
    with Clients(list(standing.urls.values()), count=24) as clients:
        for workers in (3, 1, 3, 1):
            standing.switch.moves.scale(MODEL, slot, workers, WHY)
    print(f"scaled while busy: {clients}")
    standing.switch.moves.rollback(MODEL, WHY, quarantines=False)
    assert (clients.failed, clients.wrong) == ([], [])
    assert set(clients.answered) == {"2"}
