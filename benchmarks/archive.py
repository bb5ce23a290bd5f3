"""How long an archive takes: ours, `cp` plus one hashlib pass, and torch-model-archiver.

    python benchmarks/archive.py [--mib 512] [--rounds 3] [--json archive.json]

All three handle the same random weights (which do not compress, as trained ones do not), in one
run, in turn; the best round of each counts. Memory is the peak of a process of its own that
writes a large archive, above that of one that writes a small one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from modelswitch import handlers
from modelswitch.archive.document import Document, Identity, Signature
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import write

MIB = 1 << 20
BUDGETS = {"ours / (cp + sha256)": 1.5, "torch-model-archiver / ours": 10.0, "memory MiB": 64.0}


def draft() -> Document:
    return Document(
        schema=1,
        identity=Identity(model="bench", version="1", run_id=None, source="bench"),
        signature=Signature(inputs=[]),
        recipe=Recipe(),
        golden=None,
        entries={},
    )


def ours(weights: Path, folder: Path) -> None:
    """As `build` writes it: like `cp`, it does not wait for the disk; the store's `put` does."""
    write(folder, draft(), {"model.pt": weights, **handlers.files("torch")}, durable=False)


def synced(weights: Path, folder: Path) -> None:
    write(folder, draft(), {"model.pt": weights, **handlers.files("torch")})


def copy(weights: Path, folder: Path) -> None:
    subprocess.run(["cp", str(weights), str(folder / "copy")], check=True)


def sha256(weights: Path, folder: Path) -> None:
    with weights.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def stock(weights: Path, folder: Path) -> None:
    arguments = f"--model-name bench --version 1 --serialized-file {weights} --export-path {folder}"
    handler = Path(handlers.__file__).with_name(handlers.entry_point("torch"))
    program = Path(sys.executable).with_name("torch-model-archiver")
    subprocess.run(
        [str(program), *arguments.split(), "--handler", str(handler)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def seconds(step: Callable[[Path, Path], None], weights: Path, root: Path) -> float:
    with tempfile.TemporaryDirectory(dir=root) as folder:
        started = time.perf_counter()
        step(weights, Path(folder))
        return time.perf_counter() - started


def peak_mib(weights: Path) -> float:
    """Peak memory of a process that writes and verifies an archive of `weights`."""
    with tempfile.TemporaryDirectory(dir=weights.parent) as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--peak", str(weights), folder],
            check=True,
            capture_output=True,
            text=True,
        )
    return float(done.stdout)


def print_peak(weights: Path, folder: Path) -> None:
    verify(write(folder, draft(), {"model.pt": weights}).path)
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count the parent's memory from before exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        print(int(line.split()[1]) / 1024)
    else:
        import resource

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB)


def random_file(path: Path, mib: int) -> Path:
    with path.open("wb") as out:
        for _ in range(mib):
            out.write(os.urandom(MIB))
    return path


def measure(mib: int, rounds: int, root: Path) -> dict[str, float]:
    weights = random_file(root / "weights.pt", mib)
    steps = {"cp": copy, "sha256": sha256, "ours": ours, "ours, synced": synced}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, weights, root))
    best = {f"{name} s": min(values) for name, values in times.items()}
    best["torch-model-archiver s"] = seconds(stock, weights, root)
    written = write(root, draft(), {"model.pt": weights})
    best["verify s"] = seconds(lambda *_: verify(written.path) and None, weights, root)
    best["ours / (cp + sha256)"] = best["ours s"] / (best["cp s"] + best["sha256 s"])
    best["torch-model-archiver / ours"] = best["torch-model-archiver s"] / best["ours s"]
    small = random_file(root / "small.pt", 1)
    best["memory MiB"] = peak_mib(weights) - peak_mib(small)
    return best


def is_kept(name: str, value: float) -> bool:
    budget = BUDGETS[name]
    return value >= budget if name.startswith("torch-model-archiver /") else value <= budget


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=512, help="size of the weights, in MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--peak", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if chosen.peak:
        print_peak(*chosen.peak)
        return 0
    root = Path(tempfile.mkdtemp(prefix="modelswitch-bench-"))
    try:
        figures = measure(chosen.mib, chosen.rounds, root)
    finally:
        shutil.rmtree(root)
    print(f"archive of {chosen.mib} MiB of random weights, best of {chosen.rounds} rounds")
    for name, value in figures.items():
        budget = BUDGETS.get(name)
        sign = ">=" if name.startswith("torch-model-archiver /") else "<="
        verdict = (
            f"  {sign} {budget:g}: {'kept' if is_kept(name, value) else 'BROKEN'}" if budget else ""
        )
        print(f"  {name:<30}{value:>9.2f}{verdict}")
    kept = all(is_kept(name, figures[name]) for name in BUDGETS)
    if chosen.json:
        chosen.json.write_text(json.dumps({"mib": chosen.mib, "kept": kept, **figures}, indent=2))
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
