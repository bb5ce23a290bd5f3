"""One suite for every archive store: a folder, and what is only reached through fsspec."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelswitch import store as stores
from modelswitch.archive import writer
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import read_document, verify
from modelswitch.archive.writer import write
from modelswitch.effects import watching
from modelswitch.errors import ArchiveError, NotFound, StoreUnreachable
from modelswitch.store import ArchiveStore, BuildKey, FsspecStore
from tests.unit.test_archive_writer import draft

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
KEY = BuildKey("digits", "3", "r1", "models:/m-1", Recipe())


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FsspecStore]:
    if request.param == "file":
        yield FsspecStore((tmp_path / "store").as_uri())
        return
    import fsspec

    name = uuid.uuid4().hex
    yield FsspecStore(f"memory://{name}")
    files = fsspec.filesystem("memory")
    if files.exists(f"/{name}"):
        files.rm(f"/{name}", recursive=True)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.mar"
    path.write_bytes(os.urandom(100_000))
    return path


def test_what_was_put_is_there_and_comes_back(
    store: ArchiveStore, archive: Path, tmp_path: Path
) -> None:
    assert not store.has(DIGEST)

    store.put(archive, DIGEST)
    store.fetch(DIGEST, tmp_path / "model-store" / "x.mar")

    assert store.has(DIGEST)
    assert (tmp_path / "model-store" / "x.mar").read_bytes() == archive.read_bytes()


def test_put_again_changes_nothing(store: ArchiveStore, archive: Path) -> None:
    seen: list[str] = []
    store.put(archive, DIGEST)

    with watching(boundary=lambda name, _: seen.append(name)):
        store.put(archive, DIGEST)

    assert seen == []


def test_put_never_replaces_right_bytes_by_wrong_ones(store: ArchiveStore, tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights"})
    right = written.path.read_bytes()
    store.put(written.path, written.digest)
    written.path.write_bytes(right[:-1])

    with pytest.raises(ArchiveError):
        store.put(written.path, written.digest)
    store.fetch(written.digest, tmp_path / "x.mar")

    assert (tmp_path / "x.mar").read_bytes() == right


def test_put_mends_what_was_damaged(store: ArchiveStore, tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights"})
    torn = tmp_path / "torn.mar"
    torn.write_bytes(written.path.read_bytes()[:-1])
    store.put(torn, written.digest)

    store.put(written.path, written.digest)
    store.fetch(written.digest, tmp_path / "x.mar")

    assert verify(tmp_path / "x.mar", written.digest) == written.document


def test_document_is_read_without_fetching_the_archive(store: ArchiveStore, tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights"})
    store.put(written.path, written.digest)

    with store.open(written.digest) as stream:
        assert read_document(stream) == (written.document, written.digest)
    with pytest.raises(NotFound):
        store.open(DIGEST)


def test_list_names_digests_sizes_and_times(store: ArchiveStore, archive: Path) -> None:
    assert store.list() == []

    store.put(archive, OTHER)
    store.put(archive, DIGEST)

    found = store.list()
    assert [a.digest for a in found] == [DIGEST, OTHER]
    assert {a.size_bytes for a in found} == {100_000}
    assert all(a.at and abs(datetime.now(UTC) - a.at) < timedelta(minutes=1) for a in found)


def test_deleted_archive_is_gone(store: ArchiveStore, archive: Path, tmp_path: Path) -> None:
    store.put(archive, DIGEST)
    store.delete(DIGEST)

    assert not store.has(DIGEST)
    assert store.list() == []
    with pytest.raises(NotFound, match=DIGEST):
        store.delete(DIGEST)


def test_fetch_of_what_is_not_there_leaves_nothing(store: ArchiveStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no archive") as caught:
        store.fetch(DIGEST, tmp_path / "out" / "x.mar")

    assert "modelswitch build" in str(caught.value.next)
    assert not (tmp_path / "out" / "x.mar").exists()


@pytest.mark.parametrize("digest", ["3-ab12cd34", "ab" * 32, "sha256:../x", "sha256:" + "g" * 64])
def test_what_is_no_digest_names_no_file(store: ArchiveStore, digest: str) -> None:
    with pytest.raises(ArchiveError):
        store.has(digest)


def test_build_is_remembered_by_all_that_it_was_made_from(
    store: ArchiveStore, archive: Path
) -> None:
    store.put(archive, DIGEST)
    assert store.find_build(KEY) is None

    store.record_build(KEY, DIGEST)

    assert store.find_build(KEY) == DIGEST
    for other in (
        BuildKey("digits", "4", "r1", "models:/m-1", Recipe()),
        BuildKey("digits", "3", "r1", "models:/m-2", Recipe()),
        BuildKey("digits", "3", "r1", "models:/m-1", Recipe(batch_size=8)),
        BuildKey("digits", "3", "r1", "models:/m-1", Recipe(handler_release="0" * 12)),
        BuildKey("digits", "3", "r1", "models:/m-1", Recipe(), golden=False),
    ):
        assert store.find_build(other) is None


def test_build_whose_archive_is_gone_is_not_found(store: ArchiveStore, archive: Path) -> None:
    store.put(archive, DIGEST)
    store.record_build(KEY, DIGEST)
    store.delete(DIGEST)

    assert store.find_build(KEY) is None


def test_progress_is_told_for_big_archives_only(
    store: ArchiveStore, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, object]] = []
    with watching(progress=lambda name, facts: told.append({"name": name, **facts})):
        store.put(archive, DIGEST)
        assert not [t for t in told if "done_bytes" in t]
        monkeypatch.setattr(stores, "BIG", 1)
        store.put(archive, OTHER)
        store.fetch(OTHER, tmp_path / "x.mar")

    done = {t["name"] for t in told if t.get("done_bytes") == 100_000}
    assert done == {"store.put", "store.fetch"}


def test_full_disk_is_said_with_figures_and_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecStore(str(tmp_path / "store"))
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("U", (), {"free": 10})())

    with pytest.raises(ArchiveError, match="100,000 bytes are needed, 10 are free"):
        store.put(archive, DIGEST)

    assert store.list() == []


def test_copy_that_breaks_off_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecStore(str(tmp_path / "store"))

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(stores, "_copy", broken)
    with pytest.raises(StoreUnreachable, match="Input/output error"):
        store.put(archive, DIGEST)

    assert not store.has(DIGEST)
    assert list((tmp_path / "store" / "archives").iterdir()) == []


def test_half_a_build_record_is_none(archive: Path, tmp_path: Path) -> None:
    store = FsspecStore(str(tmp_path / "store"))
    store.put(archive, DIGEST)
    store.record_build(KEY, DIGEST)
    [record] = (tmp_path / "store" / "builds").iterdir()
    for text in ("", "[]", '{"digest": 3}', "{}"):
        record.write_text(text)
        assert store.find_build(KEY) is None


@pytest.mark.parametrize("url", ["nowhere://x", "abfs://x@y/z"])
def test_store_of_an_unknown_kind_is_refused_with_what_to_do(url: str) -> None:
    with pytest.raises(StoreUnreachable, match="cannot be") as caught:
        FsspecStore(url)

    assert caught.value.next
