"""Train a small convolutional network on scikit-learn's digits and log it to MLflow.

MLflow's own API only: nothing of ModelSwitch is imported, so any training script of yours can
look like this one. It finds MLflow by MLFLOW_TRACKING_URI, else on 127.0.0.1:5000, logs the
parameters, each epoch's metrics, a confusion matrix and the model as `.pt2`, and registers a
version:

    python training/digits.py --epochs 8
    python training/digits.py --seed 1 --sample sample.json

The model takes raw 8x8 digits, as scikit-learn ships them (float32, (n, 1, 8, 8), ink from 0 to
16; the scaling is inside the model), and answers class probabilities (float32, (n, 10)): the
position of the largest number is the digit, the number itself how sure the model is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import script
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

CLASSES = 10
FULL_INK = 16.0
HELD_OUT = 0.25
# The same images are held out whatever the seed, so that versions can be compared.
SPLIT_SEED = 0
BATCH_SIZE = 16


class DigitNet(nn.Module):
    """Two convolutions and two linear layers: 38,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.second = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.last = nn.Linear(64, CLASSES)

    def scores(self, ink: torch.Tensor) -> torch.Tensor:
        """Unnormalised scores, (n, 10), which the loss is computed from."""
        x = F.relu(self.first(ink / FULL_INK))
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.last(F.relu(self.hidden(x.flatten(1))))

    def forward(self, ink: torch.Tensor) -> torch.Tensor:
        """Class probabilities, (n, 10): what is exported and served."""
        return self.scores(ink).softmax(dim=1)


@dataclass(frozen=True)
class Data:
    """Images (n, 1, 8, 8) float32 and digits (n,) int64, to learn from and held out."""

    images: torch.Tensor
    digits: torch.Tensor
    held_out_images: torch.Tensor
    held_out_digits: torch.Tensor


def load_data() -> Data:
    source = load_digits()
    images = source.images.astype(np.float32)[:, None, :, :]
    digits = source.target.astype(np.int64)
    parts = train_test_split(
        images, digits, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=digits
    )
    learn_images, held_images, learn_digits, held_digits = (torch.from_numpy(p) for p in parts)
    return Data(learn_images, learn_digits, held_images, held_digits)


def train_epoch(net: DigitNet, optimizer: torch.optim.Optimizer, data: Data) -> float:
    """One pass over the learning images in random order; the mean loss."""
    net.train()
    total = 0.0
    for batch in torch.randperm(len(data.digits)).split(BATCH_SIZE):
        loss = F.cross_entropy(net.scores(data.images[batch]), data.digits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(data.digits)


@torch.no_grad()
def evaluate(net: DigitNet, data: Data) -> tuple[float, torch.Tensor]:
    """The share of held-out digits read right, and what was read, (n,)."""
    net.eval()
    read = net.scores(data.held_out_images).argmax(dim=1)
    return (read == data.held_out_digits).float().mean().item(), read


def log_model(net: DigitNet, data: Data, register_as: str | None) -> Any:
    """Log the network as `.pt2`; MLflow's ModelInfo, with the version if it was registered."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, 8, 8))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, CLASSES))]),
    )
    return mlflow.pytorch.log_model(
        net.eval(),
        name="model",
        signature=signature,
        # More than one image: torch.export takes a dimension of size 1 for a constant, and the
        # exported model would then refuse every other batch size.
        input_example=data.held_out_images[:3].numpy(),
        pip_requirements=script.requirements("mlflow", "numpy", "torch"),
        registered_model_name=register_as,
    )


def run(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    data = load_data()
    net = DigitNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr)

    mlflow.set_experiment(options.name)
    with mlflow.start_run() as active:
        mlflow.log_params(
            {
                "epochs": options.epochs,
                "seed": options.seed,
                "lr": options.lr,
                "batch_size": BATCH_SIZE,
                "held_out": HELD_OUT,
                "split_seed": SPLIT_SEED,
            }
        )
        for epoch in range(1, options.epochs + 1):
            loss = train_epoch(net, optimizer, data)
            accuracy, read = evaluate(net, data)
            mlflow.log_metrics({"loss": loss, "held_out_accuracy": accuracy}, step=epoch)
            print(f"epoch {epoch}: loss {loss:.4f}, held-out accuracy {accuracy:.2%}")
        figure = script.confusion(data.held_out_digits, read, range(CLASSES))
        mlflow.log_figure(figure, "confusion_matrix.png")
        logged = log_model(net, data, options.name if options.register else None)

    if options.sample:
        sample = {"inputs": data.held_out_images[:1].tolist()}
        options.sample.write_text(json.dumps(sample) + "\n", encoding="utf-8")
        print(f"sample: a {data.held_out_digits[0].item()}, in {options.sample}")
    script.say_next(options, active.info.run_id, logged)


def parser() -> argparse.ArgumentParser:
    found = script.options(
        "Train a small network on scikit-learn's digits and register it in MLflow.", "digits"
    )
    found.add_argument("--epochs", type=script.at_least_one, default=8)
    found.add_argument("--lr", type=float, default=2e-3, help="learning rate of Adam")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only cost time on images of 64 pixels
    raise SystemExit(script.main(run, parser()))
