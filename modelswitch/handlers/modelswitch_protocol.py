"""The protocol a worker speaks: MLflow's JSON in, MLflow's JSON out, whatever the engine.

Arrays and images may come as they are too, and an array may be answered as one. One bad request
spoils nothing for the others of its batch, what a caller got wrong is a 4xx that says what was
expected, and every answer, errors included, names the version and the archive it comes from.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import logging
import math
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

DOCUMENT = "modelswitch.json"
VERSION_HEADER = "X-Model-Version"
DIGEST_HEADER = "X-Archive-Digest"
CORRELATION_HEADER = "X-Correlation-Id"
PROBE_HEADER = "X-ModelSwitch-Probe"
NPY = "application/x-npy"
JSON = "application/json"

# The first calls of a scripted model profile and compile it: nobody should wait for that.
_WARM_UP_CALLS = 3

_NOT_TAKEN = re.compile(r"contains\W+(NaN|inf)")

logger = logging.getLogger("modelswitch")

_FORM = "application/x-www-form-urlencoded"
# curl -d sends a form unless it is told otherwise, and TorchServe takes a form apart.
_NO_BODY = f"no JSON object came: send one as the body, with Content-Type: {JSON}"


class Invalid(Exception):
    """A request that cannot be answered as it is: the caller's to mend, a 4xx."""

    def __init__(self, status: int, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.facts = facts


@dataclass(frozen=True)
class Request:
    """One request: its body as TorchServe handed it on, its headers by lower-case name."""

    content: Any
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON

    @property
    def is_binary(self) -> bool:
        """Whether its body is an array or an image as it is, by its content type."""
        kind = self.content_type
        return kind in (NPY, "application/octet-stream") or kind.startswith("image/")

    @property
    def _may_be_json(self) -> bool:
        kind = self.content_type
        return kind in (JSON, "text/plain", _FORM) or kind.endswith("+json")

    @property
    def wants_array(self) -> bool:
        return NPY in self.headers.get("accept", "")

    @property
    def bytes(self) -> bytes | bytearray:
        """The body of a binary request; raises Invalid when nothing came."""
        if not isinstance(self.content, bytes | bytearray) or not self.content:
            raise Invalid(400, f"no body came with Content-Type: {self.content_type}")
        return self.content

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object, which TorchServe has decoded if its content type said JSON."""
        body = self.content
        if not self._may_be_json:
            raise Invalid(415, f"{self.content_type} is not read here: send {JSON} or {NPY}")
        if isinstance(body, bytes | bytearray | str):
            if not body.strip():
                raise Invalid(400, _NO_BODY)
            try:
                body = json.loads(body, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                why = str(error) or type(error).__name__
                raise Invalid(400, f"the body is not JSON: {why}") from error
        if body is None:
            raise Invalid(400, _NO_BODY)
        if not isinstance(body, dict):
            raise Invalid(400, f"the body is not a JSON object but {type(body).__name__}")
        return body


class Model(Protocol):
    """An engine. `decode` raises Invalid; `predict` gives an output or an exception for each.

    `array` is the answer as one array, for who asked for that; it raises Invalid if it is none.
    """

    def load(self, folder: Path, document: dict[str, Any]) -> None: ...
    def decode(self, request: Request) -> Any: ...
    def predict(self, questions: list[Any]) -> list[Any]: ...
    def encode(self, question: Any, output: Any) -> Any: ...
    def array(self, question: Any, output: Any) -> Any: ...


class Worker:
    """What TorchServe calls: `handle(None, context)` to load, `handle(batch, context)` after."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = ""
        self.digest = ""

    def __call__(self, data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
        if data is None:
            # What is loaded stays: looking for garbage in it makes loading slower, and would
            # later stop every answer for a sixth of a second at a time.
            gc.disable()
            write_less()
            try:
                self.load(Path(context.system_properties["model_dir"]))
            finally:
                gc.freeze()
                gc.enable()
            return None
        return self.answer(data, context)

    def load(self, folder: Path) -> None:
        """Load from an extracted archive; an exception here is shown as the worker's failure."""
        text = (folder / DOCUMENT).read_bytes()
        document = json.loads(text)
        self.digest = "sha256:" + hashlib.sha256(text).hexdigest()
        self.name = "{model}@{version}".format(**document["identity"])
        if limit_bytes := document["recipe"].get("memory_limit_bytes"):
            limit_memory(limit_bytes)
        self.model.load(folder, document)
        if document["golden"]:
            for _ in range(_WARM_UP_CALLS):
                question = self.model.decode(Request(document["golden"]["request"]))
                (output,) = self.model.predict([question])
                if isinstance(output, Exception):
                    raise output
        logger.info("loaded %s, archive %s", self.name, self.digest)

    def answer(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        started = time.perf_counter()
        answers: list[bytes] = [b""] * len(data)
        statuses = [200] * len(data)
        questions: dict[int, Any] = {}
        requests = [_request(row, context, i) for i, row in enumerate(data)]
        for i, request in enumerate(requests):
            context.set_response_header(i, VERSION_HEADER, self.name)
            context.set_response_header(i, DIGEST_HEADER, self.digest)
            if correlation := _correlation(request):
                context.set_response_header(i, CORRELATION_HEADER, correlation)
            if request.headers.get(PROBE_HEADER.lower()) == "1":
                answers[i] = _json({"model": self.name, "digest": self.digest})
                continue
            try:
                questions[i] = self.model.decode(request)
            except Exception as error:  # noqa: BLE001 - the worker's outermost boundary
                statuses[i], answers[i] = self._failed(error)
        if questions:
            outputs = self.model.predict(list(questions.values()))
            for (i, question), output in zip(questions.items(), outputs, strict=True):
                statuses[i], answers[i] = self._encoded(requests[i], question, output)
        ms = round((time.perf_counter() - started) * 1000, 1)
        for i, status in enumerate(statuses):
            is_array = status == 200 and i in questions and requests[i].wants_array
            context.set_response_content_type(i, NPY if is_array else JSON)
            if status != 200:
                context.set_response_status(status, _PHRASES[status], i)
            if status == 507:
                context.set_response_header(i, "Retry-After", _RETRY_AFTER_S)
            if correlation := _correlation(requests[i]):
                logger.info("correlation_id=%s %s %d %s ms", correlation, self.name, status, ms)
        return answers

    def _encoded(self, request: Request, question: Any, output: Any) -> tuple[int, bytes]:
        if isinstance(output, Exception):
            return self._failed(output)
        try:
            if request.wants_array:
                return 200, _npy(self.model.array(question, output))
            return 200, _json({"predictions": self.model.encode(question, output)})
        except Exception as error:  # noqa: BLE001 - an output that is no JSON, say
            return self._failed(error)

    def _failed(self, error: Exception) -> tuple[int, bytes]:
        if _is_out_of_memory(error):
            message = (
                f"{self.name} ran out of memory at this request, and answers the next: {error}"
            )
            return 507, _json({"error_code": "OUT_OF_MEMORY", "message": message})
        if isinstance(error, Invalid):
            code = "BAD_REQUEST" if error.status == 400 else "INVALID_PARAMETER_VALUE"
            body = {"error_code": code, "message": error.message, **error.facts}
            return error.status, _json(body)
        logger.error("%s could not answer a request", self.name, exc_info=error)
        message = f"{self.name} could not answer: {type(error).__name__}: {error}"
        return 500, _json({"error_code": "INTERNAL_ERROR", "message": message})


_PHRASES = {
    400: "Bad Request",
    406: "Not Acceptable",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    507: "Insufficient Storage",
}
_RETRY_AFTER_S = "1"


def write_less() -> None:
    """Keep out of the log what TorchServe's worker writes of every batch: that one came, and when.

    Three lines go through a pipe into the JVM, which reads and drops them: with a model that does
    nothing that is a quarter of what a request costs. What others log stays as it is.
    """
    logging.getLogger().addFilter(_is_news)
    logging.getLogger("ts.metrics").setLevel(logging.WARNING)


def _is_news(record: logging.LogRecord) -> bool:
    return record.module != "otf_message_handler" or record.levelno > logging.INFO


def limit_memory(limit_bytes: int) -> None:
    """What this worker may have of private memory; who asks for more gets a MemoryError."""
    try:
        import resource
    except ImportError:  # Windows
        logger.warning("memory_limit_bytes is kept on Linux and macOS only")
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _is_out_of_memory(error: Exception) -> bool:
    """Python's and numpy's own error, or what torch and ONNX Runtime say in words alone."""
    if isinstance(error, MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "bad_alloc", "Failed to allocate")
    )


def import_from(folder: Path) -> None:
    """Let what the model brought in `code/` be imported, before what a worker has, as MLflow."""
    code = folder / "code"
    if code.is_dir():
        sys.path.insert(0, str(code))


def limit_threads(count: int) -> None:
    """Of what is loaded by now: BLAS, OpenMP and torch; workers are what uses the other cores."""
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)


def refusal_of(error: Exception) -> Invalid | None:
    """What scikit-learn, and those that speak like it, say of NaN and of too large numbers."""
    if isinstance(error, Invalid):
        return error
    if isinstance(error, ValueError) and _NOT_TAKEN.search(str(error)):
        said = str(error).strip().partition("\n")[0]
        return Invalid(422, f"the model does not take these inputs: {said[:500]}")
    return None


def _request(row: dict[str, Any], context: Any, index: int) -> Request:
    content = row.get("body")
    field_name = "body"
    if content is None:
        content, field_name = row.get("data"), "data"
    # TorchServe mixes one dict for each body field, with its content type, into the headers.
    found = context.get_all_request_header(index)
    inner = found.get(field_name)
    headers = {key.lower(): value for key, value in found.items() if isinstance(value, str)}
    kind = inner.get("content-type") if isinstance(inner, dict) else headers.get("content-type")
    return Request(content, headers, (kind or JSON).partition(";")[0].strip().lower())


def _correlation(request: Request) -> str | None:
    """The caller's id if it can stand in a header and a log line; others are dropped."""
    value = request.headers.get(CORRELATION_HEADER.lower(), "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 128 else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _npy(array: Any) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:  # JSON has no NaN and no infinity: null stands for them
        return json.dumps(_finite(value), allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
