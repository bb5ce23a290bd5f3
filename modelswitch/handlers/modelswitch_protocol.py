"""The protocol a worker speaks: MLflow's JSON in, MLflow's JSON out, whatever the engine.

One bad request spoils nothing for the others of its batch, what a caller got wrong is a 4xx
that says what was expected, and every answer, errors included, names the version and the
archive it comes from.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import time
from pathlib import Path
from typing import Any, Protocol

DOCUMENT = "modelswitch.json"
VERSION_HEADER = "X-Model-Version"
DIGEST_HEADER = "X-Archive-Digest"
CORRELATION_HEADER = "X-Correlation-Id"
PROBE_HEADER = "X-ModelSwitch-Probe"

# The first calls of a scripted model profile and compile it: nobody should wait for that.
_WARM_UP_CALLS = 3

logger = logging.getLogger("modelswitch")

# curl -d sends a form unless it is told otherwise, and TorchServe takes a form apart.
_NO_BODY = "no JSON object came: send one as the body, with Content-Type: application/json"


class Invalid(Exception):
    """A request that cannot be answered as it is: the caller's to mend, a 4xx."""

    def __init__(self, status: int, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.facts = facts


class Model(Protocol):
    """An engine. `decode` raises Invalid; `predict` gives an output or an exception for each."""

    def load(self, folder: Path, document: dict[str, Any]) -> None: ...
    def decode(self, body: dict[str, Any]) -> Any: ...
    def predict(self, questions: list[Any]) -> list[Any]: ...
    def encode(self, question: Any, output: Any) -> Any: ...


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
        self.model.load(folder, document)
        if document["golden"]:
            for _ in range(_WARM_UP_CALLS):
                question = self.model.decode(document["golden"]["request"])
                (output,) = self.model.predict([question])
                if isinstance(output, Exception):
                    raise output
        logger.info("loaded %s, archive %s", self.name, self.digest)

    def answer(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        started = time.perf_counter()
        answers: list[bytes] = [b""] * len(data)
        statuses = [200] * len(data)
        questions: dict[int, Any] = {}
        headers = [_headers(context, i) for i in range(len(data))]
        for i, row in enumerate(data):
            context.set_response_header(i, VERSION_HEADER, self.name)
            context.set_response_header(i, DIGEST_HEADER, self.digest)
            context.set_response_content_type(i, "application/json")
            if correlation := _correlation(headers[i]):
                context.set_response_header(i, CORRELATION_HEADER, correlation)
            if headers[i].get(PROBE_HEADER.lower()) == "1":
                answers[i] = _json({"model": self.name, "digest": self.digest})
                continue
            try:
                questions[i] = self.model.decode(_body(row))
            except Exception as error:  # noqa: BLE001 - the worker's outermost boundary
                statuses[i], answers[i] = self._failed(error)
        if questions:
            outputs = self.model.predict(list(questions.values()))
            for (i, question), output in zip(questions.items(), outputs, strict=True):
                statuses[i], answers[i] = self._encoded(question, output)
        ms = round((time.perf_counter() - started) * 1000, 1)
        for i, status in enumerate(statuses):
            if status != 200:
                context.set_response_status(status, _PHRASES[status], i)
            if correlation := _correlation(headers[i]):
                logger.info("correlation_id=%s %s %d %s ms", correlation, self.name, status, ms)
        return answers

    def _encoded(self, question: Any, output: Any) -> tuple[int, bytes]:
        if isinstance(output, Exception):
            return self._failed(output)
        try:
            return 200, _json({"predictions": self.model.encode(question, output)})
        except Exception as error:  # noqa: BLE001 - an output that is no JSON, say
            return self._failed(error)

    def _failed(self, error: Exception) -> tuple[int, bytes]:
        if isinstance(error, MemoryError):
            raise error  # TorchServe's to answer: 507
        if isinstance(error, Invalid):
            code = "BAD_REQUEST" if error.status == 400 else "INVALID_PARAMETER_VALUE"
            body = {"error_code": code, "message": error.message, **error.facts}
            return error.status, _json(body)
        logger.error("%s could not answer a request", self.name, exc_info=error)
        message = f"{self.name} could not answer: {type(error).__name__}: {error}"
        return 500, _json({"error_code": "INTERNAL_ERROR", "message": message})


_PHRASES = {400: "Bad Request", 422: "Unprocessable Content", 500: "Internal Server Error"}


def _headers(context: Any, index: int) -> dict[str, str]:
    """The request's headers by lower-case name; TorchServe mixes in one dict per body field."""
    found = context.get_all_request_header(index)
    return {key.lower(): value for key, value in found.items() if isinstance(value, str)}


def _correlation(headers: dict[str, str]) -> str | None:
    """The caller's id if it can stand in a header and a log line; others are dropped."""
    value = headers.get(CORRELATION_HEADER.lower(), "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 128 else None


def _body(row: dict[str, Any]) -> dict[str, Any]:
    """One request's JSON object. TorchServe has decoded it if its content type said JSON."""
    body = row.get("body")
    if body is None:
        body = row.get("data")
    if isinstance(body, bytes | bytearray | str):
        if not body.strip():
            raise Invalid(400, _NO_BODY)
        try:
            body = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise Invalid(400, f"the body is not JSON: {error or type(error).__name__}") from error
    if body is None:
        raise Invalid(400, _NO_BODY)
    if not isinstance(body, dict):
        raise Invalid(400, f"the body is not a JSON object but {type(body).__name__}")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


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
