"""What a worker said is found in a log that all workers share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelswitch.servers.workerlog import worker_error, worker_lines

START = "s_name_part0=/tmp/.ts.sock, s_name_part1=9000, pid=1"
RAISED = [
    "Failed to load model digits, exception no such layer",
    "Traceback (most recent call last):",
    '  File "handler.py", line 4, in initialize',
    "RuntimeError: no such layer",
    "Backend worker process died.",
    "Traceback (most recent call last):",
    "RuntimeError: 500 - Unknown exception",
]


class Log:
    """A model_log.log, a line a second."""

    def __init__(self, folder: Path, form: str = "%Y-%m-%dT%H:%M:%S.000Z") -> None:
        self.folder = folder
        self.form = form
        self.at = 1_700_000_000

    def says(self, thread: str, *texts: str) -> int:
        """Append lines; returns the time of the first."""
        first = self.at
        with (self.folder / "model_log.log").open("a") as file:
            for text in texts:
                stamp = datetime.fromtimestamp(self.at, UTC).strftime(self.form)
                file.write(f"{stamp} [INFO ] {thread} MODEL_LOG - {text}\n")
                self.at += 1
        return first


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_handler_that_raised_is_told_with_its_own_traceback(log: Log) -> None:
    log.says("W-9000-digits_3-ab12cd34-stdout", START, "model_name: digits", *RAISED)

    error = worker_error(log.folder, "digits", "3-ab12cd34")

    assert error == "\n".join(RAISED[1:4])


def test_a_handler_that_cannot_be_imported_is_told_too(log: Log) -> None:
    trace = ["Traceback (most recent call last):", "SyntaxError: invalid syntax"]
    died = "Backend worker process died."
    log.says("W-9000-digits_3-ab12cd34-stdout", START, "model_name: digits", died, *trace)

    assert worker_error(log.folder, "digits", "3-ab12cd34") == "\n".join(trace)


def test_a_process_that_just_ends_is_told_when_the_next_has_started(log: Log) -> None:
    thread = "W-9000-digits_3-ab12cd34-stdout"
    log.says(thread, START, "model_name: digits, batchSize: 1", "loading 80 GB")
    assert worker_error(log.folder, "digits", "3-ab12cd34") is None

    log.says(thread, START)

    error = worker_error(log.folder, "digits", "3-ab12cd34")
    assert error is not None
    assert "without a traceback" in error
    assert error.endswith("it last printed: loading 80 GB")


def test_other_models_versions_and_workers_are_told_apart(log: Log) -> None:
    log.says("W-9000-digits_2_3-ab12cd34-stdout", START, *RAISED)
    log.says("W-9001-digits_4-ab12cd34-stdout", START, *RAISED)
    log.says("W-9002-digits_3-ab12cd34-stdout", START, "model_name: digits")
    log.says("W-9003-digits_3-ab12cd34-stderr", "a warning")

    assert worker_error(log.folder, "digits", "3-ab12cd34") is None
    assert worker_error(log.folder, "digits", "4-ab12cd34") is not None
    assert worker_error(log.folder, "digits") is not None
    assert worker_error(log.folder, "digits_2", "3-ab12cd34") is not None
    lines = worker_lines(log.folder, "digits", "3-ab12cd34")
    assert [line.text for line in lines] == [START, "model_name: digits", "a warning"]


def test_what_failed_before_does_not_count(log: Log) -> None:
    log.says("W-9000-digits_3-ab12cd34-stdout", START, *RAISED)
    since = log.says("W-9001-digits_3-ab12cd34-stdout", START, "model_name: digits")

    assert worker_error(log.folder, "digits", "3-ab12cd34", since=since) is None
    assert worker_error(log.folder, "digits", "3-ab12cd34") is not None


def test_the_stock_form_of_the_time_is_read_as_local(tmp_path: Path) -> None:
    stock = Log(tmp_path, "%Y-%m-%dT%H:%M:%S,123")
    stock.says("W-9000-digits_3-ab12cd34-stdout", START)

    (line,) = worker_lines(tmp_path, "digits")

    local = datetime.fromtimestamp(1_700_000_000, UTC).replace(tzinfo=None)
    assert line.at == pytest.approx(local.timestamp() + 0.123)


def test_no_log_is_no_error(tmp_path: Path) -> None:
    assert worker_error(tmp_path, "digits") is None
