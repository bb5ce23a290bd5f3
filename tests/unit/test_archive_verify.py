"""Whatever is done to an archive's bytes, `verify` refuses it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelswitch.archive.document import digest_of
from modelswitch.archive.layout import DOCUMENT, MANIFEST, Member, directory
from modelswitch.archive.verify import read_document, verify
from modelswitch.archive.writer import Written, write
from modelswitch.errors import ArchiveError, DigestMismatch, NotFound
from tests.unit.test_archive_writer import draft

CONTENTS = {"handler.py": b"def handle(): ...\n", "model.pt2": b"weights" * 20}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("archive"), draft(), CONTENTS)


def contents_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def put_together(path: Path, contents: list[tuple[str, bytes]], gap: bytes = b"") -> Path:
    """An archive in our own layout, with whatever contents."""
    members: list[Member] = []
    body = b""
    for name, content in contents:
        members.append(Member(name, len(content), zlib.crc32(content), len(body)))
        body += members[-1].header + content + gap
    path.write_bytes(body + directory(members, at=len(body)))
    return path


def test_untouched_archive_is_verified(written: Written) -> None:
    assert verify(written.path, written.digest) == written.document


def test_our_own_layout_put_together_by_hand_is_verified(written: Written, tmp_path: Path) -> None:
    contents = list(contents_of(written.path).items())

    assert verify(put_together(tmp_path / "x.mar", contents), written.digest) == written.document


def test_another_archive_is_not_the_one_expected(written: Written, tmp_path: Path) -> None:
    other = write(tmp_path, draft("4"), CONTENTS)

    with pytest.raises(DigestMismatch, match=other.digest) as caught:
        verify(other.path, written.digest)
    assert caught.value.next


@given(data=st.data())
def test_any_changed_byte_is_refused(
    written: Written, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(written.path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("changed") / "x.mar"
    path.write_bytes(raw)

    with pytest.raises(ArchiveError):
        verify(path, written.digest)


@given(data=st.data())
def test_any_cut_is_refused(
    written: Written, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = written.path.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "x.mar"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])

    with pytest.raises(ArchiveError):
        verify(path, written.digest)


def test_prefix_and_tail_are_refused(written: Written, tmp_path: Path) -> None:
    raw, path = written.path.read_bytes(), tmp_path / "x.mar"
    for changed in (b"#!/bin/sh\n" + raw, raw + b"\0", raw + raw):
        path.write_bytes(changed)
        with pytest.raises(ArchiveError):
            verify(path, written.digest)


def extra(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [
        *list(contents.items())[:-1],
        ("sitecustomize.py", b"evil"),
        *list(contents.items())[-1:],
    ]


def missing(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [item for item in contents.items() if item[0] != "handler.py"]


def twice(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [*contents.items(), ("model.pt2", CONTENTS["model.pt2"])]


def climbing(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [*contents.items(), ("../../etc/x", b"evil")]


def reordered(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    first, *rest = contents.items()
    return [first, *reversed(rest)]


def other_manifest(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    manifest = json.loads(contents[MANIFEST])
    manifest["model"]["handler"] = "os:system"
    return [*list(contents.items())[:-1], (MANIFEST, json.dumps(manifest).encode())]


@pytest.mark.parametrize("change", [extra, missing, twice, climbing, reordered, other_manifest])
def test_anything_but_what_is_listed_is_refused(
    written: Written, tmp_path: Path, change: Callable[[dict[str, bytes]], list[tuple[str, bytes]]]
) -> None:
    path = put_together(tmp_path / "x.mar", change(contents_of(written.path)))

    with pytest.raises(ArchiveError):
        verify(path, written.digest)


def test_gaps_between_entries_are_refused(written: Written, tmp_path: Path) -> None:
    path = put_together(tmp_path / "x.mar", list(contents_of(written.path).items()), gap=b"\0")

    with pytest.raises(ArchiveError):
        verify(path, written.digest)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_same_contents_zipped_by_another_hand_are_refused(
    written: Written, tmp_path: Path, method: int
) -> None:
    path = tmp_path / "x.mar"
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in contents_of(written.path).items():
            file.writestr(name, content)

    with pytest.raises(ArchiveError):
        verify(path, written.digest)


def test_wrong_bytes_behind_right_checksums_are_refused(written: Written, tmp_path: Path) -> None:
    contents = contents_of(written.path) | {"model.pt2": b"weightz" * 20}

    with pytest.raises(DigestMismatch, match=r"model\.pt2"):
        verify(put_together(tmp_path / "x.mar", list(contents.items())), written.digest)


def test_document_that_lists_a_climbing_path_is_refused(written: Written, tmp_path: Path) -> None:
    contents = contents_of(written.path)
    document = json.loads(contents[DOCUMENT])
    document["entries"]["../x"] = document["entries"]["model.pt2"]
    contents[DOCUMENT] = json.dumps(document).encode()

    with pytest.raises(ArchiveError, match="entries"):
        verify(put_together(tmp_path / "x.mar", list(contents.items())))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schema": 2}, "schema 2"),
        ({"surprise": 1}, "surprise"),
        ({"golden": 3}, "golden"),
        ({"recipe": {"batch_size": "8"}}, "batch_size"),
    ],
)
def test_document_we_do_not_know_is_refused_by_name(
    written: Written, tmp_path: Path, change: dict[str, object], what: str
) -> None:
    contents = contents_of(written.path)
    contents[DOCUMENT] = json.dumps(json.loads(contents[DOCUMENT]) | change).encode()

    with pytest.raises(ArchiveError, match=what):
        verify(put_together(tmp_path / "x.mar", list(contents.items())))


def test_what_is_no_archive_is_said_plainly(tmp_path: Path) -> None:
    path = tmp_path / "x.mar"
    path.write_bytes(b"not a zip at all")
    with pytest.raises(ArchiveError, match="not an archive of ModelSwitch"):
        read_document(path)
    with pytest.raises(NotFound, match="no archive at"):
        verify(tmp_path / "nowhere.mar")


def test_document_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.mar"
    path.write_bytes(replace(Member(DOCUMENT, 0, 0, 0), size=(17 << 20)).header)

    with pytest.raises(ArchiveError):
        read_document(path)


def test_digest_is_taken_from_the_bytes_as_they_stand(written: Written) -> None:
    assert digest_of(contents_of(written.path)[DOCUMENT]) == written.digest


def test_agents_part_needs_no_heavy_library() -> None:
    code = """
import sys
import modelswitch.archive.verify, modelswitch.archive.golden, modelswitch.archive.placeholder
import modelswitch.store
print([m for m in ("torch", "mlflow", "numpy", "sqlalchemy", "pandas", "yaml") if m in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
