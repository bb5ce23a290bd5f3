"""Run a command, and say how long it took: timed.py NAME COMMAND [ARG …]."""

from __future__ import annotations

import subprocess
import sys
import time


def main() -> int:
    name, *command = sys.argv[1:]
    started = time.monotonic()
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        code = 130
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"{name} took {minutes} min {seconds:02d} s", flush=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
