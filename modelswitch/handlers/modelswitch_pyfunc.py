"""The pyfunc handler: whatever MLflow can load, asked as MLflow's own server asks it.

The request is checked by ourselves, and what the flavor loaded is then called as MLflow's
`PyFuncModel.predict` calls it once its own check is done. Signatures of lists, objects, maps,
bytes and type hints are left to MLflow's check.
"""

from __future__ import annotations

import copy
import inspect
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_forms import parsed
    from modelswitch.handlers.modelswitch_frames import Frame
    from modelswitch.handlers.modelswitch_protocol import (
        Invalid,
        Request,
        Worker,
        limit_threads,
        refusal_of,
    )
    from modelswitch.handlers.modelswitch_tensors import Signature
else:
    from modelswitch_forms import parsed
    from modelswitch_frames import Frame
    from modelswitch_protocol import Invalid, Request, Worker, limit_threads, refusal_of
    from modelswitch_tensors import Signature

_LONGEST = 1000  # MLflow's messages repeat the whole request


@dataclass(frozen=True)
class Question:
    data: Any
    params: dict[str, Any] | None


class PyfuncModel:
    def __init__(self) -> None:
        self.model: Any = None
        self.function: Any = None  # None: the check is MLflow's
        self.takes_params = False
        self.frame: Frame | None = None
        self.tensors: Signature | None = None
        self.params_schema: Any = None

    def load(self, folder: Path, document: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import pyfunc

        # `needs` has judged versions already
        self.model = pyfunc.load_model(str(folder / "model"), suppress_warnings=True)
        limit_threads(document["recipe"]["threads"])
        metadata = self.model.metadata
        self.params_schema = metadata.get_params_schema()
        if metadata._is_signature_from_type_hint() or metadata._is_type_hint_from_example():
            return
        inputs = document["signature"]["inputs"]
        if all(_is_number_tensor(spec) for spec in inputs):
            self.tensors = Signature.of(inputs, nullable=True)
        else:
            self.frame = Frame.of(inputs)
            if self.frame is None:
                return
        name = metadata.flavors[pyfunc.FLAVOR_NAME].get("predict_fn", "predict")
        self.function = getattr(self.model._model_impl, name)
        taken = inspect.signature(self.function).parameters.get("params")
        self.takes_params = taken is not None and taken.kind != inspect.Parameter.VAR_KEYWORD

    def decode(self, request: Request) -> Question:
        if self.frame is not None:
            data, params = self.frame.read(request)
        elif self.tensors is not None:
            arrays, params = self.tensors.read_with_params(request)
            names = [spec.name for spec in self.tensors.specs]
            data = arrays[0] if names[0] is None else dict(zip(names, arrays, strict=True))
        else:
            data, params = self._by_mlflow(request)
        return Question(data, self._params(params))

    def _by_mlflow(self, request: Request) -> tuple[Any, dict[str, Any]]:
        """As MLflow's server reads it, whatever of it is wrong."""
        from mlflow.models import validate_schema
        from mlflow.pyfunc.scoring_server import infer_and_parse_data

        if request.is_binary:
            raise Invalid(415, f"the model takes JSON, not {request.content_type}")
        body = dict(request.body)
        form, _, params = parsed(body)
        if self.model.metadata._is_signature_from_type_hint():
            if form != "inputs":
                raise Invalid(422, f"a model of type hints takes inputs, not {form}")
            return body["inputs"], params
        schema = self.model.metadata.get_input_schema()
        try:
            data = infer_and_parse_data({form: body[form]}, schema)
            validate_schema(data, schema)
        except Exception as error:
            raise Invalid(422, f"{error}"[:_LONGEST], expected=schema.to_dict()) from error
        return data, params

    def _params(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """By the signature's own, its defaults where nothing was given."""
        from mlflow.exceptions import MlflowException

        specs = {spec.name: spec for spec in self.params_schema or ()}
        if unknown := sorted(given.keys() - specs.keys()):
            takes = ", ".join(f"{s.name} ({s.dtype}, {s.default})" for s in specs.values())
            raise Invalid(
                422, f"this model takes {takes or 'no params'}; found {unknown[:10]} in params"
            )
        if not specs:
            return None
        found = {}
        for name, spec in specs.items():
            if name not in given:
                found[name] = copy.deepcopy(spec.default)
                continue
            try:
                found[name] = spec.validate_param_spec(given[name], spec)
            except MlflowException as error:
                raise Invalid(422, f"the param {name!r}: {error.message}"[:_LONGEST]) from error
        return found

    def predict(self, questions: list[Question]) -> list[Any]:
        return [self._alone(question) for question in questions]

    def _alone(self, question: Question) -> Any:
        try:
            if self.function is None:
                return self.model.predict(question.data, question.params)
            if self.takes_params:
                return self.function(question.data, params=question.params)
            return self.function(question.data)
        except Exception as error:  # noqa: BLE001 - one bad request spoils nothing for the others
            return refusal_of(error) or _mlflows(error) or error

    def encode(self, question: Question, output: Any) -> Any:
        """As MLflow's server writes it."""
        if isinstance(output, np.ndarray) and not output.dtype.hasobject:
            return output.tolist()
        from mlflow.pyfunc.scoring_server import predictions_to_json

        answer = io.StringIO()
        predictions_to_json(output, answer)
        return json.loads(answer.getvalue())["predictions"]

    def array(self, question: Question, output: Any) -> Any:
        found = np.asarray(output)
        if found.dtype.kind not in "biuf":
            raise Invalid(406, "the answer is not one array of numbers: ask for JSON")
        return found


def _is_number_tensor(spec: dict[str, Any]) -> bool:
    return spec["type"] == "tensor" and np.dtype(spec["tensor-spec"]["dtype"]).kind in "biuf"


def _mlflows(error: Exception) -> Invalid | None:
    """What a flavor says of the data it was handed is the caller's to mend."""
    code = getattr(error, "error_code", None)
    if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
        return Invalid(422, str(error)[:_LONGEST])
    return None


handle = Worker(PyfuncModel())
