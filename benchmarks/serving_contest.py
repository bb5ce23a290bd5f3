"""Several servers, one machine: each in turn under the same load, again and again.

While one is asked the others are stopped (SIGSTOP), so that what they do by themselves costs
nobody else. A ratio is the median of its rounds' ratios: what changes on the machine from one
round to the next changes both sides.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import psutil

from benchmarks.serving_load import Slice, Target, load

CLIENTS = (1, 8, 16)
SECONDS = 3.0
ROUNDS = 5
# The JVM compiles what is hot while it serves: before that it costs several times as much
WARM_UP_S = 40.0


class Contender(Protocol):
    """Who can be asked by so many clients for so long."""

    @property
    def name(self) -> str: ...
    def run(self, clients: int, seconds: float) -> Slice: ...


@dataclass(frozen=True)
class Server:
    """Asked over HTTP. `pid`: the process to stop, with its children, while others are asked."""

    name: str
    target: Target
    pid: int | None = None

    def run(self, clients: int, seconds: float) -> Slice:
        with self.awake():
            return load(self.target, clients, seconds)

    @contextmanager
    def awake(self) -> Iterator[None]:
        self._tell(signal.SIGCONT)
        try:
            yield
        finally:
            self._tell(signal.SIGSTOP)

    def _tell(self, what: signal.Signals) -> None:
        if self.pid is None:
            return
        process = psutil.Process(self.pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(what)


@dataclass(frozen=True)
class Results:
    """By contender and number of clients, a slice for each round."""

    slices: Mapping[tuple[str, int], Sequence[Slice]]

    def a_second(self, name: str, clients: int) -> float:
        return median(s.a_second for s in self.slices[name, clients])

    def p50_ms(self, name: str, clients: int) -> float:
        return median(s.p50_ms for s in self.slices[name, clients])

    def p95_ms(self, name: str, clients: int) -> float:
        return median(s.p95_ms for s in self.slices[name, clients])

    def faster(
        self, name: str, other: str, clients: int, other_clients: int | None = None
    ) -> float:
        """How many times as many a second."""
        others = self.slices[other, other_clients or clients]
        pairs = zip(self.slices[name, clients], others, strict=True)
        return median(one.a_second / two.a_second for one, two in pairs)

    def longer(self, name: str, other: str, clients: int) -> float:
        """How many times as long the median answer takes."""
        pairs = zip(self.slices[name, clients], self.slices[other, clients], strict=True)
        return median(one.p50_ms / two.p50_ms for one, two in pairs)


def contest(
    contenders: Sequence[Contender],
    clients: Sequence[int] = CLIENTS,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> Results:
    slices: dict[tuple[str, int], list[Slice]] = {}
    for number in range(rounds):
        # Nobody is always the one who comes after the same other
        for contender in contenders[:: -1 if number % 2 else 1]:
            for count in clients:
                slices.setdefault((contender.name, count), []).append(contender.run(count, seconds))
    return Results(slices)
