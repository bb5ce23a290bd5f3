"""Run an archive's own handler beside nothing else: `python trial.py FOLDER TASK RESULT`.

It knows the handler's interface and imports nothing of ModelSwitch, so that what is tried is
what a worker runs. FOLDER is an extracted archive; TASK names what is asked, as JSON:

- `{"ask": [body, …]}` gives `{"answers": [body or null, …], "errors": [text or null, …]}`
- `{"run": {"inputs": npz, "outputs": npy}}` answers the rows of arrays into a file
- `{"measure": {"body": …, "batches": [1, 8], "seconds": 2}}` gives `latency_ms` of one request
  alone, `a_second` by the size of the batch, and `memory_bytes` of the process
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

_ROWS = 8  # in one pass
_CALLS, _WARM_UP = 20, 5


def main() -> None:
    folder, task, result = map(Path, sys.argv[1:])
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path) != Path(__file__).parent)]
    wanted = json.loads(task.read_bytes())
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_bytes())
    entry = importlib.import_module(Path(manifest["model"]["handler"]).stem)
    worker = entry.handle
    worker.load(folder)
    found: dict[str, Any] = {}
    if "ask" in wanted:
        found |= _asked(worker.model, wanted["ask"])
    if "run" in wanted:
        _run(worker.model, **wanted["run"])
    if "measure" in wanted:
        found |= _measured(worker.model, **wanted["measure"])
    result.write_text(json.dumps(found))


def _asked(model: Any, bodies: list[Any]) -> dict[str, Any]:
    protocol = importlib.import_module("modelswitch_protocol")
    answers: list[Any] = []
    errors: list[str | None] = []
    for body in bodies:
        question = model.decode(protocol.Request(body))
        (output,) = model.predict([question])
        failed = isinstance(output, Exception)
        errors.append(f"{type(output).__name__}: {output}" if failed else None)
        answer = None if failed else {"predictions": model.encode(question, output)}
        # Through JSON, as a caller gets it.
        answers.append(json.loads(protocol._json(answer)))
    return {"answers": answers, "errors": errors}


def _run(model: Any, inputs: str, outputs: str) -> None:
    import numpy as np

    arrays_module = importlib.import_module("modelswitch_arrays")
    with np.load(inputs) as file:
        arrays = [file[name] for name in file.files]
    parts = []
    for first in range(0, len(arrays[0]), _ROWS):
        rows = tuple(np.ascontiguousarray(array[first : first + _ROWS]) for array in arrays)
        question = arrays_module.Question(rows)
        (output,) = model.predict([question])
        if isinstance(output, Exception):
            raise output
        parts.append(model.array(question, output))
    np.save(outputs, np.concatenate(parts))


def _measured(
    model: Any, body: dict[str, str], batches: list[int], seconds: float
) -> dict[str, Any]:
    """The handler's whole way: decode each request, one pass, encode each answer."""
    protocol = importlib.import_module("modelswitch_protocol")
    content = base64.b64decode(body["b64"])
    request = protocol.Request(content, {}, body["content_type"])
    # Rows are all the same here, so that it does not matter whether the model keeps them apart.
    model.joins = True
    found: dict[str, Any] = {"a_second": {}}
    for batch in batches:
        times: list[float] = []
        started = ended = time.perf_counter()
        while ended < started + seconds or len(times) < _CALLS:
            questions = [model.decode(request) for _ in range(batch)]
            outputs = model.predict(questions)
            for question, output in zip(questions, outputs, strict=True):
                if isinstance(output, Exception):
                    raise output
                protocol._json({"predictions": model.encode(question, output)})
            now = time.perf_counter()
            times.append(now - ended)
            ended = now
        middle = sorted(times[_WARM_UP:])[len(times[_WARM_UP:]) // 2]
        found["a_second"][batch] = batch / middle
        if batch == 1:
            found["latency_ms"] = middle * 1000
    return found | {"memory_bytes": _memory()}


def _memory() -> int:
    """Bytes that are resident now; the most there ever were where the system tells no more."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
