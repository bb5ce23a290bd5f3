"""What engines of arrays have in common: reading, sharing a pass, answering as MLflow would.

An engine says how it is loaded and what it makes of the arrays of one request; numpy arrays go
in and come out. Requests of one batch share a pass only if, at load, the model was seen to keep
rows apart: one that mixes them (a softmax or a mean over the first axis) would answer one caller
out of another's data, so it is asked one by one, whatever the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_images import Images
    from modelswitch.handlers.modelswitch_protocol import Invalid, Request, logger
    from modelswitch.handlers.modelswitch_tensors import Array, Signature
else:
    from modelswitch_protocol import Invalid, Request, logger
    from modelswitch_tensors import Array, Signature


@dataclass(frozen=True)
class Question:
    """One request's arrays, in the signature's order."""

    arrays: tuple[Array, ...]

    @property
    def rows(self) -> int:
        return len(self.arrays[0])

    @property
    def row_shapes(self) -> tuple[Any, ...]:
        return tuple((array.dtype, array.shape[1:]) for array in self.arrays)


# As for golden answers: how far an answer may be from what the request alone would get.
_RTOL, _ATOL = 1e-4, 1e-5


class ArrayModel:
    """An engine is a subclass that has `load_engine` and `run`.

    `table_dtype` is that of the one matrix which named columns become; None: what holds them all.
    """

    table_dtype: Any = None
    nullable = False  # whether null may stand where a fraction would

    def __init__(self) -> None:
        self.signature = Signature((), False)
        self.images: Images | None = None
        self.takes_pixels = False  # of images: what it runs begins with pixels, uint8
        self.joins = False

    def load_engine(self, folder: Path, document: dict[str, Any]) -> None:
        """Load from an extracted archive; may narrow the signature."""
        raise NotImplementedError

    def run(self, arrays: tuple[Array, ...]) -> Any:
        """One pass: an array, or a dict, list or tuple of arrays; raises what the model raises."""
        raise NotImplementedError

    def load(self, folder: Path, document: dict[str, Any]) -> None:
        recipe = document["recipe"]
        self.signature = Signature.of(
            document["signature"]["inputs"], self.table_dtype, nullable=self.nullable
        )
        if recipe["input"] == "image":
            # Here, since it needs Pillow, which no other model does.
            self.images = import_module("modelswitch_images").Images(recipe["image"])
        self.load_engine(folder, document)
        if recipe["batch_size"] > 1:
            golden = document["golden"]
            asked = self.decode(Request(golden["request"])) if golden else None
            self.joins = asked is not None and self._keeps_rows_apart(asked)
            if not self.joins:
                logger.warning("requests are answered one by one: rows were not seen to be apart")

    def decode(self, request: Request) -> Question:
        if self.images is not None:
            pictures = self.images.read(request)
            if len(self.signature.specs) == 1:
                self.images.check(pictures.shape, self.signature.specs[0].shape)
            return Question((pictures,))
        return Question(tuple(self.signature.read(request)))

    def predict(self, questions: list[Question]) -> list[Any]:
        outputs: list[Any] = [None] * len(questions)
        for group in self._groups(questions):
            answers = self._together([questions[i] for i in group]) if len(group) > 1 else None
            for place, i in enumerate(group):
                outputs[i] = answers[place] if answers else self._alone(questions[i])
        return outputs

    def encode(self, question: Question, output: Any) -> Any:
        """Nested lists, or labels for images."""
        if self.images is not None:
            return self.images.answer(output)
        if isinstance(output, np.ndarray):
            return output.tolist()
        if isinstance(output, dict):
            return {str(name): self.encode(question, value) for name, value in output.items()}
        if isinstance(output, tuple | list):
            return [self.encode(question, value) for value in output]
        return output

    def array(self, question: Question, output: Any) -> Array:
        """The one array of an answer; raises Invalid when there are several."""
        if self.images is not None:
            return self.images.scores(output)
        values = list(output.values()) if isinstance(output, dict) else output
        if isinstance(values, list | tuple) and len(values) == 1:
            values = values[0]
        if not isinstance(values, np.ndarray) or values.dtype.hasobject:
            raise Invalid(406, "the answer is not one array of numbers: ask for JSON")
        return values

    def _groups(self, questions: list[Question]) -> list[list[int]]:
        """Which requests may share a pass: those that differ in their number of rows alone."""
        if not self.joins:
            return [[i] for i in range(len(questions))]
        groups: dict[Any, list[int]] = {}
        for i, question in enumerate(questions):
            # Inputs with other numbers of rows among each other, which a model may broadcast,
            # would stand beside somebody else's.
            is_even = len({len(array) for array in question.arrays}) == 1
            groups.setdefault(question.row_shapes if is_even else i, []).append(i)
        return list(groups.values())

    def _keeps_rows_apart(self, question: Question) -> bool:
        """Whether three different questions get together what each gets alone."""
        if self.images is None and not all(
            spec.shape and spec.shape[0] == -1 for spec in self.signature.specs
        ):
            return False
        flipped = Question(tuple(np.ascontiguousarray(a[..., ::-1]) for a in question.arrays))
        zeros = Question(tuple(np.zeros_like(a) for a in question.arrays))
        questions = [question, flipped, zeros]
        together = self._together(questions)
        alone = [self._alone(q) for q in questions]
        return together is not None and all(
            _is_close(a, t) for a, t in zip(alone, together, strict=True)
        )

    def _together(self, questions: list[Question]) -> list[Any] | None:
        """One pass for all, or None when that does not work out: then each goes alone."""
        joined = tuple(
            np.concatenate(parts) for parts in zip(*(q.arrays for q in questions), strict=True)
        )
        return _apart(self._alone(Question(joined)), [question.rows for question in questions])

    def _alone(self, question: Question) -> Any:
        arrays = question.arrays
        try:
            if self.images is not None and not self.takes_pixels:
                arrays = (self.images.normalised(arrays[0]),)
            return self.run(arrays)
        except Exception as error:  # noqa: BLE001 - one bad request spoils nothing for the others
            return error


def rows_by_place(output: Array) -> Any:
    """Rows of `{"0": …}`, as MLflow's torch flavor answers a table; (n,) and (n, k) have such."""
    values = output.tolist()
    if not 1 <= output.ndim <= 2:
        return values
    rows = [row if isinstance(row, list) else [row] for row in values]
    return [{str(i): cell for i, cell in enumerate(row)} for row in rows]


def _apart(output: Any, rows: list[int]) -> list[Any] | None:
    """The output of a joint pass, cut by the rows of each request; None where it has others."""
    if isinstance(output, np.ndarray):
        if not output.ndim or len(output) != sum(rows):
            return None
        return np.split(output, np.cumsum(rows)[:-1])
    if isinstance(output, dict):
        parts = {name: _apart(value, rows) for name, value in output.items()}
        if not parts or any(part is None for part in parts.values()):
            return None
        return [
            {name: part[i] for name, part in parts.items() if part is not None}
            for i in range(len(rows))
        ]
    if isinstance(output, list | tuple) and output:  # probabilities of several outputs, say
        several = [_apart(value, rows) for value in output]
        if not any(part is None for part in several):
            return [[part[i] for part in several if part is not None] for i in range(len(rows))]
    return None


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=_RTOL, atol=_ATOL, equal_nan=True))
