"""Archives as bytes: the same everywhere, whole or absent, and what a zip reader expects."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelswitch.archive import writer
from modelswitch.archive.document import ENTRY_NAME, Document, Identity, Signature, digest_of
from modelswitch.archive.layout import DOCUMENT, MANIFEST, Member, directory
from modelswitch.archive.placeholder import write_placeholder
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import read_document, verify
from modelswitch.archive.writer import write
from modelswitch.errors import ArchiveError


def draft(version: str = "3") -> Document:
    return Document(
        schema=1,
        identity=Identity(model="digits", version=version, run_id="r1", source="models:/m-1"),
        signature=Signature(inputs=[{"type": "tensor"}]),
        recipe=Recipe(handler="torch"),
        golden=None,
        entries={},
    )


def test_digest_is_that_of_the_document_inside(tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights"})

    with zipfile.ZipFile(written.path) as file:
        inside = file.read(DOCUMENT)
    assert written.digest == digest_of(inside)
    assert written.path.name == written.digest.removeprefix("sha256:") + ".mar"


def test_document_lists_every_entry_but_the_manifest(tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights", "a.py": b""})

    with zipfile.ZipFile(written.path) as file:
        names = file.namelist()
        listed = json.loads(file.read(DOCUMENT))["entries"]
    assert names == [DOCUMENT, "a.py", "model.pt2", MANIFEST]
    digest = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert listed["model.pt2"] == {"digest": digest, "size": 7}
    assert sorted(listed) == ["a.py", "model.pt2"]


def test_zip_is_stored_without_descriptors_and_names_no_machine(tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights"})

    with zipfile.ZipFile(written.path) as file:
        assert file.testzip() is None
        for info in file.infolist():
            assert (info.compress_type, info.flag_bits, info.create_system) == (0, 0, 3)
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o100644


def test_manifest_has_the_fields_of_torch_model_archiver(tmp_path: Path) -> None:
    from model_archiver.manifest_components.manifest import Manifest
    from model_archiver.manifest_components.model import Model

    theirs = Manifest(
        runtime="python",
        model=Model(
            model_name="digits",
            serialized_file="model.pt2",
            handler="modelswitch_torch.py",
            model_version="3-ab12cd34",
        ),
    ).manifest_dict

    written = write(tmp_path, draft(), {"model.pt2": b"weights"})

    with zipfile.ZipFile(written.path) as file:
        ours = json.loads(file.read(MANIFEST))
    assert ours.keys() == theirs.keys()
    assert ours["model"].keys() == theirs["model"].keys()
    assert ours["archiverVersion"] == theirs["archiverVersion"]
    assert ours["runtime"] == theirs["runtime"]
    label = written.document.label(written.digest)
    assert ours["model"] == theirs["model"] | {"modelVersion": label}


BUILD = """
import sys, locale, os
from pathlib import Path
umask, out = int(sys.argv[1], 8), Path(sys.argv[2])
os.umask(umask)
locale.setlocale(locale.LC_ALL, "")
sys.path.insert(0, sys.argv[3])
from tests.unit.test_archive_writer import draft
from modelswitch.archive.writer import write
names = ["model.pt2", "b.py", "a.py"]
for name in set(names):
    (out / name).write_bytes(name.encode() * 1000)
    os.utime(out / name, (umask * 1000, umask * 1000))
print(write(out, draft(), {name: out / name for name in set(names)}).path)
"""


def test_same_bytes_under_another_umask_zone_locale_hash_seed_and_file_times(
    tmp_path: Path,
) -> None:
    made = []
    for i, (umask, variables) in enumerate(
        [
            ("022", {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"}),
            ("077", {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}),
            ("000", {"TZ": "America/Lima", "LC_ALL": "POSIX", "PYTHONHASHSEED": "77"}),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        result = subprocess.run(
            [sys.executable, "-c", BUILD, umask, str(folder), str(Path(__file__).parents[2])],
            env={**os.environ, **variables, "USER": f"user{i}"},
            capture_output=True,
            text=True,
            check=True,
        )
        made.append(Path(result.stdout.splitlines()[-1]))

    assert len({path.name for path in made}) == 1
    assert len({path.read_bytes() for path in made}) == 1
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o644"}


names = st.from_regex(ENTRY_NAME, fullmatch=True).filter(lambda name: len(name) < 200)


def fit_together(contents: dict[str, bytes]) -> bool:
    """No two are one file, and none is another's folder, where case does not count."""
    folded = [name.casefold() for name in (*contents, DOCUMENT, "mar-inf")]
    folders = {
        "/".join(parts[:i]) for n in folded for parts in [n.split("/")] for i in range(len(parts))
    }
    return len(set(folded)) == len(folded) and not folders & set(folded)


@given(st.dictionaries(names, st.binary(max_size=300), max_size=6).filter(fit_together))
def test_any_entries_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("any")

    written = write(folder, draft(), contents)

    assert verify(written.path, written.digest) == written.document
    with zipfile.ZipFile(written.path) as file:
        assert {name: file.read(name) for name in contents} == contents


@pytest.mark.parametrize(
    "name",
    [
        *("modelswitch.json", "MODELSWITCH.json", "mar-inf", "MAR-INF/x", "modelswitch.json/x"),
        *(
            "../x",
            "a/../x",
            "a/..",
            "..",
            "/x",
            "a//b",
            "a/",
            "./x",
            "a\\b",
            "c:x",
            ".x",
            "a/.x",
            "",
        ),
        *("a b", "é", "a\0", "a\n", "x" * 200, "a/" * 16 + "a"),
    ],
)
def test_name_that_cannot_be_an_entrys_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError):
        write(tmp_path, draft(), {name: b"x"})


def test_two_entries_that_are_one_file_on_some_systems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="share a name"):
        write(tmp_path, draft(), {"model.pt": b"x", "Model.pt": b"y"})


@pytest.mark.parametrize("other", ["model/MLmodel/x", "MODEL/mlmodel/x"])
def test_entry_that_is_anothers_folder_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(ArchiveError, match="for a folder"):
        write(tmp_path, draft(), {"model/MLmodel": b"x", other: b"y"})


def test_full_disk_is_said_with_figures_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("U", (), {"free": 10})())

    with pytest.raises(ArchiveError, match=r"bytes are needed, 10 are free") as caught:
        write(tmp_path, draft(), {"model.pt2": b"weights"})

    assert "free some space" in str(caught.value.next)
    assert list(tmp_path.iterdir()) == []


FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.test_archive_writer import draft
from modelswitch.archive.writer import write
from modelswitch.errors import ArchiveError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write(Path(sys.argv[1]), draft(), {"model.pt2": b"x" * (2 << 20)})
except ArchiveError as error:
    print(error)
"""


def test_disk_that_fills_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path), str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "too full" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_source_that_cannot_be_read_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="nowhere"):
        write(tmp_path / "out", draft(), {"model.pt2": tmp_path / "nowhere"})

    assert not (tmp_path / "out").exists()


def test_source_that_grows_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"12345")
    monkeypatch.setattr(writer, "_size", lambda _: 4)

    with pytest.raises(ArchiveError, match="changed while"):
        write(tmp_path / "out", draft(), {"model.pt2": weights})

    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_build_left_behind_is_swept(tmp_path: Path) -> None:
    old, new = tmp_path / ".writing-old.tmp", tmp_path / ".writing-new.tmp"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 7200,) * 2)

    write(tmp_path, draft(), {"model.pt2": b"weights"})

    assert not old.exists()
    assert new.exists()


def test_memory_stays_constant(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.test_archive_writer import draft
from modelswitch.archive.writer import write
from modelswitch.archive.verify import verify
folder = Path(sys.argv[1])
peaks = []
for size in (1 << 20, 200 << 20):
    weights = folder / "weights"
    with weights.open("wb") as out:
        out.truncate(size)
    verify(write(folder, draft(), {"model.pt2": weights}).path)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(result.stdout.splitlines()[-1]) < 64 << 10  # KiB


def test_zip64_records_are_those_other_readers_know(tmp_path: Path) -> None:
    path, size = tmp_path / "big.zip", 5 << 30
    first = Member("big.bin", size, 0, 0)
    second = Member("small.txt", 5, 0x3610A686, first.end)  # crc32 of b"hello"
    with path.open("wb") as out:
        out.write(first.header)
        out.seek(second.offset)  # a hole: five sparse GiB
        out.write(second.header + b"hello" + directory([first, second], at=second.end))

    with zipfile.ZipFile(path) as file:
        assert [(i.filename, i.file_size) for i in file.infolist()] == [
            ("big.bin", size),
            ("small.txt", 5),
        ]
        assert file.read("small.txt") == b"hello"


def test_document_can_be_read_alone(tmp_path: Path) -> None:
    written = write(tmp_path, draft(), {"model.pt2": b"weights"})

    assert read_document(written.path) == (written.document, written.digest)


def test_placeholder_is_a_zip_of_its_own_version(tmp_path: Path) -> None:
    write_placeholder(tmp_path / "one.mar", "digits")
    write_placeholder(tmp_path / "two.mar", "digits")

    with zipfile.ZipFile(tmp_path / "one.mar") as file:
        assert file.testzip() is None
        model = json.loads(file.read(MANIFEST))["model"]
    assert (model["modelName"], model["modelVersion"]) == ("digits", "placeholder")
    assert (tmp_path / "one.mar").read_bytes() == (tmp_path / "two.mar").read_bytes()
