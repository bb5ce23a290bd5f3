"""What a TorchServe worker said: read from model_log.log, told apart by model and version.

TorchServe writes everything its workers print into one file, each line with the thread that
read it: `… [INFO ] W-9000-digits_3-ab12cd34-stdout MODEL_LOG - text`. A worker that fails at
load is started again and again; each start announces itself with its socket and pid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

FILE_NAME = "model_log.log"
TAIL_BYTES = 1_000_000

_LINE = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\dT\S+) \[\w+ *\] "
    r"W-(?P<worker>\d+)-(?P<model>.+)_(?P<label>[^_\s]+)-std(?:out|err) MODEL_LOG - (?P<text>.*)"
)
_START = "s_name_part0="
_LOADING = "model_name: "
_FAILED = "Failed to load model "
_DIED = "Backend worker process died."
_SERVING = "Backend received inference at"


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """One line a worker printed; `at` is Unix time."""

    at: float
    worker: str
    label: str
    text: str


@dataclass(slots=True)
class _Run:
    """One worker process, from its start to the start of the next with the same worker id."""

    began: float
    texts: list[str] = field(default_factory=list)
    is_over: bool = False


def worker_lines(log_dir: Path, model: str, label: str | None = None) -> list[WorkerLine]:
    """The latest lines of a model's workers (of the file's last megabyte), oldest first."""
    path = log_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for text_line in text.splitlines():
        of, line = read_line(text_line) or (None, None)
        if line is not None and of == model and label in (None, line.label):
            found.append(line)
    return found


def read_line(text: str) -> tuple[str, WorkerLine] | None:
    """The model whose worker printed it, and what; None of a line that no worker printed."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    # Without an offset it is the local time of the machine, which is ours too
    at = datetime.fromisoformat(match["at"]).timestamp()
    return match["model"], WorkerLine(at, match["worker"], match["label"], match["text"])


def worker_error(
    log_dir: Path, model: str, label: str | None = None, *, since: float = 0.0
) -> str | None:
    """The traceback of the last load that failed in a process started after `since`.

    `since` is Unix time in seconds. A process that ended without a traceback (it exited, or was
    killed for want of memory) is told in a sentence, once the next one has been started.
    """
    runs: list[_Run] = []
    latest: dict[tuple[str, str], _Run] = {}
    for line in worker_lines(log_dir, model, label):
        key = (line.worker, line.label)
        if line.text.startswith(_START):
            if key in latest:
                latest[key].is_over = True
            latest[key] = _Run(line.at)
            runs.append(latest[key])
        elif key in latest:
            latest[key].texts.append(line.text)
    for run in reversed(runs):
        error = _error_of(run) if run.began >= since else None
        if error is not None:
            return error
    return None


def _error_of(run: _Run) -> str | None:
    texts = run.texts
    # A handler that raised is told first, TorchServe's own death of it after
    end = texts.index(_DIED) if _DIED in texts else len(texts)
    failed = next((i for i, t in enumerate(texts[:end]) if t.startswith(_FAILED)), None)
    if failed is not None:
        return "\n".join(texts[failed + 1 : end]).rstrip() or texts[failed]
    if end < len(texts):
        return "\n".join(texts[end + 1 :]).rstrip() or _DIED
    if run.is_over and not any(t.startswith(_SERVING) for t in texts):
        told = [t for t in texts[_after(texts, _LOADING) :] if t.strip()]
        return (
            "the worker's process ended by itself, without a traceback (the model exited, or was "
            "killed for want of memory)" + (f"; it last printed: {told[-1]}" if told else "")
        )
    return None


def _after(texts: list[str], start: str) -> int:
    return next((i + 1 for i, text in enumerate(texts) if text.startswith(start)), 0)
