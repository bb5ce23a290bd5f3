"""The whole way once, with the commands a user would type: train, register, promote, roll back.

Then other flavors beside the first: named columns, an ONNX graph, pictures. Every line is run for
real against the stack on this machine, which stays up afterwards.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STATE = Path(".modelswitch")


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

    (ROOT / STATE).mkdir(exist_ok=True)  # the stack's own may be elsewhere
    there_and_back(server)
    other_flavors(server)
    print(
        f"\nWhere to look: MLflow's UI {addresses['tracking_uri']} (Models, digits: alias, tags)"
        f"\n               the server  {server}/predictions/digits"
        "\n               next        modelswitch show digits; modelswitch status; modelswitch down"
        "\n               first       source .venv/bin/activate, so that your shell finds them"
    )


def there_and_back(server: str) -> None:
    """Two versions of one torch model: to Production, and back."""
    sample = STATE / "sample.json"
    say("Train a first digits model; MLflow's own API logs the run and registers a version")
    train("digits", "--epochs", "2", "--sample", sample)
    promote("digits", "the first that works")

    say("Train a better one; Staging loads it on every server and moves no traffic")
    train("digits", "--epochs", "8")
    promote("digits", "trained four times longer", to="staging")
    say("Production: one pointer moves, and every server proves what it answers")
    promote("digits", "better than the first")
    modelswitch("predict", "digits", "--input", sample)
    curl(f"{server}/predictions/digits", sample)

    say("And back: as fast, and what was left is quarantined")
    modelswitch("rollback", "digits", "--reason", "to show that it works", "--yes")
    curl(f"{server}/predictions/digits", sample)

    say("Who put what into production, when and why")
    modelswitch("history", "digits", "--limit", "8")


def other_flavors(server: str) -> None:
    """Three more models beside it: named columns, an ONNX graph, pictures."""
    tumour, patient = STATE / "tumour.json", STATE / "patient.json"
    picture = STATE / "picture.png"
    say("scikit-learn, with named columns")
    train("tumours", "--sample", tumour)
    promote("tumours", "finds 96 % of the malignant ones")
    say("ONNX: what torch has trained, served without torch")
    train("diabetes", "--sample", patient)
    promote("diabetes", "better than a straight line")
    say("Pictures: serving.toml says how they are read, and what their labels are")
    run(*train("pictures", "--sample", picture))
    promote("pictures", "reads colours too")

    say("All of them, side by side on one server")
    modelswitch("models")
    modelswitch("predict", "tumours", "--input", tumour)
    modelswitch("predict", "diabetes", "--input", patient)
    modelswitch("predict", "pictures", "--input", picture)
    curl(f"{server}/predictions/pictures", picture)
    modelswitch("diff")


def say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def run(*command: Any) -> None:
    subprocess.run(shown(command), check=True, cwd=ROOT)


def modelswitch(*words: Any) -> None:
    run(BIN / "modelswitch", *words)


def promote(model: str, reason: str, *, to: str = "production") -> None:
    """The version that was registered last."""
    modelswitch("promote", f"{model}@{newest(model)}", "--to", to, "--reason", reason)


def train(script: str, *words: Any) -> list[str]:
    """Run a script of training/; the command which it says comes next."""
    command = shown((BIN / "python", f"training/{script}.py", *words))
    comes_next: list[str] = []
    env = os.environ | {"PYTHONUNBUFFERED": "1"}  # each line as it comes
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("next: "):
                comes_next = shlex.split(line.removeprefix("next: "))
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return [str(BIN / comes_next[0]), *comes_next[1:]]


def shown(command: Sequence[Any]) -> list[str]:
    """Its words, printed as one would type them."""
    words = [str(word) for word in command]
    typed = [Path(w).name if w.startswith(str(BIN)) else w for w in words]
    print(f"\n$ {shlex.join(typed)}", flush=True)
    return words


def read(*words: str) -> Any:
    done = subprocess.run(
        [BIN / "modelswitch", *words, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)["data"]


def newest(model: str) -> str:
    """The number of its version registered last."""
    url = os.environ["MLFLOW_TRACKING_URI"]
    query = f"/api/2.0/mlflow/registered-models/get?name={model}"
    with urllib.request.urlopen(url + query, timeout=10) as answer:  # noqa: S310
        found = json.load(answer)["registered_model"]["latest_versions"]
    return str(max(int(version["version"]) for version in found))


def curl(url: str, body: Path) -> None:
    """As curl would ask; curl itself may be missing."""
    kind = "image/png" if body.suffix == ".png" else "application/json"
    print(f"\n$ curl -i {url} -H 'Content-Type: {kind}' --data-binary @{body}")
    request = urllib.request.Request(  # noqa: S310
        url, data=(ROOT / body).read_bytes(), headers={"Content-Type": kind}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        for name in ("X-Model-Version", "X-Archive-Digest"):
            print(f"{name}: {answer.headers[name]}")
        print(answer.read().decode()[:300], flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
