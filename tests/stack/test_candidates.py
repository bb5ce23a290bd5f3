"""Candidates that are no good, and switching, under load: no call fails, none is wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.archive.document import Identity
from modelswitch.archive.verify import read_document
from modelswitch.archive.writer import write
from modelswitch.errors import NotProven
from modelswitch.line import Slot
from tests.stack.clients import Clients
from tests.stack.deployment import WHY, Deployment
from tests.stack.models import MODEL

HANDLER = "modelswitch_torch.py"
RAISES = "raise RuntimeError('the weights are of another model')\n"
HANGS = "import time\ntime.sleep(3600)\n"
EXITS = "import os\nos._exit(3)\n"
CYCLES = 6


@pytest.fixture
def standing(deployment: Deployment) -> Iterator[Deployment]:
    """2 serves, 1 is the way back; afterwards everything must be as it was."""
    deployment.stand("2", back="1")
    yield deployment
    assert deployment.all_serve() == {"2"}
    deployment.assert_one_story()


def spoilt(
    deployment: Deployment, folder: Path, version: str, *, handler: str = "", wrong: bool = False
) -> Slot:
    """An archive like that of version 1, but for a handler or a golden answer that is no good."""
    good = folder / "good.mar"
    deployment.switch.store.fetch(deployment.slot("1").digest, good)
    document, _ = read_document(good)
    with zipfile.ZipFile(good) as archive:
        entries = {name: archive.read(name) for name in document.entries}
    if handler:
        entries[HANDLER] = handler.encode()
    golden = document.golden
    if wrong and golden:
        golden = golden.model_copy(update={"expected": {"predictions": [[7.0, 7.0]] * 3}})
    identity = Identity(model=MODEL, version=version, run_id=None, source="made by a test")
    draft = document.model_copy(update={"identity": identity, "golden": golden, "entries": {}})
    written = write(folder, draft, entries)
    deployment.switch.store.put(written.path, written.digest)
    return Slot(version, written.digest)


def test_a_handler_that_raises_is_staged_under_load_and_no_call_notices(
    standing: Deployment, tmp_path: Path
) -> None:
    slot = spoilt(standing, tmp_path, "91", handler=RAISES)
    with (
        Clients(list(standing.urls.values())) as clients,
        pytest.raises(NotProven, match="the weights are of another model") as raised,
    ):
        standing.switch.moves.stage(MODEL, slot, WHY)
    print(clients)
    assert raised.value.exit == 4
    assert f"{MODEL}@2 serves" in raised.value.message
    assert (clients.failed, clients.wrong) == ([], [])
    assert set(clients.answered) == {"2"}


@pytest.mark.parametrize(
    ("version", "handler", "why"),
    [
        ("92", HANGS, "no worker was READY within 45 s"),
        ("93", EXITS, "process ended by itself"),
        ("94", "", "golden request wrong"),
    ],
    ids=["hangs", "exits", "answers wrong"],
)
def test_a_candidate_that_is_no_good_is_undone_with_its_reason(
    standing: Deployment, tmp_path: Path, version: str, handler: str, why: str
) -> None:
    slot = spoilt(standing, tmp_path, version, handler=handler, wrong=not handler)
    with pytest.raises(NotProven, match=why) as raised:
        standing.switch.moves.promote(MODEL, slot, WHY)
    assert raised.value.exit == 4
    assert f"{MODEL}@2 serves" in raised.value.message
    assert "server " in raised.value.message


def test_no_call_fails_and_none_is_answered_wrong_while_versions_are_switched(
    standing: Deployment,
) -> None:
    with Clients(list(standing.urls.values())) as clients:
        for _ in range(CYCLES):
            for version in ("1", "2"):
                standing.switch.moves.promote(MODEL, standing.slot(version), WHY)
    print(f"{2 * CYCLES} switches: {clients}")
    assert (clients.failed, clients.wrong) == ([], [])
    assert set(clients.answered) == {"1", "2"}
