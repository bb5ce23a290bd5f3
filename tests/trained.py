"""Small models of every flavor, really trained on data that ships in packages, saved by MLflow.

Each function takes a folder to save into and gives a `Trained`. Requirements are named, since
finding them out takes MLflow seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        )

    def forward(self, x):
        return self.layers(x)
"""
SERVE_NET = """
import mlflow
import torch
from net import Net


class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.net = Net().eval()
        self.net.load_state_dict(torch.load(context.artifacts["state_dict"], weights_only=True))

    def predict(self, context, model_input):
        with torch.no_grad():
            return self.net(torch.from_numpy(model_input)).numpy()


mlflow.models.set_model(Served())
"""
RULES = """
import pandas as pd


def score(frame, factor, names):
    found = frame["amount"] * factor + frame["when"].dt.year + frame["city"].str.len().fillna(0)
    if "extra" in frame:
        found = found + frame["extra"].fillna(1000)
    if (frame["amount"] == 666).any():
        raise RuntimeError("six hundred and sixty-six")
    return pd.DataFrame({"score": found, "city": frame["city"], "name": names[0]})
"""
PYTHON = """
import mlflow


class Scored(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        from rules import score

        return score(model_input, params["factor"], params["names"])


mlflow.models.set_model(Scored())
"""


@dataclass(frozen=True)
class Trained:
    """`rows` are what it is asked: an array, or a frame with its columns. `handler`: expected."""

    folder: Path
    rows: Any
    handler: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] | None = None

    @property
    def bodies(self) -> dict[str, dict[str, Any]]:
        """The same question in each form that MLflow takes for it."""
        if isinstance(self.rows, np.ndarray):
            rows = self.rows.tolist()
            found: dict[str, dict[str, Any]] = {
                "inputs": {"inputs": rows},
                "instances": {"instances": rows},
                "dataframe_split": {"dataframe_split": {"data": rows}},
                "dataframe_records": {
                    "dataframe_records": [{str(i): x for i, x in enumerate(r)} for r in rows]
                },
            }
        else:
            split = self.rows.to_dict(orient="split", index=False)
            split["data"] = [[_jsonable(cell) for cell in row] for row in split["data"]]
            records = [dict(zip(split["columns"], row, strict=True)) for row in split["data"]]
            columns = {name: [row[name] for row in records] for name in split["columns"]}
            found = {
                "inputs": {"inputs": columns},
                "instances": {"instances": records},
                "dataframe_split": {"dataframe_split": split},
                "dataframe_records": {"dataframe_records": records},
            }
        more = {"params": dict(self.params)} if self.params else {}
        return {form: body | more for form, body in found.items()}


def _jsonable(cell: Any) -> Any:
    if isinstance(cell, pd.Timestamp):
        return cell.isoformat()
    return None if isinstance(cell, float) and np.isnan(cell) else cell


def _save(flavor: Any, model: Any, folder: Path, x: Any, y: Any, **options: Any) -> Path:
    from mlflow.models import infer_signature

    libraries = options.pop("libraries", ("scikit-learn",))
    options.setdefault("signature", infer_signature(x, y))
    flavor.save_model(
        model,
        str(folder),
        input_example=x[:3],
        pip_requirements=[f"{name}=={version(name)}" for name in libraries],
        **options,
    )
    return folder


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x[:600] / 16).astype(np.float32), y[:600]


def _tumours() -> tuple[Any, Any]:
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True, as_frame=True)


def _diabetes() -> tuple[Any, Any]:
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True, as_frame=True)


def _net(folder: Path) -> Any:
    """A trained Net, whose class is in `net.py` beside `folder`."""
    import torch

    code = folder.parent / f"{folder.name}_code"
    code.mkdir()
    (code / "net.py").write_text(NET)
    (code / "served.py").write_text(SERVE_NET)
    sys.modules.pop("net", None)
    with _beside(code):
        import net  # type: ignore[import-not-found]
    torch.manual_seed(0)
    module = net.Net()
    x, y = (torch.from_numpy(part) for part in _digits())
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()


@contextmanager
def _beside(code: Path) -> Iterator[None]:
    """As in the folder of a project: its modules can be imported, here for a moment."""
    sys.modules.pop("net", None)
    sys.path.insert(0, str(code))
    try:
        yield
    finally:
        sys.path.remove(str(code))


def _answers(module: Any, x: Any) -> Any:
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


def torch_exported(folder: Path) -> Trained:
    import mlflow.pytorch

    module, (x, _) = _net(folder), _digits()
    _save(mlflow.pytorch, module, folder, x, _answers(module, x), libraries=["torch"])
    return Trained(folder, x[:4], "torch")


def torch_script(folder: Path) -> Trained:
    import mlflow.pytorch
    import torch

    module, (x, _) = _net(folder), _digits()
    scripted = torch.jit.script(module)
    answers = _answers(module, x)
    options = {"libraries": ["torch"], "serialization_format": "pickle"}
    _save(mlflow.pytorch, scripted, folder, x, answers, **options)
    return Trained(folder, x[:4], "torch")


def torch_pickled(folder: Path) -> Trained:
    import mlflow.pytorch

    module, (x, _) = _net(folder), _digits()
    options = {"libraries": ["torch"], "serialization_format": "pickle"}
    options["code_paths"] = [str(folder.parent / f"{folder.name}_code" / "net.py")]
    _save(mlflow.pytorch, module, folder, x, _answers(module, x), **options)
    sys.modules.pop("net", None)
    return Trained(folder, x[:4], "torch", {"allow_pickle": True})


def torch_state_dict(folder: Path) -> Trained:
    import mlflow.pyfunc
    import torch
    from mlflow.models import infer_signature

    module, (x, _) = _net(folder), _digits()
    code, weights = folder.parent / f"{folder.name}_code", folder.parent / "net.pth"
    torch.save(module.state_dict(), weights)
    with _beside(code):
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(code / "served.py"),
            artifacts={"state_dict": str(weights)},
            code_paths=[str(code / "net.py")],
            signature=infer_signature(x, _answers(module, x)),
            input_example=x[:3],
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )
    return Trained(folder, x[:4], "torch", {"module": "net:Net"})


def onnx(folder: Path) -> Trained:
    import mlflow.onnx
    import onnx as library
    import torch

    module, (x, _) = _net(folder), _digits()
    path = folder.parent / f"{folder.name}.onnx"
    rows = {0: torch.export.Dim("rows")}
    torch.onnx.export(
        module, (torch.from_numpy(x[:2]),), str(path), dynamic_shapes=(rows,), verbose=False
    )
    answers = {"linear_1": _answers(module, x)}
    graph = library.load(str(path))
    _save(mlflow.onnx, graph, folder, x, answers, libraries=["onnx", "onnxruntime"])
    return Trained(folder, x[:4], "onnx")


def sklearn_columns(folder: Path) -> Trained:
    """MLflow's default format, skops."""
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _tumours()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    _save(mlflow.sklearn, model, folder, x, model.predict(x))
    return Trained(folder, x[:4], "sklearn")


def sklearn_probabilities(folder: Path) -> Trained:
    import mlflow.sklearn
    from sklearn.ensemble import RandomForestClassifier

    x, y = _tumours()
    words = np.where(y == 1, "benign", "malignant")
    model = RandomForestClassifier(10, max_depth=4, random_state=0).fit(x, words)
    options = {"serialization_format": "cloudpickle", "pyfunc_predict_fn": "predict_proba"}
    _save(mlflow.sklearn, model, folder, x, model.predict_proba(x), **options)
    return Trained(folder, x[:4], "sklearn")


def sklearn_with_nan(folder: Path) -> Trained:
    import mlflow.sklearn
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, y = _diabetes()
    x = x.copy()
    x.loc[::3, "bmi"] = np.nan
    model = HistGradientBoostingRegressor(max_iter=10, random_state=0).fit(x, y)
    options = {"serialization_format": "pickle"}
    _save(mlflow.sklearn, model, folder, x, model.predict(x), **options)
    return Trained(folder, x[:4], "sklearn")


def sklearn_array(folder: Path) -> Trained:
    import mlflow.sklearn
    from sklearn.neighbors import KNeighborsClassifier

    x, y = _digits()
    model = KNeighborsClassifier(3).fit(x, y)
    _save(mlflow.sklearn, model, folder, x, model.predict(x), serialization_format="cloudpickle")
    return Trained(folder, x[:4], "sklearn")


def sklearn_by_name(folder: Path) -> Trained:
    """Picks its columns by name: an array has none."""
    import mlflow.sklearn
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _diabetes()
    model = make_pipeline(make_column_transformer((StandardScaler(), ["bmi", "bp"])), Ridge())
    model.fit(x, y)
    options = {"serialization_format": "cloudpickle"}
    _save(mlflow.sklearn, model, folder, x, model.predict(x), **options)
    return Trained(folder, x[:4], "pyfunc")


def sklearn_words(folder: Path) -> Trained:
    import mlflow.sklearn
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    x, y = _diabetes()
    x = x[["age", "bmi"]].assign(sex=np.where(x["sex"] > 0, "f", "m"), number=range(len(x)))
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["sex"]), remainder="passthrough"
    )
    model = make_pipeline(encoder, Ridge()).fit(x, y)
    options = {"serialization_format": "cloudpickle"}
    _save(mlflow.sklearn, model, folder, x, model.predict(x), **options)
    return Trained(folder, x[:4], "pyfunc")


def xgboost(folder: Path) -> Trained:
    import mlflow.xgboost
    import xgboost as library

    x, y = _diabetes()
    model = library.XGBRegressor(n_estimators=10, max_depth=3).fit(x, y)
    _save(mlflow.xgboost, model, folder, x, model.predict(x), libraries=["xgboost-cpu"])
    return Trained(folder, x[:4], "pyfunc")


def lightgbm(folder: Path) -> Trained:
    import lightgbm as library
    import mlflow.lightgbm

    x, y = _diabetes()
    model = library.LGBMRegressor(n_estimators=10, verbose=-1).fit(x, y)
    _save(mlflow.lightgbm, model, folder, x, model.predict(x), libraries=["lightgbm"])
    return Trained(folder, x[:4], "pyfunc")


def statsmodels(folder: Path) -> Trained:
    import mlflow.statsmodels
    import statsmodels.api as library

    x, y = _diabetes()
    model = library.OLS(y, x).fit()
    _save(mlflow.statsmodels, model, folder, x, model.predict(x), libraries=["statsmodels"])
    return Trained(folder, x[:4], "pyfunc")


def python(folder: Path) -> Trained:
    """A PythonModel with code of its own; words, times, a column that may be left out, params."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    code = folder.parent / f"{folder.name}_code"
    code.mkdir()
    (code / "rules.py").write_text(RULES)
    (code / "scored.py").write_text(PYTHON)
    rows = pd.DataFrame(
        {
            "amount": [1.5, 2.0, 4.0],
            "when": pd.to_datetime(
                ["2024-05-01T00:00:00", "2025-01-01T12:30:00", "1999-12-31T23:59:59"]
            ),
            "city": ["Bern", "Uri", "Genève"],
            "extra": [1.0, None, 3.0],
        }
    )
    columns = [ColSpec("double", "amount"), ColSpec("datetime", "when"), ColSpec("string", "city")]
    signature = ModelSignature(
        inputs=Schema([*columns, ColSpec("double", "extra", required=False)]),
        params=ParamSchema(
            [ParamSpec("factor", "double", 2.0), ParamSpec("names", "string", ["a"], (-1,))]
        ),
    )
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code / "scored.py"),
        code_paths=[str(code / "rules.py")],
        signature=signature,
        input_example=(rows, {"factor": 3.0, "names": ["b", "c"]}),
        pip_requirements=["pandas"],
    )
    return Trained(folder, rows, "pyfunc", params={"factor": 10.0, "names": ["x"]})


ALL: tuple[Callable[[Path], Trained], ...] = (
    *(torch_exported, torch_script, torch_pickled, torch_state_dict, onnx),
    *(sklearn_columns, sklearn_probabilities, sklearn_with_nan, sklearn_array),
    *(sklearn_by_name, sklearn_words, xgboost, lightgbm, statsmodels, python),
)
