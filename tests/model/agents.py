"""The agents: each follows the published pins on one server, one step of `plan.diff` at a time.

A server that is unreachable, or an agent that is killed, is one that takes no step for a while:
every such pause is among the interleavings, so neither needs a fault of its own. Loading and
unloading are one step each here: what races inside them is the agent's tests' matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelswitch.agent.plan import PLACEHOLDER, Activate, Known, Load, Unload, diff
from modelswitch.servers.protocol import ServedModel, ServedVersion, ServedWorker

from .book import BY_LABEL, NOTHING, SLOTS, Book, Pinned


class Server(NamedTuple):
    """`loaded`, `proven` and `bad` are bits of SLOTS. `bad` slots fail at their next load.

    `seen` is a ghost: the highest generation it has ever accepted.
    """

    accepted: int
    seen: int
    loaded: int
    proven: int
    default: int
    bad: int


class Move(NamedTuple):
    """One step of an agent; `touches` is the slot it is about."""

    what: str
    server: Server
    touches: int = NOTHING


class Agents:
    def __init__(self, book: Book) -> None:
        self.book = book
        self._moves: dict[tuple[Server, int], tuple[Move, ...]] = {}
        self._paths: dict[tuple[Server, int], tuple[tuple[Server, Move], ...]] = {}

    def moves(self, server: Server, published: int) -> tuple[Move, ...]:
        """What the agent may do next. Several steps of one plan may be taken in any order."""
        key = (server, published)
        found = self._moves.get(key)
        if found is None:
            steps = self._planned(server)
            if self.book.pins[published].generation > self.book.pins[server.accepted].generation:
                steps.insert(0, self.accept(server, published))
            found = self._moves[key] = tuple(steps)
        return found

    def _planned(self, server: Server) -> list[Move]:
        rules, pins = self.book.rules, self.book.pins[server.accepted]
        known = Known(
            proven=_labels(server.proven),
            resting=_labels(server.loaded & server.bad),
            default_proven=pins.model.default,
        )
        moves: list[Move] = []
        loads = 0
        for step in diff("m", pins.model, _served(server), known):
            bit = 1 << BY_LABEL.get(step.label, 30)
            if isinstance(step, Activate):
                default = BY_LABEL.get(step.label, NOTHING)
                moves.append(Move("activates", server._replace(default=default), default))
            elif isinstance(step, Load):
                loads += 1
                if loads > 1:  # loads take their order; their interleaving changes nothing
                    continue
                good = 0 if server.bad & bit else bit
                after = server._replace(loaded=server.loaded | bit, proven=server.proven | good)
                moves.append(Move("loads", after, BY_LABEL[step.label]))
            elif isinstance(step, Unload):
                moves.append(_unload(server, BY_LABEL[step.label]))
        return moves + [move for rule, move in _forbidden(server, pins) if rule not in rules]

    def accept(self, server: Server, pins: int) -> Move:
        seen = max(server.seen, self.book.pins[pins].generation)
        return Move("accepts", server._replace(accepted=pins, seen=seen))

    def stale(self, server: Server, ledger: int) -> list[Move]:
        """An agent that reads an old copy of the pins. Refused, so it only matters without the
        rule; copies newer than what it has are as if it had read them in time."""
        if "agent_refuses_lower_generation" in self.book.rules:
            return []
        old = [pins for pins in self.book.earlier_pins(ledger) if pins != server.accepted]
        return [self.accept(server, pins) for pins in old]

    def path(self, server: Server, published: int) -> tuple[tuple[Server, Move], ...]:
        """The steps by which the agent comes to rest when nothing disturbs it."""
        key = (server, published)
        if key not in self._paths:
            path, at = [], server
            while moves := self.moves(at, published):
                path.append((at, moves[0]))
                at = moves[0].server
            self._paths[key] = tuple(path)
        return self._paths[key]


def restarted(server: Server) -> Server:
    """TorchServe forgets everything; the agent's pins are on disk."""
    return server._replace(loaded=0, proven=0, default=NOTHING)


def _forbidden(server: Server, pins: Pinned) -> Iterator[tuple[str, Move]]:
    """What an agent would do that follows the pins without one of the rules."""
    default, wanted = server.default, pins.default
    if default != NOTHING and not pins.mask & 1 << default:
        yield "unload_never_default", _unload(server, default)
    if wanted == NOTHING or server.proven & 1 << wanted:
        return
    if server.loaded & 1 << wanted and default != wanted:
        yield "activate_only_proven", Move("activates", server._replace(default=wanted), wanted)
    if default == NOTHING:
        for back in (BY_LABEL[label] for label in pins.model.back):
            if server.proven & 1 << back:
                move = Move("activates", server._replace(default=back), back)
                yield "no_choice_of_its_own", move


def _unload(server: Server, slot: int) -> Move:
    bit = 1 << slot
    default = NOTHING if server.default == slot else server.default
    after = server._replace(
        loaded=server.loaded & ~bit, proven=server.proven & ~bit, default=default
    )
    return Move("unloads", after, slot)


def _labels(bits: int) -> frozenset[str]:
    return frozenset(slot.label for i, slot in enumerate(SLOTS) if bits & 1 << i)


def _served(server: Server) -> ServedModel | None:
    if not server.loaded:
        return None
    worker = ServedWorker("w", 1, "READY")
    versions = {
        label: ServedVersion(label, f"{label}.mar", (worker,), 1, 1)
        for label in sorted(_labels(server.loaded))
    }
    default = PLACEHOLDER if server.default == NOTHING else SLOTS[server.default].label
    return ServedModel("m", default, versions)
