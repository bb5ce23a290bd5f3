"""Fetching an archive that is big, over a line that breaks: continued, and never there twice."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from modelswitch import store as stores
from modelswitch.archive import writer
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import Written, write
from modelswitch.errors import ArchiveError, StoreUnreachable
from modelswitch.store import FsspecStore, partial_name
from tests.site import wait_for
from tests.unit.test_archive_writer import draft

CHUNK = 10_000


class Line:
    """What lies between a store and us: counts what comes over it, and breaks where told."""

    def __init__(self, store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self.breaks_after: list[int] = []  # bytes of one connection, for each in turn
        self.on_read: Callable[[], object] = lambda: None
        reach = store.open
        monkeypatch.setattr(store, "open", lambda digest: _Stream(reach(digest), self))


class _Stream:
    def __init__(self, source: BinaryIO, line: Line) -> None:
        self._source, self._line = source, line
        self._left = line.breaks_after.pop(0) if line.breaks_after else None

    def read(self, count: int) -> bytes:
        self._line.on_read()
        if self._left is not None and self._left <= 0:
            raise ConnectionResetError("the line broke")
        data = self._source.read(min(count, self._left or count))
        if self._left is not None:
            self._left -= len(data)
        self._line.bytes += len(data)
        return data

    def seek(self, place: int) -> int:
        return self._source.seek(place)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.close()


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FsspecStore]:
    if request.param == "file":
        yield FsspecStore((tmp_path / "store").as_uri())
        return
    import fsspec

    name = uuid.uuid4().hex
    yield FsspecStore(f"memory://{name}")
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


@pytest.fixture
def line(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(stores, "_CHUNK", CHUNK)
    monkeypatch.setattr(stores, "_PAUSE_S", 0.001)
    return Line(store, monkeypatch)


@pytest.fixture
def kept(store: FsspecStore, tmp_path: Path) -> Written:
    """An archive of ten chunks and a little, in the store."""
    written = write(tmp_path, draft(), {"model.pt2": os.urandom(10 * CHUNK)})
    store.put(written.path, written.digest)
    return written


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "x.mar"


def _files(target: Path) -> list[str]:
    return sorted(file.name for file in target.parent.iterdir())


def test_what_breaks_off_is_continued_where_it_broke(
    store: FsspecStore, line: Line, kept: Written, target: Path
) -> None:
    line.breaks_after = [3 * CHUNK, 0, 0, 4 * CHUNK, 0]

    store.fetch(kept.digest, target)

    assert verify(target, kept.digest)
    assert line.bytes == kept.size_bytes
    assert _files(target) == ["x.mar"]


def test_what_breaks_off_for_good_is_left_for_the_next_call(
    store: FsspecStore, line: Line, kept: Written, target: Path
) -> None:
    line.breaks_after = [3 * CHUNK, 0, 0, 0, 0, 0]

    with pytest.raises(StoreUnreachable, match="the line broke"):
        store.fetch(kept.digest, target)
    assert _files(target) == [partial_name(kept.digest)]
    line.breaks_after = []
    store.fetch(kept.digest, target)

    assert line.bytes == kept.size_bytes
    assert verify(target, kept.digest)


@pytest.mark.parametrize(
    "begun", [b"\0" * 5 * CHUNK, b"\0" * 20 * CHUNK], ids=["wrong", "too long"]
)
def test_what_turns_out_wrong_is_thrown_away_and_fetched_anew(
    store: FsspecStore, line: Line, kept: Written, target: Path, begun: bytes
) -> None:
    (target.parent / partial_name(kept.digest)).write_bytes(begun)

    store.fetch(kept.digest, target)

    assert verify(target, kept.digest)
    assert line.bytes <= 2 * kept.size_bytes
    assert _files(target) == ["x.mar"]


def test_an_archive_is_never_on_the_disk_twice(
    store: FsspecStore, line: Line, kept: Written, target: Path
) -> None:
    most = [0]

    def look() -> None:
        most[0] = max(most[0], sum(f.stat().st_size for f in target.parent.iterdir()))

    line.breaks_after = [3 * CHUNK]
    line.on_read = look
    (target.parent / partial_name(kept.digest)).write_bytes(b"\0" * CHUNK)
    store.fetch(kept.digest, target)
    look()

    assert most[0] == kept.size_bytes


def test_a_store_that_cannot_seek_is_read_from_its_start(
    store: FsspecStore, line: Line, kept: Written, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise ValueError("Cannot seek streaming HTTP file")

    monkeypatch.setattr(_Stream, "seek", refuse)
    line.breaks_after = [3 * CHUNK]

    store.fetch(kept.digest, target)

    assert verify(target, kept.digest)
    assert line.bytes == kept.size_bytes + 3 * CHUNK


def test_a_fetch_that_is_stopped_ends_at_once_and_keeps_what_it_has(
    store: FsspecStore, line: Line, kept: Written, target: Path
) -> None:
    stop = threading.Event()
    line.on_read = stop.set

    with pytest.raises(StoreUnreachable, match="broke off at 10,000 of"):
        store.fetch(kept.digest, target, stop=stop)

    assert (target.parent / partial_name(kept.digest)).stat().st_size == CHUNK


def test_two_who_fetch_the_same_fetch_it_once(
    store: FsspecStore, line: Line, kept: Written, target: Path
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reading.set()
        go_on.wait(10)

    line.on_read = wait
    both = [threading.Thread(target=store.fetch, args=(kept.digest, target)) for _ in range(2)]
    both[0].start()
    assert reading.wait(10)
    both[1].start()
    go_on.set()
    for one in both:
        one.join(10)

    assert verify(target, kept.digest)
    assert line.bytes == kept.size_bytes


def test_a_full_disk_is_said_with_figures_and_leaves_nothing(
    store: FsspecStore, kept: Written, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("U", (), {"free": 10})())

    with pytest.raises(ArchiveError, match=f"{kept.size_bytes:,} bytes are needed, 10 are free"):
        store.fetch(kept.digest, target)

    assert _files(target) == []


def test_a_disk_that_fills_up_meanwhile_is_said_and_left_empty(
    store: FsspecStore, line: Line, kept: Written, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "write_all", full)

    with pytest.raises(ArchiveError, match="is too full"):
        store.fetch(kept.digest, target)

    wait_for(lambda: _files(target) == [])
