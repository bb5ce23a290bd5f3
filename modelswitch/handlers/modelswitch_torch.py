"""The torch handler: exported programs (`model.pt2`) and TorchScript (`model.pt`), on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_protocol import Invalid, Worker, logger
    from modelswitch.handlers.modelswitch_tensors import Signature
else:
    from modelswitch_protocol import Invalid, Worker, logger
    from modelswitch_tensors import Signature


@dataclass(frozen=True)
class Question:
    """One request's tensors, in the signature's order."""

    tensors: tuple[Any, ...]

    @property
    def rows(self) -> int:
        return int(self.tensors[0].shape[0])

    @property
    def row_shapes(self) -> tuple[Any, ...]:
        return tuple((tensor.dtype, tuple(tensor.shape[1:])) for tensor in self.tensors)


# As for golden answers: how far an answer may be from what the request alone would get.
_RTOL, _ATOL = 1e-4, 1e-5


class TorchModel:
    """Requests of one batch share a pass only if, at load, the model was seen to keep rows apart.

    A model that mixes its rows (a softmax or a mean over the first axis) would answer one caller
    out of another's data; it is asked one by one, whatever the batch size.
    """

    def __init__(self) -> None:
        self.signature = Signature((), False)
        self.module: Any = None
        self.joins = False

    def load(self, folder: Path, document: dict[str, Any]) -> None:
        torch.set_num_threads(document["recipe"]["threads"])
        self.signature = Signature.of(document["signature"]["inputs"])
        if (folder / "model.pt2").exists():
            program = torch.export.load(folder / "model.pt2")
            for index, shape in enumerate(_fixed_shapes(program)):
                self.signature = self.signature.narrowed(index, shape)
            self.module = program.module()
        else:
            self.module = torch.jit.load(str(folder / "model.pt"), map_location="cpu").eval()
        if document["recipe"]["batch_size"] > 1:
            golden = document["golden"]
            self.joins = bool(golden) and self._keeps_rows_apart(self.decode(golden["request"]))
            if not self.joins:
                logger.warning("requests are answered one by one: rows were not seen to be apart")

    def decode(self, body: dict[str, Any]) -> Question:
        return Question(tuple(torch.from_numpy(array) for array in self.signature.read(body)))

    def predict(self, questions: list[Question]) -> list[Any]:
        outputs: list[Any] = [None] * len(questions)
        for group in self._groups(questions):
            answers = self._together([questions[i] for i in group]) if len(group) > 1 else None
            for place, i in enumerate(group):
                outputs[i] = answers[place] if answers else self._alone(questions[i])
        return outputs

    def encode(self, question: Question, output: Any) -> Any:
        """Nested lists; for a model of columns rows of `{"0": …}`, as MLflow's DataFrame gives."""
        if isinstance(output, torch.Tensor):
            values = output.tolist()
            if self.signature.is_table and 1 <= output.ndim <= 2:
                rows = [row if isinstance(row, list) else [row] for row in values]
                return [{str(i): cell for i, cell in enumerate(row)} for row in rows]
            return values
        if isinstance(output, dict):
            return {str(name): self.encode(question, value) for name, value in output.items()}
        if isinstance(output, tuple | list):
            return [self.encode(question, value) for value in output]
        return output

    def _groups(self, questions: list[Question]) -> list[list[int]]:
        """Which requests may share a pass: those that differ in their number of rows alone."""
        if not self.joins:
            return [[i] for i in range(len(questions))]
        groups: dict[Any, list[int]] = {}
        for i, question in enumerate(questions):
            groups.setdefault(question.row_shapes, []).append(i)
        return list(groups.values())

    def _keeps_rows_apart(self, question: Question) -> bool:
        """Whether three different questions get together what each gets alone."""
        if not all(spec.shape and spec.shape[0] == -1 for spec in self.signature.specs):
            return False
        flipped = Question(tuple(t.flip(t.ndim - 1) for t in question.tensors))
        zeros = Question(tuple(torch.zeros_like(t) for t in question.tensors))
        questions = [question, flipped, zeros]
        together = self._together(questions)
        alone = [self._alone(q) for q in questions]
        return together is not None and all(
            isinstance(a, torch.Tensor) and a.shape == t.shape and _is_close(a, t)
            for a, t in zip(alone, together, strict=True)
        )

    def _together(self, questions: list[Question]) -> list[Any] | None:
        """One pass for all, or None when that does not work out: then each goes alone."""
        joined = tuple(
            torch.cat(parts) for parts in zip(*(q.tensors for q in questions), strict=True)
        )
        output = self._alone(Question(joined))
        rows = [question.rows for question in questions]
        if isinstance(output, torch.Tensor) and output.ndim and len(output) == sum(rows):
            return list(torch.split(output, rows))
        return None

    def _alone(self, question: Question) -> Any:
        try:
            with torch.inference_mode():
                return self.module(*question.tensors)
        except AssertionError as error:  # an exported program's guards on its inputs' shapes
            return Invalid(422, f"the model does not take these inputs: {error}")
        except Exception as error:  # noqa: BLE001 - one bad request spoils nothing for the others
            return error


def _is_close(one: Any, other: Any) -> bool:
    if not one.is_floating_point():
        return bool(torch.equal(one, other))
    return bool(torch.allclose(one, other, rtol=_RTOL, atol=_ATOL, equal_nan=True))


def _fixed_shapes(program: Any) -> list[tuple[int, ...]]:
    """The lengths each input was exported with; -1 where the program takes any."""
    shapes = {
        node.name: tuple(n if isinstance(n, int) else -1 for n in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and hasattr(node.meta.get("val"), "shape")
    }
    return [shapes.get(name, ()) for name in program.graph_signature.user_inputs]


handle = Worker(TorchModel())
