"""Whether servers can hold what a move asks of them: memory, cores, GPUs. Pure.

Memory is summed over all slots of a server, whatever their model; cores are those of the moved
slot alone, since slots rarely compute at once. What is not known is left out of a sum, and named
by `unknown`: a guess would refuse what fits, or let in what does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelswitch.errors import Refused
from modelswitch.reports import Capacity

_TERMS = 6  # of a sum are told one by one, the largest first


@dataclass(frozen=True, slots=True)
class Ask:
    """What one slot asks of a server. `memory_bytes`: of one worker; None: nobody knows."""

    model: str
    version: str
    digest: str
    workers: int
    memory_bytes: int | None = None
    threads: int | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def total_bytes(self) -> int:
        return self.workers * (self.memory_bytes or 0)

    @property
    def cores(self) -> int:
        """0 where nobody knows."""
        return self.workers * (self.threads or 0)


@dataclass(frozen=True, slots=True)
class Machine:
    """One server, and what it holds before and after. A capacity of 0 cores was not told.

    `alike`: how many others are as it is.
    """

    name: str
    capacity: Capacity
    before: tuple[Ask, ...]
    after: tuple[Ask, ...]
    alike: int = 0


def refuse_misfit(
    machines: Iterable[Machine], model: str, digest: str, *, overcommit: bool = False
) -> None:
    """Raise Refused, with the sum, where a server cannot hold what the move of `digest` asks.

    A move that asks for no more than stands is never refused. `overcommit` lets memory and cores
    be exceeded, never a GPU that is not there.
    """
    found = [
        (why, machine.alike)
        for machine in machines
        if (why := _misfit(machine, model, digest, overcommit)) is not None
    ]
    if not found:
        return
    name, what, can_overcommit = found[0][0]
    others = len(found) - 1 + sum(alike for _, alike in found)
    more = f" (and {others} more like it)" if others else ""
    advice = "fewer workers, a pool of larger servers"
    raise Refused(
        f"{name} does not fit: {what}{more}. Nothing was changed.",
        next=f"{advice}, or --overcommit" if can_overcommit else advice,
    )


def unknown(machines: Iterable[Machine]) -> tuple[str, ...]:
    """The slots that no sum of memory could count, each once."""
    names = (a.name for m in machines for a in m.after if a.memory_bytes is None)
    return tuple(dict.fromkeys(names))


def memory_sum(machines: Iterable[Machine]) -> str | None:
    """`digits@3: 4 workers × 520 MB = 2.1 GB, server a has 2.0 GB`: of the one that is fullest."""
    told = [m for m in machines if m.capacity.memory_bytes and any(a.total_bytes for a in m.after)]
    if not told:
        return None
    return _against(max(told, key=lambda m: _memory(m.after) / m.capacity.memory_bytes))


def amount(count: float) -> str:
    """`520 MB`, `3.0 GB`, in powers of ten as memory is sold."""
    if count < 1e9:
        return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB"


def _misfit(
    machine: Machine, model: str, digest: str, overcommit: bool
) -> tuple[str, str, bool] | None:
    """The moved slot's name, what it exceeds, and whether it may."""
    has = machine.capacity
    moved = next((a for a in machine.after if (a.model, a.digest) == (model, digest)), None)
    if moved is None:
        return None
    if has.cores and (why := _lacks_gpu(moved, has)):
        return moved.name, f"it wants {why}, server {machine.name} has {has.gpus}", False
    if overcommit:
        return None
    if has.memory_bytes < _memory(machine.after) > _memory(machine.before) and has.memory_bytes:
        return moved.name, _against(machine), True
    cores_before = max((a.cores for a in machine.before if a.model == model), default=0)
    if has.cores and moved.cores > max(has.cores, cores_before):
        threads = f"{moved.threads} thread{'' if moved.threads == 1 else 's'}"
        why = f"{_workers(moved.workers)} × {threads} = {moved.cores} cores"
        fit = _workers(has.cores // (moved.threads or 1))
        return moved.name, f"{why}, server {machine.name} has {has.cores}, for {fit}", True
    return None


def _lacks_gpu(ask: Ask, has: Capacity) -> str | None:
    kind, _, number = ask.device.partition(":")
    if kind != "gpu" or int(number or 0) < has.gpus:
        return None
    return f"GPU {number} (they are counted from 0)" if number else "a GPU"


def _memory(asks: Iterable[Ask]) -> int:
    return sum(a.total_bytes for a in asks)


def _against(machine: Machine) -> str:
    has = amount(machine.capacity.memory_bytes)
    return f"{_sum(machine)}, server {machine.name} has {has}"


def _sum(machine: Machine) -> str:
    """`digits@3: 4 workers × 520 MB + faces@1: 2 × 480 MB = 3.0 GB`."""
    known = sorted((a for a in machine.after if a.total_bytes), key=lambda a: -a.total_bytes)
    terms = [_term(ask, first=not n) for n, ask in enumerate(known[:_TERMS])]
    if rest := known[_TERMS:]:
        terms.append(f"{len(rest)} more: {amount(sum(a.total_bytes for a in rest))}")
    return f"{' + '.join(terms)} = {amount(sum(a.total_bytes for a in known))}"


def _term(ask: Ask, *, first: bool) -> str:
    count = _workers(ask.workers) if first else str(ask.workers)
    return f"{ask.name}: {count} × {amount(ask.memory_bytes or 0)}"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def cost(asks: Sequence[Ask]) -> str:
    """What slots cost on one server, for people: `2 × 520 MB = 1.0 GB`, or that it is unknown."""
    if not asks or any(a.memory_bytes is None for a in asks):
        return "memory not measured"
    if len(asks) == 1:
        each = f"{asks[0].workers} × {amount(asks[0].memory_bytes or 0)}"
        return f"{each} = {amount(asks[0].total_bytes)}"
    return amount(sum(a.total_bytes for a in asks))
