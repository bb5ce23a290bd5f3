"""Write an archive: one pass over the weights, constant memory, nothing half-written visible.

The document comes first in the file, though it holds the digests of what follows: a digest's
length is known, so its place is kept and filled in at the end. That way each byte is read once,
hashed and copied at the same time, and a reader finds the document without searching.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from modelswitch.archive.document import Document, Entry, check_entries, digest_of
from modelswitch.archive.layout import DOCUMENT, MANIFEST, Member, directory
from modelswitch.archive.manifest import manifest_of
from modelswitch.effects import effect, tell
from modelswitch.errors import ArchiveError
from modelswitch.line import DIGEST_PREFIX

CHUNK = 4 << 20
BIG = 64 << 20  # above this many bytes progress is told

_PREFIX, _SUFFIX = ".writing-", ".tmp"
_LEFT_BEHIND_S = 3600  # a temporary file that nobody has written to for so long
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNKNOWN = DIGEST_PREFIX + "0" * 64

Source = Path | bytes


@dataclass(frozen=True, slots=True)
class Written:
    """An archive as it stands on disk, named by its digest."""

    path: Path
    digest: str
    size_bytes: int
    document: Document


def write(
    folder: Path, draft: Document, entries: Mapping[str, Source], *, durable: bool = True
) -> Written:
    """Write `entries` and the document that lists them into `folder/<64 hex>.mar`.

    `draft` is the document without entries. The file appears complete or not at all; `durable`
    outlives a power cut too, which a file on its way into the store need not (`put` sees to it).
    The same input gives the same bytes anywhere. Raises ArchiveError when the disk is full or a
    source cannot be read or changes meanwhile.
    """
    check_entries(dict(entries), source=str(draft.identity.model))
    sizes = {name: _size(entries[name]) for name in sorted(entries)}
    unknown = {name: Entry(digest=_UNKNOWN, size=size) for name, size in sizes.items()}
    room = len(_with(draft, unknown).bytes)
    total = sum(sizes.values()) + room
    with (
        effect("archive.write", model=draft.identity.model, size_bytes=total),
        replacing(folder, total) as (temporary, publish),
    ):
        try:
            done = _write_all(temporary, draft, entries, sizes, room)
            if durable:
                _sync(temporary)
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise ArchiveError(f"{draft.identity.model} was not archived: {error}") from error
        final = folder / (done.digest.removeprefix(DIGEST_PREFIX) + ".mar")
        publish(final)
    return replace(done, path=final)


def _write_all(
    path: Path, draft: Document, entries: Mapping[str, Source], sizes: Mapping[str, int], room: int
) -> Written:
    listed: dict[str, Entry] = {}
    total = sum(sizes.values())
    with path.open("r+b", buffering=0) as out, ThreadPoolExecutor(1) as pool:
        place = Member(DOCUMENT, room, 0, 0)
        members: list[Member] = []
        at = place.end
        for name, size in sizes.items():
            member = Member(name, size, 0, at)
            out.seek(at)
            write_all(out, member.header)
            with _open(entries[name]) as stream:
                copied = _copy(stream, out, size, pool, _telling(at - place.end, total))
            if copied is None:
                raise ArchiveError(f"{name} changed while it was being archived", next="try again")
            crc, sha256 = copied
            members.append(replace(member, crc=crc))
            listed[name] = Entry(digest=DIGEST_PREFIX + sha256, size=size)
            at = member.end
        document = _with(draft, listed)
        text = document.bytes
        digest = digest_of(text)
        manifest = manifest_of(document, digest)
        first = Member(DOCUMENT, len(text), zlib.crc32(text), 0)
        last = Member(MANIFEST, len(manifest), zlib.crc32(manifest), at)
        out.seek(at)
        write_all(out, last.header + manifest + directory([first, *members, last], at=last.end))
        length = out.tell()
        out.seek(0)
        write_all(out, first.header + text)
        for member in members:
            out.seek(member.crc_at)
            write_all(out, member.crc.to_bytes(4, "little"))
    return Written(path, digest, length, document)


def write_small(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a zip of a few small files, in the order given; atomic like `write`."""
    members: list[Member] = []
    body = b""
    for name, content in contents.items():
        members.append(Member(name, len(content), zlib.crc32(content), len(body)))
        body += members[-1].header + content
    body += directory(members, at=len(body))
    with replacing(path.parent, len(body)) as (temporary, publish):
        temporary.write_bytes(body)
        publish(path)


@contextmanager
def replacing(folder: Path, needed_bytes: int) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A temporary file in `folder`, and the call that renames it to what it is to be.

    Whatever goes wrong, the temporary file goes. A full disk becomes an ArchiveError that says
    how much is needed and how much is free.
    """
    with room(folder, needed_bytes):
        try:
            _sweep(folder)
            handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
        except OSError as error:
            raise _unwritable(folder, error) from error
        os.close(handle)
        temporary = Path(name)

        def publish(final: Path) -> None:
            move(temporary, final)

        try:
            yield temporary, publish
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def room(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Around writing so much into `folder`, which is made; a full disk becomes an ArchiveError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _unwritable(folder, error) from error
    if free < needed_bytes:
        raise _full(folder, needed_bytes)
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder, needed_bytes) from error
        raise


def move(temporary: Path, final: Path) -> None:
    """Give what is whole its name, in the same folder, so that it outlives a power cut."""
    temporary.chmod(0o644)  # a temporary file's 0600 would keep a server of another user out
    temporary.replace(final)
    if os.name == "posix":  # the rename itself, where folders can be synced
        _sync(final.parent)


def _unwritable(folder: Path, error: OSError) -> ArchiveError:
    return ArchiveError(f"cannot write into {folder}: {error.strerror}")


def _sweep(folder: Path) -> None:
    """Remove what a killed process left behind."""
    for leftover in folder.glob(_PREFIX + "*" + _SUFFIX):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _LEFT_BEHIND_S:
                leftover.unlink()


def _full(folder: Path, needed_bytes: int) -> ArchiveError:
    free = shutil.disk_usage(folder).free
    return ArchiveError(
        f"the disk of {folder} is too full: {needed_bytes:,} bytes are needed, {free:,} are free",
        next="free some space there, then try again; nothing was left behind",
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(
    source: BinaryIO,
    out: BinaryIO,
    size: int,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> tuple[int, str] | None:
    """Copy exactly `size` bytes; the checksum and SHA-256, or None if there were others.

    Hashing runs beside the checksum and the write: both let go of the interpreter's lock.
    """
    hasher, crc, done = hashlib.sha256(), 0, 0
    buffer = memoryview(bytearray(min(CHUNK, size + 1)))
    while count := source.readinto(buffer):  # type: ignore[attr-defined]
        chunk = buffer[:count]
        hashed = pool.submit(hasher.update, chunk)
        crc = zlib.crc32(chunk, crc)
        write_all(out, chunk)
        hashed.result()
        done += count
        if done > size:
            return None
        progress(done)
    return (crc, hasher.hexdigest()) if done == size else None


def write_all(out: BinaryIO, data: bytes | memoryview) -> None:
    """All of it: an unbuffered write may take only a part."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def _telling(before: int, total: int) -> Callable[[int], None]:
    if total < BIG:
        return lambda _: None
    return lambda done: tell("archive.write", done_bytes=before + done, total_bytes=total)


def _with(draft: Document, entries: dict[str, Entry]) -> Document:
    return draft.model_copy(update={"entries": entries})


def _size(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    try:
        return source.stat().st_size
    except OSError as error:
        raise ArchiveError(f"{source} cannot be archived: {error.strerror}") from error


def _open(source: Source) -> BinaryIO:
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=0)
