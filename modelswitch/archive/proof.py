"""Prove an archive before anybody gets it: its own handler answers its golden request.

In a process of its own, on this machine, with the files that a worker will have and nothing of
ModelSwitch; the agents do the same again, on theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelswitch.archive import engines
from modelswitch.archive.document import Document
from modelswitch.archive.golden import compare
from modelswitch.errors import ArchiveError

_TRIAL = Path(engines.__file__).with_name("trial.py")
_TIMEOUT_S = 600.0
_LAST_LINES = 3


def prove(name: str, archive: Path, document: Document) -> None:
    """Raise ArchiveError when the archive's handler answers otherwise than its golden request."""
    assert document.golden is not None  # noqa: S101 - only archives that have one are proved
    with extracted(archive) as folder:
        found = run_trial(name, folder, {"ask": [document.golden.request]}, document)
    why = found["errors"][0] or compare(document.golden, found["answers"][0])
    if why:
        raise ArchiveError(
            f"{name}: {_runner(document)} answers its golden request otherwise than the model as "
            f"it was logged: {why}",
            next=f"it stays as it is; modelswitch engines {name} shows how far each engine is off",
        )


def _runner(document: Document) -> str:
    recipe = document.recipe
    if recipe.engine == "eager":
        return f"the {recipe.handler} handler"
    return f"the engine {recipe.engine}"


@contextmanager
def extracted(archive: Path) -> Iterator[Path]:
    """An archive's files in a temporary folder, as TorchServe would have them."""
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as folder:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        yield Path(folder)


def run_trial(
    name: str, folder: Path, task: Mapping[str, Any], document: Document
) -> dict[str, Any]:
    """What `engines/trial.py` says; raises ArchiveError with the last it said when it fails."""
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as papers:
        asked, said = Path(papers) / "task.json", Path(papers) / "result.json"
        asked.write_text(json.dumps(task))
        argv = [sys.executable, str(_TRIAL), str(folder), str(asked), str(said)]
        threads = str(document.recipe.threads)
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        try:
            ran = subprocess.run(
                argv, cwd=folder, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise ArchiveError(f"{name} did not answer within {_TIMEOUT_S:.0f} s") from error
        if ran.returncode != 0:
            lines = [line for line in ran.stderr.splitlines() if line.strip()]
            last = " / ".join(lines[-_LAST_LINES:]) or f"exit {ran.returncode}"
            raise ArchiveError(f"{name}: {_runner(document)} cannot run it here: {last}")
        found: dict[str, Any] = json.loads(said.read_bytes())
        return found
