"""One ONNX graph without a server: JPEG in, the five best classes out.

The bare loop and LitServe run this, with the very graph that the archive holds. It imports what
it needs and nothing of ModelSwitch, so that it is the limit and not another handler.
"""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

TOP = 5


class Engine:
    """`threads` are ONNX Runtime's; more than one picture go through in one pass."""

    def __init__(self, graph: str, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def decode(self, content: bytes) -> Any:
        """Uint8 of (channels, height, width)."""
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))

    def run(self, pictures: list[Any]) -> list[list[dict[str, Any]]]:
        (scores, *_) = self.session.run(None, {self.input: np.stack(pictures)})
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        return [
            [
                {"label": str(i), "score": float(row[i])}
                for i in sorted(places, key=lambda place: -row[place])
            ]
            for row, places in zip(scores, best, strict=True)
        ]


def loop() -> None:
    """The bare loop: `python serving_engine.py GRAPH THREADS PICTURE…`.

    Each line of stdin is a batch size and seconds; each answer the pictures a second and the
    median milliseconds of a pass, as JSON.
    """
    engine = Engine(sys.argv[1], int(sys.argv[2]))
    contents = [Path(path).read_bytes() for path in sys.argv[3:]]
    for line in sys.stdin:
        batch, seconds = int(line.split()[0]), float(line.split()[1])
        times: list[float] = []
        started = ended = time.perf_counter()
        while ended < started + seconds:
            first = len(times) * batch
            parts = [contents[(first + i) % len(contents)] for i in range(batch)]
            for answer in engine.run([engine.decode(part) for part in parts]):
                json.dumps({"predictions": [answer]}).encode()
            now = time.perf_counter()
            times.append(now - ended)
            ended = now
        rate = batch * len(times) / (ended - started)
        middle = sorted(times)[len(times) // 2] * 1000
        print(json.dumps({"a_second": rate, "p50_ms": middle}), flush=True)


if __name__ == "__main__":
    loop()
