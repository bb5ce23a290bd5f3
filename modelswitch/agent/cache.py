"""The archives in a server's model store: fetched once, verified at each use, kept up to a limit.

What no pin names any more stays for the way back, least recently used gone first. What the
server has loaded it has extracted: it does not miss the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from threading import Event

from modelswitch.archive.document import Document
from modelswitch.archive.verify import verify
from modelswitch.effects import effect
from modelswitch.errors import ArchiveError
from modelswitch.store import ArchiveStore, partial_name

_OURS = re.compile(r"[0-9a-f]{64}\.mar|\.partial-[0-9a-f]{64}")


def archive_name(digest: str) -> str:
    return digest.removeprefix("sha256:") + ".mar"


class Cache:
    """`limit_bytes`: how much of what no pin names is kept beside what one does."""

    def __init__(self, store: ArchiveStore, folder: Path, limit_bytes: int) -> None:
        self._store = store
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._pinned: set[str] = set()

    async def fetch(self, digest: str) -> Document:
        """The archive in the model store, under its digest, verified just now."""
        path = self._folder / archive_name(digest)
        if path.exists():
            with contextlib.suppress(ArchiveError):
                return await asyncio.to_thread(verify, path, digest)
            path.unlink(missing_ok=True)
        try:
            await self._download(digest, path)
        except ArchiveError:  # a full disk
            if not self._shrink(0):
                raise
            await self._download(digest, path)
        try:
            return await asyncio.to_thread(verify, path, digest)
        except ArchiveError:
            path.unlink(missing_ok=True)
            raise

    def keep(self, digests: set[str]) -> None:
        """Remember what is pinned now, and remove what is not beyond the limit."""
        self._pinned = {name(x) for x in digests for name in (archive_name, partial_name)}
        for name in self._pinned:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._folder / name)  # in use as of now
        self._shrink(self._limit_bytes)

    async def _download(self, digest: str, path: Path) -> None:
        stop = Event()
        with effect("agent.fetch", digest=digest):
            try:
                await asyncio.to_thread(self._store.fetch, digest, path, stop=stop)
            except asyncio.CancelledError:
                stop.set()  # its thread would go on
                raise

    def _shrink(self, limit_bytes: int) -> bool:
        """Remove unpinned archives, least recently used first; whether there was one."""
        others = []
        for file in self._folder.glob("*"):
            if _OURS.fullmatch(file.name) and file.name not in self._pinned:
                with contextlib.suppress(FileNotFoundError):
                    others.append((file, file.stat()))
        total, is_smaller = 0, False
        for file, seen in sorted(others, key=lambda other: other[1].st_mtime, reverse=True):
            total += seen.st_size
            if total > limit_bytes or file.suffix != ".mar":
                file.unlink(missing_ok=True)
                is_smaller = True
        return is_smaller
