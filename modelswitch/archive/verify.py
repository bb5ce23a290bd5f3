"""Verify an archive against its document, byte by byte; read just the document.

Nothing is searched for and nothing is parsed but the document: every header has one right form
(`layout`), so what is not exactly that is refused, whatever trick it is. Needs no MLflow, torch,
numpy or database: agents verify before a server sees the file.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelswitch.archive.document import MAX_BYTES, Document, digest_of, parse
from modelswitch.archive.layout import DOCUMENT, MANIFEST, Member, directory
from modelswitch.archive.manifest import manifest_of
from modelswitch.errors import ArchiveError, DigestMismatch, NotFound
from modelswitch.line import DIGEST_PREFIX

_CHUNK = 4 << 20
_AGAIN = "modelswitch build builds it again; the bytes at hand are not to be trusted"


def read_document(source: Path | BinaryIO, *, name: str = "the archive") -> tuple[Document, str]:
    """The document and its digest, nothing else looked at: cheap, and proves nothing.

    `source` is a path, or a stream at the archive's first byte that `name` is said of. Raises
    NotFound when there is no file, ArchiveError when it is not an archive of ours.
    """
    if isinstance(source, Path):
        with _opened(source) as file:
            return read_document(file, name=source.name)
    text, _ = _document_bytes(source, name)
    return parse(text, source=name), digest_of(text)


def verify(path: Path, expected_digest: str | None = None) -> Document:
    """The document of an archive of which every byte is as it must be.

    Raises DigestMismatch when it is not the archive of `expected_digest`, or an entry's bytes
    are not those listed; ArchiveError on anything else out of place; NotFound.
    """
    with _opened(path) as file:
        text, first = _document_bytes(file, path.name)
        digest = digest_of(text)
        if expected_digest is not None and digest != expected_digest:
            raise DigestMismatch(
                f"{path.name} is the archive {digest}, not {expected_digest}", next=_AGAIN
            )
        document = parse(text, source=path.name)
        members = [first]
        for name in sorted(document.entries):
            entry = document.entries[name]
            members.append(_check_entry(file, path.name, name, entry.size, members[-1].end))
            if (found := _hash(file, members[-1])) != (entry.digest, members[-1].crc):
                raise DigestMismatch(
                    f"{path.name}: the entry {name} has digest {found[0]}, "
                    f"its document says {entry.digest}",
                    next=_AGAIN,
                )
        manifest = manifest_of(document, digest)
        last = Member(MANIFEST, len(manifest), zlib.crc32(manifest), members[-1].end)
        rest = last.header + manifest + directory([*members, last], at=last.end)
        # One byte more than there should be: a tail shows up as a difference too.
        if file.read(len(rest) + 1) != rest:
            raise ArchiveError(
                f"{path.name}: after its last entry it is not what its document makes it: "
                "an entry that is not listed, another manifest, a tail, or a cut",
                next=_AGAIN,
            )
    return document


def _document_bytes(file: BinaryIO, archive: str) -> tuple[bytes, Member]:
    """The document's text, whose header must be the file's first bytes."""
    lead = file.read(len(Member(DOCUMENT, 0, 0, 0).header))
    size = struct.unpack_from("<L", lead, 22)[0] if len(lead) >= 26 else MAX_BYTES + 1
    if size > MAX_BYTES or lead != Member(DOCUMENT, size, _crc(lead), 0).header:
        raise ArchiveError(
            f"{archive} is not an archive of ModelSwitch: it does not begin with {DOCUMENT}",
            next=_AGAIN,
        )
    text = file.read(size)
    if len(text) != size or zlib.crc32(text) != _crc(lead):
        raise ArchiveError(f"{archive}: its {DOCUMENT} is cut or corrupt", next=_AGAIN)
    return text, Member(DOCUMENT, size, _crc(lead), 0)


def _check_entry(file: BinaryIO, archive: str, name: str, size: int, at: int) -> Member:
    """The member that must stand here, its header read and compared."""
    length = len(Member(name, size, 0, at).header)
    header = file.read(length)
    member = Member(name, size, _crc(header) if len(header) == length else 0, at)
    if header != member.header:
        raise ArchiveError(
            f"{archive}: at byte {at} the entry {name} should begin, stored and of "
            f"{size} bytes, and does not",
            next=_AGAIN,
        )
    return member


def _hash(file: BinaryIO, member: Member) -> tuple[str, int]:
    """Digest and checksum of the member's content, read in chunks."""
    hasher, crc, left = hashlib.sha256(), 0, member.size
    buffer = memoryview(bytearray(min(_CHUNK, max(left, 1))))
    while left and (count := file.readinto(buffer[: min(left, _CHUNK)])):  # type: ignore[attr-defined]
        hasher.update(buffer[:count])
        crc = zlib.crc32(buffer[:count], crc)
        left -= count
    return DIGEST_PREFIX + hasher.hexdigest(), crc


def _crc(header: bytes) -> int:
    return int.from_bytes(header[14:18], "little")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise NotFound(f"there is no archive at {path}") from error
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
