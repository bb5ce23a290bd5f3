"""The archives beside a server: what is pinned stays, what is not stays up to a limit."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Event

import pytest

from modelswitch.agent.cache import Cache, archive_name
from modelswitch.archive.verify import verify
from modelswitch.errors import ArchiveError, DigestMismatch, StoreUnreachable
from modelswitch.store import FsspecStore, partial_name
from tests.site import small_archive


class House:
    """A store with five archives, of the same size but for a byte or two, and a model store."""

    def __init__(self, folder: Path) -> None:
        self.store = FsspecStore((folder / "store").as_uri())
        self.models = folder / "models"
        self.models.mkdir()
        self.digests = []
        for version in "12345":
            path, digest = small_archive(folder, "digits", version)
            self.store.put(path, digest)
            self.digests.append(digest)
            self.size = path.stat().st_size

    def cache(self, archives: float = 0) -> Cache:
        return Cache(self.store, self.models, int(archives * self.size))

    def has(self) -> set[int]:
        """Which of the five, from 0."""
        found = {file.name for file in self.models.iterdir()}
        return {n for n, digest in enumerate(self.digests) if archive_name(digest) in found}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_what_no_pin_names_stays_up_to_the_limit_the_oldest_goes_first(house: House) -> None:
    cache = house.cache(archives=2.5)
    for n, digest in enumerate(house.digests):
        cache.keep({digest})
        await cache.fetch(digest)
        os.utime(house.models / archive_name(digest), (n, n))
    assert house.has() == {2, 3, 4}

    cache.keep({house.digests[0]})

    assert house.has() == {3, 4}


async def test_what_is_pinned_is_never_removed(house: House) -> None:
    cache = house.cache(archives=0)
    for digest in house.digests:
        await cache.fetch(digest)
        os.utime(house.models / archive_name(digest), (0, 0))

    cache.keep(set(house.digests[:3]))

    assert house.has() == {0, 1, 2}


async def test_what_was_pinned_until_now_is_not_the_oldest(house: House) -> None:
    cache = house.cache(archives=1.5)
    for digest in house.digests[:2]:
        await cache.fetch(digest)
    os.utime(house.models / archive_name(house.digests[0]), (1, 1))
    os.utime(house.models / archive_name(house.digests[1]), (2, 2))
    cache.keep({house.digests[0]})

    cache.keep(set())

    assert house.has() == {0}


async def test_an_archive_that_is_kept_is_not_fetched_again(house: House) -> None:
    cache = house.cache(archives=5)
    await cache.fetch(house.digests[0])
    house.store.delete(house.digests[0])

    assert (await cache.fetch(house.digests[0])).identity.version == "1"


async def test_a_kept_archive_that_was_damaged_is_fetched_again(house: House) -> None:
    cache = house.cache()
    await cache.fetch(house.digests[0])
    path = house.models / archive_name(house.digests[0])
    path.write_bytes(path.read_bytes()[:-1])

    await cache.fetch(house.digests[0])

    assert verify(path, house.digests[0])


async def test_an_archive_that_is_another_is_refused_and_not_left_there(house: House) -> None:
    one, two = (house.store._archive(digest) for digest in house.digests[:2])
    Path(one).write_bytes(Path(two).read_bytes())

    with pytest.raises(DigestMismatch):
        await house.cache().fetch(house.digests[0])

    assert list(house.models.iterdir()) == []


async def test_half_a_download_of_what_is_not_wanted_any_more_is_removed(house: House) -> None:
    cache = house.cache(archives=5)
    for digest in house.digests[:2]:
        (house.models / partial_name(digest)).write_bytes(b"half")

    cache.keep({house.digests[0]})

    assert [f.name for f in house.models.iterdir()] == [partial_name(house.digests[0])]


async def test_files_that_are_not_ours_are_left_alone(house: House) -> None:
    for name in ("placeholder-digits.mar", "theirs.mar", "notes"):
        (house.models / name).touch()

    house.cache().keep(set())

    assert len(list(house.models.iterdir())) == 3


async def test_a_full_disk_is_emptied_of_what_no_pin_names_before_it_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = house.cache(archives=5)
    old, pinned, new = house.digests[:3]
    await cache.fetch(old)
    await cache.fetch(pinned)
    cache.keep({pinned, new})
    reach = house.store.fetch

    def fetch(digest: str, to_path: Path, *, stop: Event | None = None) -> None:
        if len(house.has()) > 1:
            raise ArchiveError("the disk is too full") from OSError(errno.ENOSPC, "full")
        reach(digest, to_path, stop=stop)

    monkeypatch.setattr(house.store, "fetch", fetch)

    await cache.fetch(new)
    assert house.has() == {1, 2}
    with pytest.raises(ArchiveError, match="the disk is too full"):
        await cache.fetch(old)
    assert house.has() == {1, 2}


async def test_a_store_that_is_away_leaves_what_is_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = house.cache(archives=5)
    await cache.fetch(house.digests[0])

    def away(*_: object, **__: object) -> None:
        raise StoreUnreachable("away")

    monkeypatch.setattr(house.store, "fetch", away)
    with pytest.raises(StoreUnreachable):
        await cache.fetch(house.digests[1])
    assert house.has() == {0}
