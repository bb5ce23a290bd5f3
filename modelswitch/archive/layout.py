"""Where every byte of an archive stands: a stored zip, fixed by names, sizes and checksums.

One encoder for the writer and for `verify`: an archive is right only if its headers are exactly
these, so compression, gaps, tails, duplicates and paths that climb cannot be written down. The
format is PKWARE's APPNOTE 6.3.3; zip64 is used just where a size or an offset needs it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

DOCUMENT = "modelswitch.json"
MANIFEST = "MAR-INF/MANIFEST.json"

_LIMIT32 = 0xFFFFFFFF
_LIMIT16 = 0xFFFF
_PLAIN, _ZIP64 = 20, 45  # the format's versions 2.0 and 4.5
_UNIX = 3 << 8
_MODE = 0o100644 << 16
_DATE = (1 << 5) | 1  # 1980-01-01 00:00, the earliest a zip can say
_CRC_AT = 14  # where a local header holds the checksum


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive; sizes and offsets in bytes, `offset` that of its header."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def header(self) -> bytes:
        """The local header, which the content follows at once."""
        name = self.name.encode("ascii")
        big = self.size >= _LIMIT32
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.size) if big else b""
        size = min(self.size, _LIMIT32)
        need = _ZIP64 if big else _PLAIN
        fixed = struct.pack(
            "<4s5H3L2H",
            b"PK\x03\x04",
            *(need, 0, 0, 0, _DATE),
            *(self.crc, size, size),
            *(len(name), len(extra)),
        )
        return fixed + name + extra

    @property
    def content_at(self) -> int:
        return self.offset + len(self.header)

    @property
    def crc_at(self) -> int:
        return self.offset + _CRC_AT

    @property
    def end(self) -> int:
        return self.content_at + self.size

    @property
    def record(self) -> bytes:
        """Its line in the central directory."""
        name = self.name.encode("ascii")
        wide = [self.size, self.size] if self.size >= _LIMIT32 else []
        wide += [self.offset] if self.offset >= _LIMIT32 else []
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size = min(self.size, _LIMIT32)
        need = _ZIP64 if wide else _PLAIN
        fixed = struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            *(_UNIX | need, need, 0, 0, 0, _DATE),
            *(self.crc, size, size),
            *(len(name), len(extra), 0, 0, 0),
            *(_MODE, min(self.offset, _LIMIT32)),
        )
        return fixed + name + extra


def directory(members: Iterable[Member], *, at: int) -> bytes:
    """The central directory, which starts at offset `at`, and the records that end the file."""
    records = [member.record for member in members]
    body = b"".join(records)
    count, size = len(records), len(body)
    end = b""
    if count >= _LIMIT16 or size >= _LIMIT32 or at >= _LIMIT32:
        end += struct.pack(
            "<4sQ2H2L4Q",
            b"PK\x06\x06",
            *(44, _UNIX | _ZIP64, _ZIP64, 0, 0),
            *(count, count, size, at),
        )
        end += struct.pack("<4sLQL", b"PK\x06\x07", 0, at + size, 1)
    end += struct.pack(
        "<4s4H2LH",
        b"PK\x05\x06",
        *(0, 0, min(count, _LIMIT16), min(count, _LIMIT16)),
        *(min(size, _LIMIT32), min(at, _LIMIT32), 0),
    )
    return body + end
