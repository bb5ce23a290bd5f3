"""The archive store: archives by digest, added or collected, never changed.

A folder, S3, GCS, Azure: whatever fsspec opens. `archives/<64 hex>.mar` holds the archives,
`builds/<64 hex>.json` remembers which archive a version, a recipe and a handler release gave.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import hexdigits
from typing import Any, BinaryIO, Protocol

from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import BIG, replacing, write_all
from modelswitch.effects import effect, tell
from modelswitch.errors import ArchiveError, ModelSwitchError, NotFound, StoreUnreachable
from modelswitch.line import DIGEST_PREFIX

_CHUNK = 4 << 20


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
    def fetch(self, digest: str, to_path: Path) -> None: ...
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
                    with path.open("rb") as source:
                        _copy(source, temporary, size, "store.put")
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

    def fetch(self, digest: str, to_path: Path) -> None:
        """Copy an archive to `to_path`, streamed; it appears there whole or not at all."""
        with (
            effect("store.fetch", digest=digest),
            self.open(digest) as source,
            self._reached(),
        ):
            size = int(self._files.size(self._archive(digest)))
            with replacing(to_path.parent, size) as (temporary, publish):
                _copy(source, temporary, size, "store.fetch")
                publish(to_path)

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


def _copy(source: BinaryIO, to_path: Path, size: int, name: str) -> None:
    """Copy a stream into a file and sync it; progress is told when it is big."""
    with to_path.open("wb", buffering=0) as out:
        done = 0
        while chunk := source.read(_CHUNK):
            write_all(out, chunk)
            done += len(chunk)
            if size >= BIG:
                tell(name, done_bytes=done, total_bytes=size)
        os.fsync(out.fileno())


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
