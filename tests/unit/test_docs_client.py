"""docs/client.md: its Python runs as it stands, against a server that answers what is asked."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelswitch import errors
from tests.answering import OK, Answering, Asked, Says

GUIDE = Path(__file__).parents[2] / "docs" / "client.md"
TEXT = GUIDE.read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


def answer(asked: Asked) -> Says:
    """One number for each row; an array for who asks for one."""
    if asked.headers["accept"] == "application/x-npy":
        out = io.BytesIO()
        np.save(out, np.load(io.BytesIO(asked.body)))
        return Says(body=out.getvalue(), headers={**OK, "Content-Type": "application/x-npy"})
    is_json = asked.headers["content-type"] == "application/json"
    rows = len(asked.json.get("inputs", [0])) if is_json else 1
    return Says(body=json.dumps({"predictions": [1.5] * rows}).encode())


def test_its_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("rose.jpg")
    names: dict[str, Any] = {}
    with Answering(answer) as server:
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
            exec(compile(block.replace(ADDRESS, server.url), GUIDE.name, "exec"), names)  # noqa: S102
        names["client"].close()
    printed = capsys.readouterr().out
    assert printed.startswith("[1.5, 1.5]\ndigits@3\nsha256:")
    assert "(1, 3, 256, 256)" in printed
    assert str(["3"] * 10) in printed
    kinds = [asked.headers["content-type"] for asked in server.asked]
    assert kinds[2:7] == [
        *["application/json"] * 2,
        "image/jpeg",
        "image/png",
        "application/x-npy",
    ]
    assert server.asked[1].path == "/predictions/digits/4-ab12cd34"


def test_its_table_of_errors_is_the_tree() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (yes|) ?\| (yes|) ?\|$", TEXT, re.MULTILINE)
    told = {name: (bool(temporary), bool(run)) for name, temporary, run in rows}
    kinds = errors.PredictionError.__subclasses__()
    assert told == {
        kind.__name__: (issubclass(kind, errors.Temporary), kind.may_have_run) for kind in kinds
    }
