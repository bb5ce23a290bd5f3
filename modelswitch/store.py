"""The archive store: archives by digest, added or collected, never changed.

A folder, S3, GCS, Azure: whatever fsspec opens. `archives/<64 hex>.mar` holds the archives,
`builds/<64 hex>.json` remembers which archive a version, a recipe and a handler release gave.
"""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import hexdigits
from threading import Event
from typing import Any, BinaryIO, Protocol

from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import BIG, move, replacing, room, write_all
from modelswitch.effects import effect, tell
from modelswitch.errors import ArchiveError, ModelSwitchError, NotFound, StoreUnreachable
from modelswitch.line import DIGEST_PREFIX

_CHUNK = 4 << 20
_TRIES = 4  # without a byte of progress
_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class StoredArchive:
    digest: str
    size_bytes: int
    at: datetime | None


@dataclass(frozen=True, slots=True)
class BuildKey:
    """What an archive is made from. Equal keys give equal archives, so one build will do.

    `run_id` and `source` tell apart two versions that had the same number: MLflow gives numbers
    out again once a whole registered model was deleted.
    """

    model: str
    version: str
    run_id: str | None
    source: str
    recipe: Recipe
    golden: bool = True

    @property
    def parts(self) -> dict[str, Any]:
        return asdict(self) | {"recipe": self.recipe.model_dump(mode="json")}

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()


class ArchiveStore(Protocol):
    """Where archives are kept. Digests are `sha256:<64 hex>`; nothing here looks inside."""

    def has(self, digest: str) -> bool: ...
    def open(self, digest: str) -> BinaryIO: ...
    def put(self, path: Path, digest: str) -> None: ...
    def fetch(self, digest: str, to_path: Path, *, stop: Event | None = None) -> None: ...
    def list(self) -> list[StoredArchive]: ...
    def delete(self, digest: str) -> None: ...
    def find_build(self, key: BuildKey) -> str | None: ...
    def record_build(self, key: BuildKey, digest: str) -> None: ...


class FsspecStore:
    """An ArchiveStore at a URL or a path. Raises StoreUnreachable, NotFound, ArchiveError."""

    def __init__(self, url: str) -> None:
        self.url = url
        with self._reached():
            import fsspec

            self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = getattr(self._files, "local_file", False)

    def has(self, digest: str) -> bool:
        with self._reached():
            return bool(self._files.exists(self._archive(digest)))

    def open(self, digest: str) -> BinaryIO:
        """The archive's bytes as a stream; `read_document` needs but the first of them."""
        with self._reached():
            try:
                stream: BinaryIO = self._files.open(self._archive(digest), "rb", block_size=1 << 20)
            except FileNotFoundError as error:
                raise self._not_there(digest) from error
            return stream

    def put(self, path: Path, digest: str) -> None:
        """Keep the archive at `path`; nothing to do when it is kept already.

        It appears whole or not at all. Bytes that stand under its digest and are not those of
        `path` were damaged there: they are replaced, once `path` is seen to be right. Raises
        DigestMismatch when it is not.
        """
        target, size = self._archive(digest), path.stat().st_size
        if self.has(digest):
            if self._keeps(path, target):
                return
            verify(path, digest)
        with effect("store.put", digest=digest, size_bytes=size), self._reached():
            if self._is_local:
                with replacing(Path(target).parent, size) as (temporary, publish):
                    with path.open("rb") as source, temporary.open("wb", buffering=0) as out:
                        _copy(source, out, size, "store.put")
                    publish(Path(target))
            else:  # not through an opened file: fsspec completes it even when the copy failed
                self._files.put_file(str(path), target, callback=_progress(size, "store.put"))

    def _keeps(self, path: Path, target: str) -> bool:
        """Whether what is kept is what is at `path`: by size, and by its bytes in a folder.

        Object stores check their own bytes; comparing there would be a download.
        """
        with self._reached():
            if self._is_local:
                return filecmp.cmp(path, target, shallow=False)
            return int(self._files.size(target)) == path.stat().st_size

    def fetch(self, digest: str, to_path: Path, *, stop: Event | None = None) -> None:
        """Copy an archive to `to_path`, streamed; it appears there whole or not at all.

        What breaks off is tried again some times. What it left beside `to_path` then, the next
        call continues; if that turns out wrong it is thrown away and fetched anew. `stop` ends
        it early. Raises ArchiveError when the disk is full.
        """
        partial = to_path.parent / partial_name(digest)
        stop = stop or Event()
        with effect("store.fetch", digest=digest), self._reached():
            self._size(digest)
            to_path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(partial, stop) as (out, has_waited):
                if has_waited and to_path.exists():
                    return  # somebody else has just fetched it
                was_begun = _length(out) > 0
                try:
                    self._fill(digest, out, to_path.parent, stop)
                    if was_begun and not _is_right(partial, digest):
                        out.truncate(0)
                        self._fill(digest, out, to_path.parent, stop)
                except ArchiveError:  # the disk is full: nothing more of it is ours
                    partial.unlink()
                    raise
                move(partial, to_path)

    def _fill(self, digest: str, out: BinaryIO, folder: Path, stop: Event) -> None:
        """Append what is missing of an archive, in as many tries as it takes while it grows."""
        tries = 0
        while True:
            had = _length(out)
            try:
                with self._reached(), self.open(digest) as source:
                    size = self._size(digest)
                    done = had if had <= size and _skip(source, had) else 0
                    out.truncate(done)
                    with room(folder, size - done):
                        _copy(source, out, size, "store.fetch", done=done, stop=stop)
            except StoreUnreachable:
                tries = 1 if _length(out) > had else tries + 1
                if tries > _TRIES or stop.is_set():
                    raise
                stop.wait(_PAUSE_S * 2**tries * random.uniform(0.5, 1.0))  # noqa: S311
            else:
                return

    def _size(self, digest: str) -> int:
        try:
            return int(self._files.size(self._archive(digest)))
        except FileNotFoundError as error:
            raise self._not_there(digest) from error

    def list(self) -> list[StoredArchive]:
        """Every archive kept, by digest."""
        with self._reached():
            self._files.invalidate_cache()
            try:
                found = self._files.ls(f"{self._root}/archives", detail=True)
            except FileNotFoundError:
                return []
        kept = []
        for item in found:
            stem, _, kind = str(item["name"]).rpartition("/")[2].rpartition(".")
            if kind == "mar" and len(stem) == 64:
                digest = DIGEST_PREFIX + stem
                kept.append(StoredArchive(digest, int(item["size"]), _time(item)))
        return sorted(kept, key=lambda archive: archive.digest)

    def delete(self, digest: str) -> None:
        with effect("store.delete", digest=digest), self._reached():
            if not self._files.exists(self._archive(digest)):
                raise self._not_there(digest)
            self._files.rm_file(self._archive(digest))

    def find_build(self, key: BuildKey) -> str | None:
        """The digest that `key` gave before, if that archive is still kept."""
        with self._reached():
            try:
                digest = json.loads(self._files.cat_file(self._build(key)))["digest"]
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return None  # no record, or half of one: it is built again
        return digest if isinstance(digest, str) and self.has(digest) else None

    def record_build(self, key: BuildKey, digest: str) -> None:
        text = json.dumps(key.parts | {"digest": digest}, sort_keys=True, indent=2).encode()
        target = self._build(key)
        with effect("store.record_build", model=key.model, digest=digest), self._reached():
            if self._is_local:
                with replacing(Path(target).parent, len(text)) as (temporary, publish):
                    temporary.write_bytes(text)
                    publish(Path(target))
            else:
                self._files.pipe_file(target, text)

    def _archive(self, digest: str) -> str:
        return f"{self._root}/archives/{_hex(digest)}.mar"

    def _build(self, key: BuildKey) -> str:
        return f"{self._root}/builds/{key.sha256}.json"

    def _not_there(self, digest: str) -> NotFound:
        return NotFound(
            f"the archive store at {self.url} has no archive {digest}",
            next="modelswitch build builds it again",
        )

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn whatever the file system behind fsspec raises into StoreUnreachable."""
        try:
            yield
        except ModelSwitchError:
            raise
        except ImportError as error:
            raise StoreUnreachable(
                f"the archive store at {self.url} cannot be opened: {error}",
                next="install the package it names beside modelswitch",
            ) from error
        except Exception as error:
            raise StoreUnreachable(
                f"the archive store at {self.url} cannot be used: {type(error).__name__}: {error}",
                next="check store_url and that it can be reached from here",
            ) from error


def partial_name(digest: str) -> str:
    """The file, beside where it is fetched to, that holds what a broken download left."""
    return f".partial-{_hex(digest)}"


def _copy(
    source: BinaryIO,
    out: BinaryIO,
    size: int,
    name: str,
    *,
    done: int = 0,
    stop: Event | None = None,
) -> None:
    """Append a stream to a file, up to `size` bytes, and sync it; progress is told when big."""
    while chunk := source.read(_CHUNK):
        write_all(out, chunk)
        done += len(chunk)
        if size >= BIG:
            tell(name, done_bytes=done, total_bytes=size)
        if stop is not None and stop.is_set():
            break
    if done != size:
        raise StoreUnreachable(f"the copy of an archive broke off at {done:,} of {size:,} bytes")
    os.fsync(out.fileno())


def _skip(source: BinaryIO, count: int) -> bool:
    """Go on behind the first bytes; False where the store cannot, and it is read from the start."""
    try:
        source.seek(count)
    except (ValueError, NotImplementedError):  # HTTP without ranges
        return False
    return True


@contextmanager
def _alone(partial: Path, stop: Event) -> Iterator[tuple[BinaryIO, bool]]:
    """The file, opened for appending and locked; and whether somebody else had it before.

    A download that was cancelled ends a moment after it was told to.
    """
    has_waited = False
    while True:
        with partial.open("ab", buffering=0) as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                has_waited = True
                if stop.wait(0.1):
                    raise StoreUnreachable("the download was stopped") from None
                continue
            if partial.exists() and partial.stat().st_ino == os.fstat(out.fileno()).st_ino:
                yield out, has_waited
                return


def _length(out: BinaryIO) -> int:
    return os.fstat(out.fileno()).st_size


def _is_right(path: Path, digest: str) -> bool:
    try:
        verify(path, digest)
    except ArchiveError:
        return False
    return True


def _progress(size: int, name: str) -> Any:
    from fsspec.callbacks import Callback

    def told(total: int | None, done: int, **_: Any) -> None:
        if size >= BIG:
            tell(name, done_bytes=done, total_bytes=total or size)

    return Callback(hooks={"tell": told})


def _hex(digest: str) -> str:
    hexa = digest.removeprefix(DIGEST_PREFIX)
    if not digest.startswith(DIGEST_PREFIX) or len(hexa) != 64 or not set(hexa) <= set(hexdigits):
        raise ArchiveError(f"a digest is sha256:<64 hex>, got {digest!r}")
    return hexa


def _time(item: dict[str, Any]) -> datetime | None:
    """When it was written, by whichever name this file system has for that."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = item.get(name)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value
    return None
