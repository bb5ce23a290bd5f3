"""Train a small network on the diabetes data of scikit-learn and log it to MLflow as ONNX.

It takes ten measurements of a patient as they were taken (float32, (n, 10): age, sex, body mass
index, blood pressure, six blood values; the scaling is in the graph), and answers how far the
disease has come a year later (float32, (n, 1), 25 to 346). Torch trains it and exports it; what
is served is one ONNX graph, which needs no torch. MLflow's own API only:

    python training/diabetes.py --sample sample.json
    modelswitch predict diabetes --input sample.json
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from typing import Any

import mlflow
import numpy as np
import script
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

HELD_OUT = 0.25
# The same patients are held out whatever the seed, so that versions can be compared.
SPLIT_SEED = 0
WEIGHT_DECAY = 3.0  # so strong, because 331 patients are soon learnt by heart


class Progression(nn.Module):
    """One hidden layer between what is measured and what is answered, both in their own units."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__()
        for name, values in (("x", x), ("y", y)):
            self.register_buffer(f"{name}_mean", values.mean(dim=0))
            self.register_buffer(f"{name}_std", values.std(dim=0))
        self.hidden = nn.Linear(x.shape[1], 16)
        self.last = nn.Linear(16, 1)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """In standard deviations from the mean, (n, 1), which the loss is computed from."""
        return self.last(F.silu(self.hidden((x - self.x_mean) / self.x_std)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(x) * self.y_std + self.y_mean


def load_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (n, 10) and y (n, 1) to learn from, and held out: x, held-out x, y, held-out y."""
    source = load_diabetes(scaled=False)
    x, y = source.data.astype(np.float32), source.target.astype(np.float32)[:, None]
    parts = train_test_split(x, y, test_size=HELD_OUT, random_state=SPLIT_SEED)
    return tuple(torch.from_numpy(part) for part in parts)


def train(net: Progression, x: torch.Tensor, y: torch.Tensor, epochs: int, lr: float) -> None:
    """The whole data at each step: it is 331 patients."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    wanted = (y - net.y_mean) / net.y_std
    for epoch in range(1, epochs + 1):
        loss = F.mse_loss(net.scaled(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % 50 == 0 or epoch == epochs:
            mlflow.log_metric("loss", loss.item(), step=epoch)
            print(f"epoch {epoch}: loss {loss.item():.4f}")


def draw_answers(true: np.ndarray, answered: np.ndarray) -> Any:
    """A picture of what was answered over what came: on the line, they are the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="grey", linewidth=1)
    axes.scatter(true, answered, s=12)
    axes.set(xlabel="progression", ylabel="answered", xlim=(0, 350), ylim=(0, 350))
    return figure


def to_onnx(net: Progression, example: torch.Tensor) -> Any:
    """The graph, an onnx.ModelProto, for any number of patients at once."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # of torch's own deprecations inside the exporter
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net.eval(),
            (example,),
            input_names=["measurements"],
            output_names=["progression"],
            dynamic_shapes=({0: "patients"},),
            dynamo=True,
            verbose=False,
        )
    return program.model_proto


def log_model(graph: Any, example: np.ndarray, register_as: str | None) -> Any:
    """Log the graph; MLflow's ModelInfo, with the version if it was registered."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, example.shape[1]))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1), "progression")]),
    )
    return mlflow.onnx.log_model(
        graph,
        name="model",
        signature=signature,
        # The question that every server must answer right before it may serve.
        input_example=example,
        # MLflow's default names CUDA first, and warns wherever there is none.
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=script.requirements("mlflow", "numpy", "onnx", "onnxruntime"),
        registered_model_name=register_as,
    )


def run(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    x, held_out_x, y, held_out_y = load_data()
    net = Progression(x, y)

    mlflow.set_experiment(options.name)
    with mlflow.start_run() as active:
        mlflow.log_params(
            {
                "epochs": options.epochs,
                "seed": options.seed,
                "lr": options.lr,
                "weight_decay": WEIGHT_DECAY,
                "held_out": HELD_OUT,
                "split_seed": SPLIT_SEED,
            }
        )
        train(net, x, y, options.epochs, options.lr)
        with torch.no_grad():
            answered = net(held_out_x).numpy()
        metrics = {
            "held_out_r2": r2_score(held_out_y, answered),
            "held_out_mean_error": mean_absolute_error(held_out_y, answered),
        }
        mlflow.log_metrics(metrics)
        print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        mlflow.log_figure(draw_answers(held_out_y.numpy(), answered), "answers.png")
        # Two patients or more: the exporter takes a dimension of size 1 for a constant.
        graph = to_onnx(net, held_out_x[:3])
        name = options.name if options.register else None
        logged = log_model(graph, held_out_x[:3].numpy(), name)

    if options.sample:
        options.sample.write_text(json.dumps({"inputs": held_out_x[:1].tolist()}) + "\n")
        print(f"sample: a patient with {held_out_y[0].item():.0f}, in {options.sample}")
    script.say_next(options, active.info.run_id, logged)


def parser() -> argparse.ArgumentParser:
    found = script.options(
        "Train a small network on scikit-learn's diabetes data and register it as ONNX.", "diabetes"
    )
    found.add_argument("--epochs", type=script.at_least_one, default=150)
    found.add_argument("--lr", type=float, default=3e-3, help="learning rate of AdamW")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only cost time on a network this small
    raise SystemExit(script.main(run, parser()))
