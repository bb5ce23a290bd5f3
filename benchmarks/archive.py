"""How long an archive takes: ours, `cp` plus one hashlib pass, and torch-model-archiver.

All three handle the same random weights (which do not compress, as trained ones do not), in one
run, in turn; the best round of each counts. Memory is the peak of a process of its own that
writes a large archive, above that of one that writes a small one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, Measured, Table
from modelswitch import handlers
from modelswitch.archive.document import Document, Identity, Signature
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import write

MIB = 1 << 20
ROUNDS = 3
TIMES_CP = 1.5
TIMES_FASTER = 10.0
MEMORY_MIB = 64.0


def draft() -> Document:
    return Document(
        schema=1,
        identity=Identity(model="bench", version="1", run_id=None, source="bench"),
        signature=Signature(inputs=[]),
        recipe=Recipe(handler="torch"),
        golden=None,
        entries={},
    )


def ours(weights: Path, folder: Path) -> None:
    """As `build` writes it: like `cp`, it does not wait for the disk; the store's `put` does."""
    write(folder, draft(), {"model.pt": weights, **handlers.files("torch")}, durable=False)


def synced(weights: Path, folder: Path) -> None:
    write(folder, draft(), {"model.pt": weights, **handlers.files("torch")})


def checked(archive: Path, folder: Path) -> None:
    verify(archive)


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
            [sys.executable, "-m", "benchmarks.archive", str(weights), folder],
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


def measure(mib: int) -> Measured:
    """Random weights of `mib` MiB."""
    with tempfile.TemporaryDirectory(prefix="modelswitch-bench-") as root:
        return _measure(mib, Path(root))


def _measure(mib: int, root: Path) -> Measured:
    weights = random_file(root / "weights.pt", mib)
    steps = {"cp": copy, "sha256": sha256, "ours": ours, "ours, on disk": synced}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(seconds(step, weights, root))
    best = {name: min(values) for name, values in times.items()}
    best["torch-model-archiver"] = seconds(stock, weights, root)
    written = write(root, draft(), {"model.pt": weights})
    best["verify"] = seconds(checked, written.path, root)
    small = random_file(root / "small.pt", 1)
    figures = (
        Figure("ours / (cp + sha256)", best["ours"] / (best["cp"] + best["sha256"]), "", TIMES_CP),
        Figure(
            "torch-model-archiver / ours",
            best["torch-model-archiver"] / best["ours"],
            "",
            at_least=TIMES_FASTER,
        ),
        Figure(
            "memory above that of 1 MiB of weights",
            peak_mib(weights) - peak_mib(small),
            "MiB",
            MEMORY_MIB,
        ),
    )
    rows = [(name, f"{value:.2f}") for name, value in best.items()]
    headings = (f"{mib} MiB of random weights, best of {ROUNDS}", "s")
    return Measured("archive", figures, (Table(headings, rows),))


if __name__ == "__main__":
    # A process of its own, whose peak is the figure
    print_peak(*map(Path, sys.argv[1:3]))
