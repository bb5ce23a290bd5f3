"""What comes back: a Prediction, or the error that the answer stands for. Pure, no connections."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelswitch.client.bodies import JSON, NPY
from modelswitch.errors import (
    BadRequest,
    NotServed,
    OutOfMemory,
    Overloaded,
    PredictionError,
    PredictionFailed,
    WorkerDied,
)

if TYPE_CHECKING:
    import numpy as np

# When asking again may help, in seconds, where the answer names no time, as TorchServe never does.
# A full queue moves on at once; a worker takes seconds to start again.
_RETRY_S: dict[type[PredictionError], float] = {Overloaded: 1.0, OutOfMemory: 5.0, WorkerDied: 5.0}
_REFUSED = "queue_full_or_no_worker"
_HTML = "text/html"  # no model's: a gateway's, or a page to log in


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer. `model_version` (`digits@3`) and `digest` are what the worker said of itself.

    `outputs` is the answer's `predictions`, or all of it where it has none; a NumPy array if one
    was asked for. `answer` is the whole body: JSON's value, an array, else text. `latency_ms` is
    of the attempt that was answered, from sending to the last byte; `attempts` counts all.
    """

    outputs: Any
    model: str
    model_version: str | None
    digest: str | None
    latency_ms: float
    correlation_id: str
    status: int = 200
    attempts: int = 1
    answer: Any = field(default=None, repr=False)

    @property
    def version(self) -> str | None:
        """`3` of `digits@3`."""
        return self.model_version.rpartition("@")[2] if self.model_version else None

    def numpy(self, dtype: Any = None) -> np.ndarray[Any, Any]:
        """The outputs as one array; raises ValueError when they are ragged or named."""
        import numpy as np

        if isinstance(self.outputs, dict):
            raise ValueError(  # noqa: TRY004 the values' fault, as for ragged ones
                f"the outputs are named ({', '.join(map(str, self.outputs))}): take one of them"
            )
        return np.asarray(self.outputs, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _UnreadableError(Exception):
    """Why nothing can be made of an answer."""


def prediction_of(
    reply: Reply, *, model: str, correlation_id: str, latency_ms: float, attempts: int = 1
) -> Prediction:
    """Read a reply; raises the PredictionError that it stands for."""
    if not 200 <= reply.status < 300:
        raise error_of(reply, model=model, correlation_id=correlation_id)
    try:
        answer = _read(reply)
    except _UnreadableError as error:
        raise PredictionFailed(
            f"{model} answered {reply.status}, and that cannot be read: {error}",
            next="see that the address is a server's: modelswitch status",
            status=reply.status,
            reason="unreadable",
            model_version=reply.headers.get("x-model-version"),
            digest=reply.headers.get("x-archive-digest"),
            correlation_id=correlation_id,
        ) from error
    named = isinstance(answer, dict) and "predictions" in answer
    return Prediction(
        outputs=answer["predictions"] if named else answer,
        model=model,
        model_version=reply.headers.get("x-model-version"),
        digest=reply.headers.get("x-archive-digest"),
        latency_ms=latency_ms,
        correlation_id=correlation_id,
        status=reply.status,
        attempts=attempts,
        answer=answer,
    )


def error_of(reply: Reply, *, model: str, correlation_id: str) -> PredictionError:
    """The error of an answer that is no success: by its status and by who said it.

    A worker says `error_code` and `message`; TorchServe's frontend `code`, `type`, `message`.
    """
    facts = _facts(reply)
    text = _text(facts) or reply.body.decode("utf-8", errors="replace").strip()[:2000] or "nothing"
    kind, reason = _judge(reply, facts)
    after = _RETRY_S.get(kind)
    if after is not None:
        after = _retry_after(reply.headers, after)
    error = kind(
        f"{model} answered {reply.status}: {text}",
        next=_ADVICE.get(kind),
        status=reply.status,
        said=text,
        reason=reason,
        retry_after_s=after,
        model_version=reply.headers.get("x-model-version"),
        digest=reply.headers.get("x-archive-digest"),
        correlation_id=correlation_id,
        facts={k: v for k, v in facts.items() if k not in ("message", "error_code", "code")},
    )
    if kind is Overloaded and reply.status == 503 and reason != _REFUSED:
        error.may_have_run = True  # a proxy's word for a connection that broke, too
    return error


_ADVICE: dict[type[PredictionError], str] = {
    NotServed: "which models and versions there are: modelswitch models",
    PredictionFailed: "what the worker printed: modelswitch logs",
    WorkerDied: "what the worker printed: modelswitch logs",
    OutOfMemory: "send less at once, or serve it with fewer workers",
    Overloaded: "if it stays so: modelswitch models says whether a version is in production",
}


def _judge(reply: Reply, facts: Mapping[str, Any]) -> tuple[type[PredictionError], str]:
    status = reply.status
    reason = str(facts.get("error_code") or facts.get("type") or f"http_{status}")
    said = str(facts.get("message", ""))
    is_frontend = "type" in facts and "error_code" not in facts
    if status == 507:
        return OutOfMemory, "out_of_memory"
    if status == 503 and facts.get("type") == "InternalServerException":
        return PredictionFailed, reason  # the handler raised; the model has run
    if status == 503 and facts.get("type") == "ServiceUnavailableException":
        # One text for both, of TorchServe's: the queue is full, or the version has no worker
        return Overloaded, _REFUSED
    if status in (429, 503):
        return Overloaded, reason
    if status == 404:
        return NotServed, reason
    if status == 500 and is_frontend and said.startswith("Worker "):
        return WorkerDied, "worker_died"  # or was not back within the response timeout
    if 400 <= status < 500:
        return BadRequest, reason
    return PredictionFailed, reason


def _facts(reply: Reply) -> dict[str, Any]:
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(facts: Mapping[str, Any]) -> str | None:
    for key in ("message", "error", "detail"):
        if isinstance(facts.get(key), str):
            return str(facts[key])
    return None


def _retry_after(headers: Mapping[str, str], default: float) -> float:
    """The header's seconds; a date would need a clock that both sides share."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return default
    return seconds if 0 <= seconds < 86_400 else default


def _read(reply: Reply) -> Any:
    """The body as its content type says; TorchServe names none for what is JSON all the same.

    Raises _UnreadableError.
    """
    if reply.status == 204:
        raise _UnreadableError("it has no content")
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == NPY:
        import numpy as np

        try:
            return np.lib.format.read_array(io.BytesIO(reply.body), allow_pickle=False)
        except Exception as error:  # of seven kinds, by what is wrong with the bytes
            raise _UnreadableError(f"it is no array in .npy: {error}") from error
    if kind == _HTML:
        raise _UnreadableError("it is a web page")
    try:
        return json.loads(reply.body)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        if kind == JSON:
            raise _UnreadableError(f"it is no JSON: {error}") from error
        return reply.body.decode("utf-8", errors="replace")
    except (ValueError, RecursionError) as error:  # too many digits in a number, or too deep
        raise _UnreadableError(f"its JSON: {str(error).partition(';')[0]}") from error
