"""The whole way once, with the commands a user would type: train, register, promote, roll back.

Every line is run for real against the stack on this machine, which stays up afterwards.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def main() -> int:
    started = time.monotonic()
    try:
        story()
    except subprocess.CalledProcessError as error:
        print(f"\nThe demo stopped: that command ended with {error.returncode}.", file=sys.stderr)
        return error.returncode
    print(f"\nThe demo took {time.monotonic() - started:.0f} s (set-up apart).")
    return 0


def story() -> None:
    say("Start PostgreSQL, MLflow, TorchServe and its agent (harmless when they run)")
    modelswitch("up")
    addresses = read("status")["stack"]
    os.environ["MLFLOW_TRACKING_URI"] = addresses["tracking_uri"]
    server = addresses["servers"][0]["inference_url"]

    sample = Path(".modelswitch") / "sample.json"
    say("Train a first digits model; MLflow's own API logs the run and registers a version")
    run(BIN / "python", "training/digits.py", "--epochs", "2", "--sample", sample)
    first = newest()
    modelswitch(
        "promote", f"digits@{first}", "--to", "production", "--reason", "the first that works"
    )

    say("Train a better one; Staging loads it on every server and moves no traffic")
    run(BIN / "python", "training/digits.py", "--epochs", "8")
    second = newest()
    modelswitch(
        "promote",
        f"digits@{second}",
        "--to",
        "staging",
        "--reason",
        "trained four times longer",
    )
    say("Production: one pointer moves, and every server proves what it answers")
    modelswitch(
        "promote", f"digits@{second}", "--to", "production", "--reason", "better than the first"
    )
    modelswitch("predict", "digits", "--input", sample)
    url = f"{server}/predictions/digits"
    print(f"\n$ curl -i {url} -H 'Content-Type: application/json' -d @{sample}")
    curl(url, (ROOT / sample).read_bytes())

    say("And back: as fast, and what was left is quarantined")
    modelswitch("rollback", "digits", "--reason", "to show that it works", "--yes")
    curl(url, (ROOT / sample).read_bytes())

    say("Who put what into production, when and why")
    modelswitch("history", "digits", "--limit", "8")
    modelswitch("models")
    modelswitch("diff")
    print(
        f"\nWhere to look: MLflow's UI {addresses['tracking_uri']} (Models, digits: alias, tags)"
        f"\n               the server  {server}/predictions/digits"
        f"\n               next        modelswitch show digits@{second}; modelswitch status; "
        "modelswitch down"
        "\n               first       source .venv/bin/activate, so that your shell finds them"
    )


def say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def run(*command: Any) -> None:
    words = [str(word) for word in command]
    shown = [
        "python"
        if word == str(BIN / "python")
        else Path(word).name
        if word.startswith(str(BIN))
        else word
        for word in words
    ]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    subprocess.run(words, check=True, cwd=ROOT)


def modelswitch(*words: Any) -> None:
    run(BIN / "modelswitch", *words)


def read(*words: str) -> Any:
    done = subprocess.run(
        [BIN / "modelswitch", *words, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)["data"]


def newest() -> str:
    """The number of the digits version registered last."""
    url = os.environ["MLFLOW_TRACKING_URI"]
    query = "/api/2.0/mlflow/registered-models/get?name=digits"
    with urllib.request.urlopen(url + query, timeout=10) as answer:  # noqa: S310
        found = json.load(answer)["registered_model"]["latest_versions"]
    return str(max(int(version["version"]) for version in found))


def curl(url: str, body: bytes) -> None:
    request = urllib.request.Request(  # noqa: S310
        url, data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        for name in ("X-Model-Version", "X-Archive-Digest"):
            print(f"{name}: {answer.headers[name]}")
        print(answer.read().decode()[:300], flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
