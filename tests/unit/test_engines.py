"""What an engine makes of a model answers as the model did, or is not archived."""

from __future__ import annotations

import base64
import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes, load_digits

from modelswitch import handlers
from modelswitch.archive import contest as contests
from modelswitch.archive import tolerances
from modelswitch.archive.build import VersionSource, build, check
from modelswitch.archive.contest import contest, fastest
from modelswitch.archive.engines import compiled, sample
from modelswitch.archive.engines.failures import operator_in
from modelswitch.archive.engines.sample import read_sample
from modelswitch.archive.golden import compare
from modelswitch.archive.pictures import png
from modelswitch.archive.proof import extracted, run_trial
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")
MEAN, STD = [0.5], [0.25]
IMAGE = {"size": 8, "crop": 8, "mean": MEAN, "std": STD, "top": 3}


def trained(images: Any, digits: Any) -> torch.nn.Module:
    """A small convolutional network on scikit-learn's digits; answers logits."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 16, 10),
    )
    x, y = torch.from_numpy(images), torch.from_numpy(digits)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


class Unconvertible(torch.nn.Module):
    """Sorts by an operator that no ONNX function stands for."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (
            self.net(x)
            + torch.special.zeta(torch.tensor(3.0), x.mean((1, 2, 3)).abs() + 1)[:, None]
        )


def save(folder: Path, net: torch.nn.Module, example: Any, **options: Any) -> Path:
    answer = net(torch.from_numpy(np.asarray(example, np.float32))).detach().numpy()
    options.setdefault("signature", infer_signature(example, answer))
    mlflow.pytorch.save_model(
        net,
        str(folder),
        input_example=example,
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Digits as an image model takes them: normalised grey, (n, 1, 8, 8); and which they are."""
    found = load_digits()
    pixels = (found.images * 255 / 16).astype(np.uint8)[:, None]
    return ((pixels / 255 - MEAN[0]) / STD[0]).astype(np.float32), found.target.astype(np.int64)


@pytest.fixture(scope="module")
def saved(data: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import pandas as pd

    root = tmp_path_factory.mktemp("saved")
    images, digits = data
    net = trained(images[:1200], digits[:1200])
    rows = load_diabetes().data[:5].astype(np.float32)
    frame = pd.DataFrame(rows.astype(np.float64), columns=[f"c{i}" for i in range(10)])
    torch.manual_seed(0)
    table = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    scripted = torch.jit.script(net)
    return {
        "digits": save(root / "digits", net, images[:3]),
        "table": save(root / "table", table.eval(), rows),
        "odd": save(root / "odd", Unconvertible(net), images[:3]),
        "script": save(root / "script", scripted, images[:3], serialization_format="pickle"),
        "frame": save(root / "frame", scripted_table(table), frame, serialization_format="pickle"),
    }


def scripted_table(table: torch.nn.Module) -> torch.nn.Module:
    return torch.jit.script(table.eval())


@pytest.fixture(scope="module")
def held_out(data: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, digits = data
    path = tmp_path_factory.mktemp("data") / "held.npz"
    np.savez(path, x=images[1200:], y=digits[1200:])
    return path


def source(folder: Path) -> VersionSource:
    return VersionSource("digits", "3", "r1", "models:/m-1", folder)


def answered(built: Any, *bodies: Any) -> list[Any]:
    with extracted(built.path) as folder:
        said = run_trial("digits@3", folder, {"ask": list(bodies)}, built.document)
    assert said["errors"] == [None] * len(bodies)
    return [body["predictions"] for body in said["answers"]]


def test_a_graph_answers_every_number_of_rows_as_the_model(
    saved: dict[str, Path], data: tuple[Any, Any], tmp_path: Path
) -> None:
    images, _ = data
    bodies = [{"inputs": images[:n].tolist()} for n in (1, 2, 9)]

    plain = build(source(saved["digits"]), Recipe(), tmp_path)
    graph = build(source(saved["digits"]), Recipe(engine="onnx"), tmp_path)

    assert "model.onnx" in graph.document.entries
    assert "model.pt2" not in graph.document.entries
    assert [r.partition("==")[0] for r in graph.document.requirements] == ["onnxruntime"]
    for wanted, got in zip(answered(plain, *bodies), answered(graph, *bodies), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_a_table_is_answered_in_rows(saved: dict[str, Path], tmp_path: Path) -> None:
    import pandas as pd

    folder = tmp_path / "columns"
    rows = load_diabetes().data[:3].astype(np.float32)
    torch.manual_seed(0)
    net = torch.nn.Linear(10, 2).eval()
    answer = net(torch.from_numpy(rows)).detach().numpy()
    frame = pd.DataFrame(rows, columns=[f"c{i}" for i in range(10)])
    save(
        folder, net, frame, signature=infer_signature(frame, answer), serialization_format="pickle"
    )
    body = {"dataframe_split": {"columns": list(frame.columns), "data": rows.tolist()}}

    built = build(source(folder), Recipe(engine="onnx", allow_pickle=True), tmp_path / "out")

    assert not built.document.runs_code  # the graph has nothing of the pickle
    [found] = answered(built, body)
    wanted = [{str(i): v for i, v in enumerate(row)} for row in answer.tolist()]
    assert found == [pytest.approx(row, rel=1e-3, abs=1e-4) for row in wanted]


def test_pictures_go_in_and_labels_come_out_of_both_engines(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    image = IMAGE | {"labels": [f"a {i}" for i in range(10)]}
    recipes = [
        Recipe.model_validate({"engine": engine, "input": "image", "image": image, "batch_size": 4})
        for engine in ("eager", "onnx")
    ]
    plain, graph = (build(source(saved["digits"]), recipe, tmp_path) for recipe in recipes)

    assert plain.document.golden is not None
    assert graph.document.golden is not None
    assert plain.document.golden.request == graph.document.golden.request
    assert (plain.document.golden.rtol, graph.document.golden.rtol) == (1e-4, 1e-3)
    [wanted], [found] = (answered(b, plain.document.golden.request) for b in (plain, graph))
    assert [row["label"] for row in found[0]] == [row["label"] for row in wanted[0]]
    assert found[0][0]["label"] == "a 0"  # which the first digit is
    assert found[0][0]["score"] == pytest.approx(wanted[0][0]["score"], rel=1e-3)
    assert "pillow" in graph.document.requirements


def test_a_graph_has_the_same_bytes_whoever_builds_it(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    built = build(source(saved["digits"]), Recipe(engine="onnx"), tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from modelswitch.archive.build import VersionSource, check\n"
        f"s = VersionSource('digits', '3', 'r1', 'models:/m-1', Path({str(saved['digits'])!r}))\n"
        f"print(check(Path({str(built.path)!r}), s))"
    )

    env = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path
    )

    assert ran.stdout.strip().splitlines()[-1] == "[]", ran.stderr
    with zipfile.ZipFile(built.path) as file:
        graph = file.read("model.onnx")
    assert str(Path.cwd()).encode() not in graph
    assert b"site-packages" not in graph


def test_int8_is_calibrated_with_data_and_says_so(
    saved: dict[str, Path], held_out: Path, tmp_path: Path
) -> None:
    found = read_sample(held_out)
    recipe = Recipe(engine="int8", calibration=found.digest)

    built = build(source(saved["digits"]), recipe, tmp_path, sample=found)
    plain = build(source(saved["digits"]), Recipe(engine="onnx"), tmp_path)

    assert built.document.recipe.calibration == found.digest
    assert built.size_bytes < plain.size_bytes
    assert check(built.path, source(saved["digits"]), found) == []
    with pytest.raises(ArchiveError, match=found.digest):
        build(source(saved["digits"]), recipe, tmp_path)
    with pytest.raises(ArchiveError, match=found.digest):
        check(built.path, source(saved["digits"]))


def test_int8_answers_pictures_with_probabilities(
    saved: dict[str, Path], data: tuple[Any, Any], tmp_path: Path
) -> None:
    recipes = [
        Recipe.model_validate({"engine": engine, "input": "image", "image": IMAGE})
        for engine in ("int8", "onnx")
    ]

    small, graph = (build(source(saved["digits"]), recipe, tmp_path) for recipe in recipes)

    golden = small.document.golden
    assert golden is not None
    assert (golden.kind, golden.k) == ("topk", 1)
    [wanted], [found] = (answered(b, golden.request) for b in (graph, small))
    assert found[0][0]["label"] == wanted[0][0]["label"]
    assert found[0][0]["score"] == pytest.approx(wanted[0][0]["score"], abs=0.1)


def test_weights_that_are_too_large_for_a_message_stand_beside_the_graph(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelswitch.archive.engines.onnx._INLINE_BYTES", 0)

    built = build(source(saved["digits"]), Recipe(engine="onnx"), tmp_path)

    assert built.document.entries["model.onnx.data"].size == 4 * 8 * 16 * 10
    assert check(built.path, source(saved["digits"])) == []


def test_engines_run_on_the_cpu(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="runs on the CPU"):
        build(source(saved["digits"]), Recipe(engine="onnx", device="gpu"), tmp_path)


def test_int8_takes_onnx_models_too(saved: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    with zipfile.ZipFile(build(source(saved["digits"]), Recipe(engine="onnx"), tmp_path).path) as f:
        graph = onnx.load_from_string(f.read("model.onnx"))
    example = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    folder = tmp_path / "logged"
    mlflow.onnx.save_model(
        graph,
        str(folder),
        input_example=example,
        signature=infer_signature(example),
        pip_requirements=["onnxruntime"],
    )

    built = build(source(folder), Recipe(engine="int8"), tmp_path / "out")

    assert built.document.recipe.handler == "onnx"
    with extracted(built.path) as extracted_folder:
        kinds = {n.op_type for n in onnx.load(extracted_folder / "model.onnx").graph.node}
    assert "QuantizeLinear" in kinds
    with pytest.raises(ArchiveError, match="takes torch models"):
        build(source(folder), Recipe(engine="compile"), tmp_path / "out")


def test_what_cannot_be_converted_is_said_by_its_operator(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match="zeta") as refused:
        build(source(saved["odd"]), Recipe(engine="onnx"), tmp_path)

    assert "stays as it is" in (refused.value.next or "")
    assert not list(tmp_path.glob("*.mar"))


@pytest.mark.parametrize("name", ["script", "frame"])
def test_torchscript_is_run_as_it_is(saved: dict[str, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="TorchScript"):
        build(source(saved[name]), Recipe(engine="onnx"), tmp_path)


def test_a_wrong_engine_is_never_archived(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = tolerances.Tolerance(0.0, 0.0)
    monkeypatch.setattr("modelswitch.archive.reference.tolerance_of", lambda *_: exact)

    with pytest.raises(ArchiveError, match="engine int8 answers its golden request otherwise"):
        build(source(saved["digits"]), Recipe(engine="int8"), tmp_path)

    assert not list(tmp_path.glob("*.mar"))


def test_an_engine_is_not_archived_unproved(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="golden request"):
        build(source(saved["digits"]), Recipe(engine="onnx"), tmp_path, golden=False)


@pytest.mark.parametrize("engine", ["compile", "bf16"])
def test_compiled_code_answers_and_is_refused_by_another_processor(
    saved: dict[str, Path], tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "a cache of others"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    built = build(source(saved["table"]), Recipe(engine=engine), tmp_path / "out")

    [found] = answered(built, {"inputs": [[0.01] * 10] * 7})
    assert len(found) == 7
    assert built.document.golden is not None
    assert built.document.golden.kind == "close"
    assert not cache.exists()
    assert check(built.path, source(saved["table"])) == []

    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))
    with extracted(built.path) as folder:
        facts = json.loads((folder / "engine.json").read_bytes())
        facts["cpu"]["flags"].append("avx4096")
        (folder / "engine.json").write_text(json.dumps(facts))
        worker = importlib.import_module("modelswitch_compiled")
        document = json.loads((folder / "modelswitch.json").read_bytes())
        with pytest.raises(RuntimeError, match="avx4096"):
            worker.CompiledModel().load(folder, document)


def test_a_contest_shows_what_each_engine_is_worth(
    saved: dict[str, Path], held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contests, "_SECONDS", 0.05)

    found = list(
        contest(
            source(saved["digits"]),
            Recipe(),
            engines=["onnx", "int8"],
            sample=read_sample(held_out),
        )
    )

    assert [one.engine for one in found] == ["eager", "onnx", "int8"]
    for one in found:
        assert one.why is None
        assert one.latency_ms is not None
        assert one.a_second is not None
        assert set(one.a_second) == {1, 8}
        assert (one.memory_bytes or 0) > 1 << 20
        assert (one.accuracy or 0) > 0.85
    eager, graph, small = found
    assert eager.deviation == 0
    assert (graph.deviation or 1) < 1e-3 < (small.deviation or 0)
    assert (small.size_bytes or 0) < (eager.size_bytes or 0)
    assert fastest(found) in found


def test_a_contest_tells_why_an_engine_cannot(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contests, "_SECONDS", 0.05)

    eager, graph = contest(source(saved["odd"]), Recipe(), engines=["onnx"])

    assert eager.why is None
    assert "zeta" in (graph.why or "")
    assert graph.latency_ms is None
    assert fastest([eager, graph]) == eager


def test_an_engine_that_fails_however_is_a_row_of_the_contest(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelswitch.cli.engines import _facts, _row

    def breaks(origin: Any, recipe: Recipe, *args: Any, **options: Any) -> Any:
        if recipe.engine == "onnx":
            raise KeyError("a converter's own trouble")
        return build(origin, recipe, *args, **options)

    monkeypatch.setattr(contests, "_SECONDS", 0.05)
    monkeypatch.setattr(contests, "build", breaks)

    found = list(contest(source(saved["table"]), Recipe(), engines=["onnx", "int8"]))

    eager, graph, small = found
    assert (eager.why, small.why) == (None, None)
    assert small.a_second is not None
    assert (graph.why or "").startswith("failed: KeyError: ")
    assert "a converter's own trouble" in (graph.why or "")
    assert fastest(found) in (eager, small)
    assert _row(graph, eager)[0] == "onnx"
    assert _row(graph, eager)[-1] == "no"
    assert _facts(graph)["may_serve"] is False


def test_a_contest_without_eager_says_what_failed(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise KeyError("gone")

    monkeypatch.setattr(contests, "build", breaks)

    with pytest.raises(ArchiveError, match="eager itself cannot serve it: failed: KeyError"):
        list(contest(source(saved["table"]), Recipe(), engines=["onnx"]))


@pytest.mark.parametrize("engine", ["onnx", "int8"])
def test_large_answers_are_proved_by_a_share_of_them(
    tmp_path: Path, engine: Any, large: Path
) -> None:
    built = build(source(large), Recipe(engine=engine), tmp_path)

    golden = built.document.golden
    assert golden is not None
    assert golden.kind == "close"
    assert golden.atol > 20
    [wanted] = golden.expected["predictions"][0]
    assert wanted > 200_000
    off = json.loads(json.dumps(golden.expected))
    off["predictions"][0] = [wanted * 1.5]
    assert compare(golden, off)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prices near 298,000."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 1)
    with torch.no_grad():
        net.weight.mul_(1000)
        net.bias.fill_(298_000.0)
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    return save(tmp_path_factory.mktemp("saved") / "large", net.eval(), rows)


@pytest.mark.parametrize("engine", ["eager", "onnx"])
def test_pictures_are_cut_to_what_the_model_takes_or_refused_by_it(
    saved: dict[str, Path], tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(
        {"engine": engine, "input": "image", "image": {"mean": MEAN, "std": STD}}
    )
    body = {"inputs": [{"b64": base64.b64encode(png(np.zeros((1, 150, 200), np.uint8))).decode()}]}

    built = build(source(saved["digits"]), recipe, tmp_path)

    image = built.document.recipe.image
    assert image is not None
    assert (image.size, image.crop) == (8, 8)
    assert len(answered(built, body)[0][0]) == 5

    # As one was built that says nothing of its size.
    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))
    protocol = importlib.import_module("modelswitch_protocol")
    with extracted(built.path) as folder:
        document = json.loads((folder / "modelswitch.json").read_bytes())
        document["recipe"]["image"] |= {"size": None, "crop": None}
        name = "modelswitch_torch" if engine == "eager" else "modelswitch_onnx"
        model = vars(importlib.import_module(name))[
            "TorchModel" if engine == "eager" else "OnnxModel"
        ]()
        model.load(folder, document)
        with pytest.raises(protocol.Invalid) as refused:
            model.decode(protocol.Request(body))
    assert refused.value.status == 422
    assert "150 × 200 pixels (height × width)" in refused.value.message
    assert "the model takes 8 × 8" in refused.value.message


def test_pictures_in_folders_are_a_sample(data: tuple[Any, Any], tmp_path: Path) -> None:
    from PIL import Image

    for label in ("zero", "one"):
        (tmp_path / label).mkdir()
        for place in range(2):
            Image.new("L", (12, 10), 40 * place).save(tmp_path / label / f"{place}.png")
    recipe = Recipe.model_validate({"input": "image", "image": IMAGE})

    found = read_sample(tmp_path)
    pixels = found.inputs(recipe, None)  # type: ignore[arg-type]

    assert found.y == ("one", "one", "zero", "zero")
    assert (pixels.shape, pixels.dtype) == ((4, 1, 8, 8), np.uint8)
    with pytest.raises(UsageError, match="models that take images"):
        found.inputs(Recipe(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "why"),
    [({"z": np.zeros(3)}, "no x"), ({"x": np.zeros((2, 1)), "y": np.zeros(3)}, "one class")],
)
def test_data_that_is_none_is_refused(content: dict[str, Any], why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **content)

    with pytest.raises(UsageError, match=why):
        read_sample(tmp_path / "data.npz")


@pytest.mark.parametrize("name", ["gone.npz", "empty", "text.npz"])
def test_files_that_are_no_data_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("hello")

    with pytest.raises(UsageError):
        read_sample(tmp_path / name)


def test_tolerances_follow_the_size_of_the_answer() -> None:
    small, large = {"predictions": [[0.5]]}, {"predictions": [[-500.0]]}

    def atol(engine: Any, answer: Any) -> float:
        return tolerances.tolerance_of(Recipe(handler="torch", engine=engine), answer).atol

    assert atol("eager", small) == atol("eager", large)
    assert atol("onnx", large) == pytest.approx(0.05)
    assert atol("int8", small) == pytest.approx(0.05)
    assert atol("bf16", small) < atol("int8", small)


def test_an_operators_name_is_found_behind_other_errors() -> None:
    inner = RuntimeError("No ONNX function found for <OpOverload(op='aten.fancy', overload='x')>")
    outer = ValueError("it failed")
    outer.__cause__ = inner

    assert operator_in(outer) == "aten.fancy"
    assert operator_in(ValueError("nothing of the kind")) is None
    assert compiled.__doc__ is not None
    assert sample.__doc__ is not None
