"""Train a convolutional network on photo-like pictures of digits and log it to MLflow.

Each of scikit-learn's digits is drawn as a JPEG of 96x80 pixels: dark ink on light paper, both in
some colour, turned and shifted a little. The network takes what a picture becomes when it is
resized, cropped and normalised (float32, (n, 3, 32, 32)), and answers unnormalised scores
(float32, (n, 10)). It is logged as `.pt2`, by MLflow's own API only.

How pictures are read is not in the model: it stands in pictures.toml, which this script learns by
and the version is served by. So the version is registered with that file, not by this script:

    python training/pictures.py --sample picture.png
    modelswitch register runs:/RUN/model --name pictures --serving training/pictures.toml
    modelswitch predict pictures --input picture.png
"""

from __future__ import annotations

import argparse
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import script
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

SERVING = Path(__file__).with_suffix(".toml")
READING = tomllib.loads(SERVING.read_text(encoding="utf-8"))["recipe"]["image"]
LABELS = READING["labels"]
SIZE = READING["crop"]

WIDTH, HEIGHT, DIGIT = 96, 80, 64  # of a picture and the digit on it, in pixels
HELD_OUT = 0.25
# The same digits are held out whatever the seed, so that versions can be compared.
SPLIT_SEED = 0
# Drawn twice, on other paper, a digit is two pictures to learn from.
DRAWN = 2
BATCH_SIZE = 32


def draw(ink: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """One of scikit-learn's digits, (8, 8) from 0 to 16, as a picture."""
    stroke = Image.fromarray((ink / 16 * 255).astype(np.uint8))
    stroke = stroke.resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)
    stroke = stroke.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR)
    paper, pen = rng.integers(170, 256, size=3), rng.integers(0, 100, size=3)
    picture = Image.new("RGB", (WIDTH, HEIGHT), tuple(paper.tolist()))
    left, top = (WIDTH - DIGIT) // 2, (HEIGHT - DIGIT) // 2
    at = (left + int(rng.integers(-6, 7)), top + int(rng.integers(-6, 7)))
    picture.paste(tuple(pen.tolist()), (*at, at[0] + DIGIT, at[1] + DIGIT), stroke)
    return picture


def as_jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def read(jpeg: bytes) -> np.ndarray:
    """What the network gets of a picture, (3, SIZE, SIZE) float32; the worker does the same."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    scale = READING["size"] / min(picture.size)
    width, height = (int(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    picture = picture.crop((left, top, left + SIZE, top + SIZE))
    values = (np.asarray(picture, np.float32) / 255 - READING["mean"]) / READING["std"]
    return values.transpose(2, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Data:
    """Pictures (n, 3, SIZE, SIZE) float32 and digits (n,) int64; `sample` is the first held out."""

    pictures: torch.Tensor
    digits: torch.Tensor
    held_out_pictures: torch.Tensor
    held_out_digits: torch.Tensor
    sample: Image.Image


def load_data() -> Data:
    source = load_digits()
    learn, held_out, digits, held_out_digits = train_test_split(
        source.images, source.target, test_size=HELD_OUT, random_state=SPLIT_SEED
    )
    rng = np.random.default_rng(SPLIT_SEED)
    learnt = [as_jpeg(draw(ink, rng)) for ink in np.concatenate([learn] * DRAWN)]
    drawn = [draw(ink, rng) for ink in held_out]
    return Data(
        torch.from_numpy(np.stack([read(jpeg) for jpeg in learnt])),
        torch.from_numpy(np.concatenate([digits] * DRAWN)),
        torch.from_numpy(np.stack([read(as_jpeg(picture)) for picture in drawn])),
        torch.from_numpy(held_out_digits),
        drawn[0],
    )


class PictureNet(nn.Sequential):
    """Three convolutions and a linear layer: 34,000 weights."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for width, wider in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(width, wider, kernel_size=3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        side = SIZE // 8
        super().__init__(*layers, nn.Flatten(), nn.Linear(64 * side * side, len(LABELS)))


def train_epoch(net: PictureNet, optimizer: torch.optim.Optimizer, data: Data) -> float:
    """One pass over the learning pictures in random order; the mean loss."""
    net.train()
    total = 0.0
    for batch in torch.randperm(len(data.digits)).split(BATCH_SIZE):
        loss = F.cross_entropy(net(data.pictures[batch]), data.digits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(data.digits)


@torch.no_grad()
def evaluate(net: PictureNet, data: Data) -> tuple[float, torch.Tensor]:
    """The share of held-out pictures read right, and what was read, (n,)."""
    net.eval()
    found = net(data.held_out_pictures).argmax(dim=1)
    return (found == data.held_out_digits).float().mean().item(), found


def log_model(net: PictureNet, data: Data) -> Any:
    """Log the network as `.pt2`; MLflow's ModelInfo."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, SIZE, SIZE))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(LABELS)))]),
    )
    return mlflow.pytorch.log_model(
        net.eval(),
        name="model",
        signature=signature,
        # More than one picture: torch.export takes a dimension of size 1 for a constant, and the
        # exported model would then refuse every other batch size.
        input_example=data.held_out_pictures[:2].numpy(),
        pip_requirements=script.requirements("mlflow", "numpy", "torch"),
    )


def run(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    data = load_data()
    net = PictureNet()
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
        mlflow.log_artifact(str(SERVING))
        for epoch in range(1, options.epochs + 1):
            loss = train_epoch(net, optimizer, data)
            accuracy, found = evaluate(net, data)
            mlflow.log_metrics({"loss": loss, "held_out_accuracy": accuracy}, step=epoch)
            print(f"epoch {epoch}: loss {loss:.4f}, held-out accuracy {accuracy:.2%}")
        places = range(len(LABELS))
        figure = script.confusion(data.held_out_digits, found, places)
        mlflow.log_figure(figure, "confusion_matrix.png")
        logged = log_model(net, data)

    if options.sample:
        is_jpeg = options.sample.suffix.lower() in (".jpg", ".jpeg")
        data.sample.save(options.sample, "JPEG" if is_jpeg else "PNG")
        print(f"sample: a {LABELS[data.held_out_digits[0]]}, in {options.sample}")
    script.say_next(options, active.info.run_id, logged, flags=" --serving training/pictures.toml")


def parser() -> argparse.ArgumentParser:
    found = script.options(
        "Train a network on pictures of digits and log it.", "pictures", registers=False
    )
    found.add_argument("--epochs", type=script.at_least_one, default=5)
    found.add_argument("--lr", type=float, default=2e-3, help="learning rate of Adam")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)  # more only cost time on pictures this small
    raise SystemExit(script.main(run, parser()))
