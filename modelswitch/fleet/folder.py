"""A folder as fleet: `pins.json`, `announcement.json` and `reports/<server>.json`.

Every file appears by an atomic rename. File events carry the news; polling stands beneath, for
file systems that send none.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelswitch.effects import effect
from modelswitch.errors import FleetUnreachable, PinsError, PinsTooNew, UsageError
from modelswitch.files import write_whole
from modelswitch.fleet.protocol import News, Published, check_size, stays
from modelswitch.pins import Pins, parse
from modelswitch.reports import Report

# watchfiles looks at what the kernel has told it once a step.
_STEP_MS = 10
_POLL_S = 0.25


class FolderFleet:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.pins_file = path / "pins.json"
        self.announcement_file = path / "announcement.json"
        self.reports_dir = path / "reports"
        self._read: tuple[str, Pins] | None = None  # the text that was parsed last

    def publish(
        self,
        pins: Pins,
        *,
        correlation_id: str | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> Pins:
        check_size(pins)
        with _disk(self.path), self._locked():
            standing = self._standing()
            if standing is not None and stays(standing, pins):
                return standing
            with effect("fleet.publish", generation=pins.generation):
                announcement = {
                    "generation": pins.generation,
                    "correlation_id": correlation_id,
                    "note": note,
                }
                write_whole(self.announcement_file, json.dumps(announcement))
                write_whole(self.pins_file, pins.text)
        return pins

    def write(self, pins: Pins) -> Path:
        raise UsageError(
            "a plan waits for a pull request, and this fleet is a folder without one",
            next='without --plan; or [fleet] kind = "kubernetes" with pins_file',
        )

    def published(self) -> Published | None:
        with _disk(self.path):
            try:
                text = self.pins_file.read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
            except UnicodeDecodeError as error:
                raise PinsError(f"{self.pins_file} is not text: {error}") from error
        if self._read is None or self._read[0] != text:
            self._read = text, parse(text, source=str(self.pins_file))
        pins = self._read[1]
        said = self._announcement()
        if said.get("generation") != pins.generation:
            return Published(pins)
        return Published(pins, said.get("correlation_id"), said.get("note"))

    def reports(self) -> tuple[Report, ...]:
        found = []
        with _disk(self.path):
            files = sorted(self.reports_dir.glob("*.json"))
        for file in files:
            # It may be struck off between the listing and the reading.
            with contextlib.suppress(FileNotFoundError):
                found.append(_read(file))
        return tuple(found)

    def watch(self, timeout_s: float) -> Iterator[tuple[Report, ...]]:
        from watchfiles import watch

        self._make()
        deadline = time.monotonic() + timeout_s
        yield self.reports()
        events = watch(
            self.reports_dir,
            step=_STEP_MS,
            debounce=4 * _STEP_MS,
            rust_timeout=int(_POLL_S * 1000),
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=True,
        )
        for _ in events:
            yield self.reports()
            if time.monotonic() >= deadline:
                return

    def how_to_start(self) -> str:
        return "modelswitch up"

    def how_to_forget(self, server: str) -> str:
        return f"modelswitch agent forget {server}"

    def forget(self, server: str) -> bool:
        file = self.reports_dir / f"{server}.json"
        with _disk(self.path), effect("fleet.forget", server=server):
            try:
                file.unlink()
            except FileNotFoundError:
                return False
        return True

    def announce(self, news: News) -> None:
        """Nobody looks at a folder: `history` tells it."""

    @property
    def calls(self) -> None:
        """There is no API server."""

    @property
    def unread(self) -> None:
        """A folder that cannot be read says so when it is."""

    def report(self, report: Report, pins: Pins | None = None) -> None:
        self._make()
        with _disk(self.path):
            text = report.model_dump_json(by_alias=True, indent=1)
            write_whole(self.reports_dir / f"{report.server}.json", text, durable=False)

    async def follow(self, poll_s: float) -> AsyncIterator[None]:
        from watchfiles import awatch

        self._make()
        yield None
        while True:
            try:
                async for _ in awatch(
                    self.path,
                    step=_STEP_MS,
                    debounce=4 * _STEP_MS,
                    rust_timeout=int(poll_s * 1000),
                    yield_on_timeout=True,
                    recursive=False,
                ):
                    yield None
            except (FileNotFoundError, OSError):
                # The folder was taken away: keep what is applied, and look again.
                yield None
                await asyncio.sleep(poll_s)

    def _make(self) -> None:
        with _disk(self.path):
            self.reports_dir.mkdir(parents=True, exist_ok=True)

    def _standing(self) -> Pins | None:
        """What stands, if it can be read at all: rubbish is written over.

        Raises PinsTooNew for what a later release has published.
        """
        try:
            found = self.published()
        except PinsTooNew:
            raise
        except PinsError:
            return None
        return found.pins if found else None

    def _announcement(self) -> dict[str, Any]:
        try:
            found = json.loads(self.announcement_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make()
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read(file: Path) -> Report:
    """A report, or one of a server that is down: none may vanish from the roster unnoticed."""
    try:
        report = Report.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        why = "cannot be read"
    else:
        if report.server == file.stem:
            return report
        why = f"says it is server {report.server}'s"
    long_ago = datetime.fromtimestamp(0, UTC)
    return Report(
        server=file.stem,
        boot_id="",
        at=long_ago,
        heartbeat_at=long_ago,
        healthy=False,
        error=f"its report {file} {why}",
    )


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FleetUnreachable(
            f"the fleet's folder {path} cannot be used: {error.strerror or error}",
            next="is it mounted and writable? see [fleet] path in modelswitch.toml",
        ) from error
