"""A picture of MLflow's page of a version in Production: screenshot.py [NAME [PNG]].

The stack must run and serve something; `make demo` leaves it so. Headless Chromium draws the
page; without NAME it is that of the first model that has a version in Production.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELSWITCH = Path(sys.executable).with_name("modelswitch")
PICTURE = ROOT / "docs" / "images" / "mlflow-version.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_BYTES = 200_000
WIDTH, HEIGHT = 1440, 810
ASSISTANT = 380  # the width of MLflow's chat panel, which shows nothing of the version
LOAD_MS = 20_000
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def main() -> int:
    name, picture = [*sys.argv[1:], None, None][:2]
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return fail(
            f"none of {', '.join(BROWSERS)} is on PATH",
            "apt-get install chromium, dnf install chromium, or brew install --cask chromium",
        )
    name = name or next((m["model"] for m in read("models") if m["production"]), None)
    if name is None:
        return fail("no model has a version in Production", "make demo")
    shown = read("show", f"{name}@production")
    if "production" not in shown["aliases"]:
        return fail(f"MLflow does not show {name}'s alias yet", f"modelswitch resume {name}")
    target = Path(picture or PICTURE)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(small(photograph(browser, shown["links"]["MLflow"])))
    size = target.stat().st_size
    print(f"{target}: {shown['model']}@{shown['version']}, {size / 1000:.0f} kB")
    return 0 if size <= MAX_BYTES else fail(f"that is more than {MAX_BYTES} bytes", "fewer colours")


def read(*words: str) -> Any:
    """The data of a verb's JSON; SystemExit with its error where it has none."""
    command = [MODELSWITCH, *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    answer = json.loads(done.stdout)
    if answer["error"]:
        raise SystemExit(fail(answer["error"]["message"], answer["error"]["next"] or "make up"))
    return answer["data"]


def photograph(browser: str, url: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="screenshot-") as folder:
        shot = Path(folder) / "page.png"
        command = [
            browser,
            *FLAGS,
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--virtual-time-budget={LOAD_MS}",
            f"--screenshot={shot}",
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if not shot.exists():
            raise SystemExit(
                fail(f"{browser} took no picture:\n{done.stderr[-2000:]}", "try again")
            )
        return shot.read_bytes()


def small(png: bytes) -> bytes:
    """Cut to the page itself, in 128 colours."""
    from PIL import Image

    page = Image.open(io.BytesIO(png)).convert("RGB").crop((0, 0, WIDTH - ASSISTANT, HEIGHT))
    out = io.BytesIO()
    page.quantize(128).save(out, "PNG", optimize=True)
    return out.getvalue()


def fail(what: str, next: str) -> int:
    print(f"error: {what}\nnext: {next}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
