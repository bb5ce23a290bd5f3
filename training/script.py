"""What the training scripts here have in common: options, and what is said at the end.

What a training script is read for (data, model, metrics, `log_model`) stands in each of them.
MLflow is found by MLFLOW_TRACKING_URI, else on 127.0.0.1:5000.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException


def options(description: str, name: str, *, registers: bool = True) -> argparse.ArgumentParser:
    """Those that every script has; a script adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    parser.add_argument("--name", default=name, help="of the experiment and the model")
    if registers:
        parser.add_argument("--no-register", dest="register", action="store_false")
    parser.add_argument("--sample", type=Path, metavar="PATH", help="write something to predict")
    return parser


def at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {text!r}")
    return int(text)


def requirements(*packages: str) -> list[str]:
    """`mlflow==3.17.2` and so on, as installed: inferring them takes MLflow a good ten seconds."""
    # without a local part such as +cpu, which no index knows
    return [f"{name}=={version(name).partition('+')[0]}" for name in packages]


def confusion(true: Sequence[Any], read: Sequence[Any], labels: Sequence[Any]) -> Any:
    """A picture of what was taken for what: rows are true, columns are read."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(true, read, labels=labels)
    places = range(len(labels))
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="read as", ylabel="true", xticks=places, yticks=places)
    axes.set(xticklabels=labels, yticklabels=labels)
    for row, column in np.argwhere(counts > 0):
        ink = "white" if counts[row, column] > counts.max() / 2 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=ink)
    return figure


def say_next(chosen: argparse.Namespace, run_id: str, logged: Any, *, flags: str = "") -> None:
    """The run, the version if there is one, and the command that goes on from there."""
    print(f"run: {run_id}")
    if logged.registered_model_version:
        reference = f"{chosen.name}@{logged.registered_model_version}"
        print(f"version: {reference}")
        print(f'next: modelswitch promote {reference} --to staging --reason "…"')
    else:
        print(f"next: modelswitch register runs:/{run_id}/model --name {chosen.name}{flags}")


def main(run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> int:
    """Run it; the exit code."""
    os.environ.setdefault("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    # An MLflow that is away is told in seconds, and a tiny model needs no progress bar.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        run(parser.parse_args())
    except MlflowException as error:
        print(f"MLflow at {mlflow.get_tracking_uri()}: {error}", file=sys.stderr)
        print("next: modelswitch up, or set MLFLOW_TRACKING_URI to where it runs", file=sys.stderr)
        return 1
    return 0
