"""Train a logistic regression on the breast cancer data of scikit-learn and log it to MLflow.

A model of named columns: it takes a DataFrame of 30 measurements of a tumour's cell nuclei
(569 tumours, University of Wisconsin), and answers "benign" or "malignant". Logged with MLflow's
scikit-learn flavor, MLflow's own API only:

    python training/tumours.py --sample sample.json
    modelswitch predict tumours --input sample.json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import mlflow
import pandas as pd
import script
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

HELD_OUT = 0.25
# The same tumours are held out whatever the seed, so that versions can be compared.
SPLIT_SEED = 0
MALIGNANT = "malignant"


def load_data() -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.Series]:
    """Measurements and diagnoses to learn from, and held out: x, held-out x, y, held-out y."""
    source = load_breast_cancer(as_frame=True)
    diagnosis = source.target.map(dict(enumerate(source.target_names))).astype(object)
    return train_test_split(
        source.data, diagnosis, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=diagnosis
    )


def evaluate(model: Pipeline, x: pd.DataFrame, y: pd.Series) -> dict[str, float]:
    """On held-out tumours; a malignant one that is missed is the error that matters."""
    read = model.predict(x)
    malignant = model.predict_proba(x)[:, list(model.classes_).index(MALIGNANT)]
    return {
        "held_out_accuracy": accuracy_score(y, read),
        "held_out_recall_malignant": recall_score(y, read, pos_label=MALIGNANT),
        "held_out_roc_auc": roc_auc_score(y == MALIGNANT, malignant),
    }


def log_model(model: Pipeline, example: pd.DataFrame, register_as: str | None) -> Any:
    """Log the pipeline; MLflow's ModelInfo, with the version if it was registered."""
    return mlflow.sklearn.log_model(
        model,
        name="model",
        # Each column's name and type, by which requests are checked.
        signature=infer_signature(example, model.predict(example).astype(str)),
        # The question that every server must answer right before it may serve.
        input_example=example,
        pip_requirements=script.requirements("mlflow", "numpy", "pandas", "scikit-learn"),
        registered_model_name=register_as,
    )


def run(options: argparse.Namespace) -> None:
    x, held_out_x, y, held_out_y = load_data()
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=options.c, max_iter=1000, random_state=options.seed),
    )
    model.fit(x, y)
    metrics = evaluate(model, held_out_x, held_out_y)
    read = model.predict(held_out_x)

    mlflow.set_experiment(options.name)
    with mlflow.start_run() as active:
        mlflow.log_params(
            {
                "c": options.c,
                "seed": options.seed,
                "held_out": HELD_OUT,
                "split_seed": SPLIT_SEED,
            }
        )
        mlflow.log_metrics(metrics)
        print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        figure = script.confusion(held_out_y, read, list(model.classes_))
        mlflow.log_figure(figure, "confusion_matrix.png")
        logged = log_model(model, held_out_x[:3], options.name if options.register else None)

    if options.sample:
        sample = {"dataframe_split": held_out_x[:2].to_dict(orient="split", index=False)}
        options.sample.write_text(json.dumps(sample) + "\n", encoding="utf-8")
        print(f"sample: {', '.join(held_out_y[:2])}, in {options.sample}")
    script.say_next(options, active.info.run_id, logged)


def parser() -> argparse.ArgumentParser:
    found = script.options("Train on scikit-learn's breast cancer data and register it.", "tumours")
    found.add_argument("--c", type=float, default=1.0, help="less is more regularised")
    return found


if __name__ == "__main__":
    raise SystemExit(script.main(run, parser()))
