"""Make the virtual environment that the Makefile's targets share, and say what it took.

Runs with nothing but a Python 3.11 to 3.13 and its venv module.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED_GB = 8
TOLD_APART = ("pip", "setuptools", "wheel", "modelswitch")


def main() -> int:
    if sys.argv[1] == "--freeze":
        return freeze(Path(sys.argv[2]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:3]))
        print(
            f"ModelSwitch needs Python 3.11, 3.12 or 3.13; {sys.executable} is {found}.\n"
            "next: make PYTHON=python3.12 …",
            file=sys.stderr,
        )
        return 2
    folder = ROOT / sys.argv[1]
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < NEEDED_GB:
        print(f"warning: {free_gb:.0f} GB free, about {NEEDED_GB} GB are needed", file=sys.stderr)
    print(f"Setting up {folder.name} (once; about 7 GB, most of it torch) …", flush=True)
    started = time.monotonic()
    python = folder / "bin" / "python"
    if not python.exists():  # one that was made otherwise is taken as it is
        venv.EnvBuilder(with_pip=True).create(folder)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
    subprocess.run(
        [*pip, "install", "-c", "constraints.txt", "-e", ".[local,dev]"], check=True, cwd=ROOT
    )
    size = sum(f.lstat().st_size for f in folder.rglob("*"))
    print(f"Set up in {time.monotonic() - started:.0f} s, {size / 1e9:.1f} GB.", flush=True)
    return 0


def freeze(folder: Path) -> int:
    """Print what is installed, for constraints.txt."""
    pip = [str(ROOT / folder / "bin" / "python"), "-m", "pip"]
    listed = subprocess.run(
        [*pip, "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
    ).stdout
    print("# What was tested together; `make` installs with it. Made by `make constraints`.")
    for line in listed.splitlines():
        name, exact, _ = line.partition("==")
        if exact and name.lower() not in TOLD_APART:
            print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
