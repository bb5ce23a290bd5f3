"""From what MLflow wrote to an archive, and what is refused with what to do."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pytest
import torch

from modelswitch import handlers
from modelswitch.archive import reference
from modelswitch.archive.build import VersionSource, build, check
from modelswitch.archive.golden import Golden, compare
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import verify
from modelswitch.errors import ArchiveError, UsageError
from modelswitch.reports import Environment

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


class Best(Net):
    """Answers integers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


class Random(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand(1)


def save(folder: Path, model: Any, example: Any, **options: Any) -> Path:
    from mlflow.models import infer_signature

    answer = model(torch.from_numpy(np.asarray(example, np.float32))).detach().numpy()
    options.setdefault("signature", infer_signature(example, answer))
    mlflow.pytorch.save_model(
        model,
        str(folder),
        input_example=example,
        pip_requirements=["torch", "torchvision==0.29.1"],
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import pandas as pd

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("saved")
    image = np.random.default_rng(0).random((2, 1, 2, 2), dtype=np.float32)
    rows = image.reshape(2, 4)
    frame = pd.DataFrame(rows.astype(np.float64), columns=list("abcd"))
    scripted = torch.jit.script(Net())
    return {
        "pt2": save(root / "pt2", Net(), image),
        "best": save(root / "best", Best(), image),
        "matrix": save(root / "matrix", Net(), rows),
        "script": save(root / "script", scripted, image, serialization_format="pickle"),
        "frame": save(root / "frame", scripted, frame, serialization_format="pickle"),
        "random": save(root / "random", Random(), image),
        "pickle": save(root / "pickle", Net(), image, serialization_format="pickle"),
        "float": save(root / "float", Net(), image),
    }


def source(folder: Path, version: str = "3") -> VersionSource:
    return VersionSource("digits", version, "r1", "models:/m-1", folder)


@pytest.fixture
def copied(saved: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the exported program's folder, to take things out of."""
    return Path(shutil.copytree(saved["pt2"], tmp_path / "copied"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    import yaml

    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    change(mlmodel)
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))


@pytest.mark.parametrize(
    ("name", "entry", "kind"),
    [
        ("pt2", "model.pt2", "close"),
        ("best", "model.pt2", "exact"),
        ("script", "model.pt", "close"),
        ("frame", "model.pt", "close"),
        ("random", "model.pt2", "schema"),
    ],
)
def test_version_becomes_an_archive(
    saved: dict[str, Path], tmp_path: Path, name: str, entry: str, kind: str
) -> None:
    built = build(source(saved[name]), Recipe(), tmp_path)

    document = verify(built.path, built.digest)
    assert document == built.document
    assert sorted(document.entries) == sorted([entry, *handlers.files("torch")])
    assert document.golden is not None
    assert document.golden.kind == kind
    major, minor, *_ = torch.__version__.split(".")
    assert document.requirements == (f"torch=={major}.{minor}.*", "torchvision==0.29.1")
    assert not document.runs_code
    assert built.label == "3-" + built.digest[7:15]
    assert built.size_bytes == built.path.stat().st_size


def test_building_twice_gives_one_archive_and_another_recipe_another(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    first = build(source(saved["pt2"]), Recipe(), tmp_path / "a")
    second = build(source(saved["pt2"]), Recipe(), tmp_path / "b")
    other = build(source(saved["pt2"]), Recipe(batch_size=8), tmp_path / "b")

    assert first.path.read_bytes() == second.path.read_bytes()
    assert other.digest != first.digest


def ask_mlflow(folder: Path, body: dict[str, Any]) -> Any:
    from mlflow import pyfunc
    from mlflow.pyfunc.scoring_server import infer_and_parse_data, predictions_to_json

    model = pyfunc.load_model(str(folder))
    out = io.StringIO()
    parsed = infer_and_parse_data(body, model.metadata.get_input_schema())
    predictions_to_json(model.predict(parsed), out)
    return json.loads(out.getvalue())


IMAGES = [[[[0.1, 0.2], [0.3, 0.4]]], [[[1.0, 2.0], [3.0, 4.0]]], [[[5, 6], [7, 8]]]]
ROWS = [[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]]
RECORDS = [dict(zip("abcd", row, strict=True)) for row in ROWS]
SPLIT = {"columns": list("abcd"), "data": ROWS}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("pt2", {"inputs": IMAGES}),
        ("pt2", {"instances": IMAGES}),
        ("pt2", {"dataframe_records": [{"x": [1.0, 2.0, 3.0, 4.0]}, {"x": [5.0, 6.0, 7.0, 8.0]}]}),
        ("best", {"inputs": IMAGES}),
        ("script", {"inputs": IMAGES}),
        ("matrix", {"inputs": ROWS}),
        ("frame", {"dataframe_split": SPLIT}),
        ("frame", {"dataframe_records": RECORDS}),
        ("frame", {"inputs": {name: [row[name] for row in RECORDS] for name in "abcd"}}),
        ("frame", {"instances": RECORDS}),
    ],
)
def test_handler_answers_what_mlflow_answers(
    saved: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    body: dict[str, Any],
) -> None:
    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))
    built = build(source(saved[name]), Recipe(), tmp_path)
    with zipfile.ZipFile(built.path) as file:
        file.extractall(tmp_path / "model")
    model = importlib.import_module("modelswitch_torch").TorchModel()
    model.load(tmp_path / "model", json.loads((tmp_path / "model/modelswitch.json").read_bytes()))

    protocol = importlib.import_module("modelswitch_protocol")
    question = model.decode(protocol.Request(body))
    [output] = model.predict([question])

    answer = {"predictions": model.encode(question, output)}
    expected = ask_mlflow(saved[name], body)
    assert compare(Golden(kind="close", request=body, expected=expected), answer) is None


def test_large_example_is_cut_to_its_first_row(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "GOLDEN_BYTES", 120)

    golden = build(source(saved["pt2"]), Recipe(), tmp_path).document.golden

    assert golden is not None
    assert len(golden.request["inputs"]) == len(golden.expected["predictions"]) == 1


def test_example_of_which_one_row_is_too_large_is_refused(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "GOLDEN_BYTES", 20)

    with pytest.raises(ArchiveError, match="one row of its input example") as caught:
        build(source(saved["pt2"]), Recipe(), tmp_path)
    assert "--no-golden" in str(caught.value.next)


def test_recipe_may_ask_for_topk(saved: dict[str, Path], tmp_path: Path) -> None:
    golden = build(source(saved["pt2"]), Recipe(topk=2), tmp_path).document.golden

    assert golden is not None
    assert (golden.kind, golden.k) == ("topk", 2)


def refused(
    source: VersionSource, tmp_path: Path, recipe: Recipe | None = None, **options: Any
) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        build(source, recipe or Recipe(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert caught.value.next
    return caught.value


def test_version_without_artifact_is_refused(tmp_path: Path, copied: Path) -> None:
    assert "digits@3 has no artifact" in str(refused(source(tmp_path / "nothing"), tmp_path))

    (copied / "data/model.pt2").unlink()
    assert "digits@3 has no artifact" in str(refused(source(copied), tmp_path))


def test_version_without_signature_is_refused(copied: Path, tmp_path: Path) -> None:
    edit(copied, lambda mlmodel: mlmodel.pop("signature"))

    error = refused(source(copied), tmp_path, golden=False)

    assert "digits@3 has no signature" in str(error)
    assert "infer_signature" in str(error.next)


def test_version_without_input_example_is_refused_unless_it_may_go_unproven(
    copied: Path, tmp_path: Path
) -> None:
    edit(copied, lambda mlmodel: mlmodel.pop("saved_input_example_info"))
    (copied / "serving_input_example.json").unlink()

    error = refused(source(copied), tmp_path)
    built = build(source(copied), Recipe(), tmp_path / "out", golden=False)

    assert "has no input example" in str(error)
    assert "--no-golden" in str(error.next)
    assert built.document.golden is None


def test_handler_that_the_version_is_not_of_is_refused(copied: Path, tmp_path: Path) -> None:
    for handler in ("sklearn", "onnx"):
        error = refused(source(copied), tmp_path, recipe=Recipe(handler=handler))
        assert "which its recipe's handler asks for" in str(error)
        assert "auto" in str(error.next)


def test_pickled_module_is_refused_without_being_loaded(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    error = refused(source(saved["pickle"]), tmp_path)

    assert "is a pickled module" in str(error)
    assert ".pt2" in str(error.next)
    assert "TorchScript" in str(error.next)


def test_weights_that_are_no_zip_are_taken_for_a_pickle(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved["pickle"], tmp_path / "copy"))
    (folder / "data/model.pth").write_bytes(b"\x80\x02.")

    assert "is a pickled module" in str(refused(source(folder), tmp_path))


def test_params_are_refused_by_handlers_that_hand_none_on(copied: Path, tmp_path: Path) -> None:
    params = json.dumps([{"name": "t", "type": "float", "default": 1.0, "shape": None}])
    edit(copied, lambda mlmodel: mlmodel["signature"].update(params=params))

    error = refused(source(copied), tmp_path, recipe=Recipe(handler="torch"))

    assert "its signature has params" in str(error)
    assert "pyfunc" in str(error.next)


@pytest.mark.parametrize("text", ["", "- a list", "flavors: 3", "{", "\udcff"])
def test_mlmodel_that_is_none_is_said(copied: Path, tmp_path: Path, text: str) -> None:
    (copied / "MLmodel").write_bytes(text.encode("utf-8", "surrogateescape"))

    assert "MLmodel" in str(refused(source(copied), tmp_path))


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ("nonsense", "its signature cannot be read"),
        ("[3]", "its signature cannot be read"),
        ("{}", "its signature cannot be read"),
        ('[{"name": "a"}]', "its signature cannot be read"),
        ('[{"type": "string", "name": "a"}]', "inputs that are no numbers"),
        ('[{"type": "tensor", "tensor-spec": {"dtype": "str", "shape": [-1]}}]', "no numbers"),
    ],
)
def test_signature_that_cannot_be_served_is_refused(
    copied: Path, tmp_path: Path, inputs: str, what: str
) -> None:
    edit(copied, lambda mlmodel: mlmodel["signature"].update(inputs=inputs))

    assert what in str(refused(source(copied), tmp_path))


def test_path_that_leads_out_of_the_version_is_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    info = {"serving_input_path": "../secret.json"}
    edit(copied, lambda mlmodel: mlmodel["saved_input_example_info"].update(info))

    assert "lies outside" in str(refused(source(copied), tmp_path))


def test_example_that_mlflow_cannot_answer_is_refused_with_its_reason(
    copied: Path, tmp_path: Path
) -> None:
    (copied / "serving_input_example.json").write_text('{"inputs": [[1]]}')

    error = refused(source(copied), tmp_path)

    assert "MLflow's own predict cannot answer its input example" in str(error)
    assert "expected shape" in str(error)


def test_model_that_mlflow_cannot_load_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "data/model.pt2").write_bytes(b"torn")

    assert "MLflow cannot load it" in str(refused(source(copied), tmp_path))


def test_name_that_torchserve_cannot_carry_is_refused(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be served"):
        build(replace(source(saved["pt2"]), model="my digits"), Recipe(), tmp_path)


def test_worker_that_lacks_something_is_named_with_what_mends_it(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    fine = Environment(packages={"torch": torch.__version__, "torchvision": "0.29.1"})
    worker = Environment(python="3.11.7", packages={"torch": "2.9.0", "torchvision": "0.29.1"})

    error = refused(source(saved["pt2"]), tmp_path, environments=[fine, worker])

    assert "a worker with Python 3.11.7: it has torch 2.9.0" in str(error)
    assert "pip install" in str(error)


def test_check_finds_nothing_when_the_same_is_built_again(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    built = build(source(saved["pt2"]), Recipe(batch_size=4), tmp_path)

    assert check(built.path, source(saved["pt2"])) == []


def test_check_names_what_differs(
    saved: dict[str, Path], tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(source(saved["pt2"]), Recipe(), tmp_path)

    weights = check(built.path, source(saved["float"]))
    identity = check(built.path, source(saved["pt2"], "4"))
    monkeypatch.setattr(handlers, "release", lambda *_: "0" * 12)
    release = check(built.path, source(saved["pt2"]))

    assert "MLflow answers the golden request otherwise: got" in weights[0]
    assert weights[1].startswith("entries.model.pt2: the archive has")
    assert identity == ["identity.version: the archive has 3, built again it is 4"]
    assert "of release 000000000000 here" in release[0]


def test_check_refuses_an_archive_that_is_not_whole(saved: dict[str, Path], tmp_path: Path) -> None:
    built = build(source(saved["pt2"]), Recipe(), tmp_path)
    built.path.write_bytes(built.path.read_bytes() + b"\0")

    with pytest.raises(ArchiveError):
        check(built.path, source(saved["pt2"]))
