"""What of a version's folder goes into an archive, and which are refused with what to do."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelswitch.archive.build import Built, VersionSource, build, check
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError
from modelswitch.reports import Environment
from tests import trained
from tests.worker import Worker, extracted

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def save(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "saved"
            made[name] = getattr(trained, name)(folder).folder
        return made[name]

    return save


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A version's folder, to change things in."""
    return lambda name: Path(shutil.copytree(saved(name), tmp_path / name))


def built(folder: Path, out: Path, recipe: dict[str, Any] | None = None, **options: Any) -> Built:
    source = VersionSource("model", "1", "r1", "models:/m-1", folder)
    return build(source, Recipe.model_validate(recipe or {}), out, **options)


def refused(folder: Path, out: Path, recipe: dict[str, Any] | None = None) -> tuple[str, str]:
    with pytest.raises(ArchiveError) as caught:
        built(folder, out, recipe)
    return str(caught.value), str(caught.value.next)


@pytest.mark.parametrize("recipe", [{}, {"handler": "torch"}, {"handler": "pyfunc"}])
def test_pickled_module_is_refused_whatever_would_load_it(
    saved: Callable[[str], Path], tmp_path: Path, recipe: dict[str, Any]
) -> None:
    why, what = refused(saved("torch_pickled"), tmp_path, recipe)

    assert "is a pickled module" in why
    assert "--allow-pickle" in what


def test_state_dict_without_a_class_is_served_by_mlflow(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    document = built(saved("torch_state_dict"), tmp_path).document

    assert document.recipe.handler == "pyfunc"
    assert "model/artifacts/net.pth" in document.entries


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"module": "other:Net"}, "there is no other.py in the code that came with it"),
        ({"handler": "torch"}, "is no torch model"),
        ({"handler": "sklearn"}, "is no scikit-learn model"),
        ({"handler": "onnx"}, "is no ONNX model"),
    ],
)
def test_state_dict_by_a_recipe_that_does_not_fit_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, recipe: dict[str, Any], why: str
) -> None:
    assert why in refused(saved("torch_state_dict"), tmp_path, recipe)[0]


def test_class_that_answers_otherwise_is_refused(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("torch_state_dict")
    net = folder / "code" / "net.py"
    net.write_text(net.read_text() + "\n\nclass Less(Net):\n    forward = lambda self, x: -x\n")

    why, _ = refused(folder, tmp_path / "out", {"module": "net:Less"})
    missing, _ = refused(folder, tmp_path / "out", {"module": "net:More"})

    assert "the torch handler answers its golden request otherwise" in why
    assert "has no attribute 'More'" in missing
    assert list((tmp_path / "out").iterdir()) == []


def test_class_without_a_state_dict_is_refused_with_how_to_log_it(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    why, what = refused(saved("python"), tmp_path, {"module": "rules:score"})

    assert "its signature has inputs that are no numbers" in why or "no artifact" in why
    assert what


def test_array_for_a_frame_is_refused_where_it_is_asked_for_and_does_not_do(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    why, what = refused(saved("sklearn_by_name"), tmp_path, {"handler": "sklearn"})

    assert "only supported for dataframes" in why
    assert "takes pyfunc for it" in what
    assert list(tmp_path.iterdir()) == []


def test_array_for_a_frame_is_not_taken_where_nothing_could_compare_the_two(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    built_so = built(saved("sklearn_columns"), tmp_path, golden=False)

    assert built_so.document.recipe.handler == "pyfunc"


def test_archive_holds_the_whole_folder_but_what_is_hidden_or_cached(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("python")
    for name in ("code/__pycache__/rules.pyc", ".git/config", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")

    entries = built(folder, tmp_path / "out").document.entries

    assert {"model/MLmodel", "model/code/rules.py", "model/scored.py"} <= entries.keys()
    assert not [name for name in entries if "pycache" in name or "/." in name]


def test_file_whose_name_an_archive_cannot_carry_is_named(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("python")
    (folder / "code" / "a note.txt").write_text("x")

    why, what = refused(folder, tmp_path / "out")

    assert "'model/code/a note.txt' cannot be the name of an entry" in why
    assert "rename the file" in what


def test_code_of_another_version_is_not_mistaken_for_this_ones(
    copied: Callable[[str], Path], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("python")
    rules = folder / "code" / "rules.py"
    rules.write_text(rules.read_text().replace("* factor", "* factor + 1"))

    first, second = built(saved("python"), tmp_path), built(folder, tmp_path)

    one, other = (
        Worker(extracted(b.path, tmp_path / b.label)).predictions(b.document.golden.request)
        for b in (first, second)
        if b.document.golden
    )
    assert [row["score"] + 1 for row in one] == [row["score"] for row in other]
    assert first.document.golden != second.document.golden
    with pytest.raises(ImportError):
        importlib.import_module("rules_of_nobody")


@pytest.mark.parametrize("name", ["python", "sklearn_columns", "torch_pickled"])
def test_building_twice_gives_the_same_bytes(
    saved: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    recipe = {"allow_pickle": True} if name == "torch_pickled" else {}
    source = VersionSource("model", "1", "r1", "models:/m-1", saved(name))

    first = built(saved(name), tmp_path / "a", recipe)

    assert first.digest == built(saved(name), tmp_path / "b", recipe).digest
    assert check(first.path, source) == []


WORKER = {"mlflow-skinny": "3.17.2", "pandas": "3.1.1", "numpy": "2.4.6", "pyyaml": "6.0.3"}


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("xgboost", {}, 'it has no xgboost: pip install "xgboost==3.2.*"'),
        ("xgboost", {"xgboost-cpu": "2.1.0"}, "it has xgboost 2.1.0"),
        ("sklearn_by_name", {"scikit-learn": "1.4.2"}, "it has scikit-learn 1.4.2"),
        ("sklearn_columns", {"scikit-learn": "1.9.0"}, "it has no skops: pip install"),
        ("python", {"mlflow-skinny": None}, 'it has no mlflow-skinny: pip install "mlflow-skinny"'),
    ],
)
def test_worker_that_cannot_load_it_is_told_apart_with_what_mends_it(
    saved: Callable[[str], Path], tmp_path: Path, name: str, has: dict[str, Any], lacks: str
) -> None:
    packages = {k: v for k, v in {**WORKER, **has}.items() if v}
    worker = Environment(python="3.11.7", packages=packages)

    with pytest.raises(ArchiveError) as caught:
        built(saved(name), tmp_path, environments=[worker])

    assert lacks in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_python_that_pickled_a_module_must_be_the_workers(
    saved: Callable[[str], Path], tmp_path: Path, copied: Callable[[str], Path]
) -> None:
    folder = copied("torch_pickled")
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"]["python_version"] = "3.8.10"
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))

    with pytest.raises(ArchiveError, match=r"Python 3\.11\.7, and the model's pickled code"):
        built(
            folder,
            tmp_path / "out",
            {"allow_pickle": True},
            environments=[
                Environment(python="3.11.7", packages={"torch": "2.14.1", "cloudpickle": "3.1.2"})
            ],
        )
