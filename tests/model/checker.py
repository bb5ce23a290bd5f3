"""The search: breadth first over every state a world can reach, each checked on arrival.

Servers are interchangeable, so their states are kept sorted. From every state it is asked what
a `resume` would lead to if everybody else were killed now and every server reachable: that is
the liveness half of the protocol, and it makes every state a place to be killed at.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from modelswitch.line import Line
from modelswitch.moves.publishing import is_merged

from .agents import Agents, Move, Server, restarted
from .book import INDEX, NOTHING, SLOTS, Book, default_of, name
from .commands import END, Command, Commands, Verb, started
from .rules import ALL_RULES, Violation


@dataclass(frozen=True, slots=True)
class World:
    """`given` are the settled lines so far, `beside` those of another model; `bad[i]` what can't
    load on server i, as bits; `restarts` how often a server may forget everything, `spoils` which
    slots may, once, stop loading anywhere from then on."""

    name: str
    given: tuple[Line, ...]
    verbs: tuple[Verb, ...]
    bad: tuple[int, ...] = (0, 0)
    restarts: int = 0
    spoils: int = 0
    ways_back: int = 1
    beside: tuple[Line, ...] = ()


class State(NamedTuple):
    ledger: int
    published: int
    servers: tuple[Server, ...]
    commands: tuple[Command, ...]
    restarts: int
    spoils: int


class Successor(NamedTuple):
    who: int  # index of a command, or -1 - index of a server
    what: str
    touches: int
    state: State


@dataclass(slots=True)
class Found:
    """What a search saw. `trace` leads to the state whose next step breaks the promise, and
    `breaker` is who takes it (as in Successor); or `ending` is the resume that breaks it."""

    world: World
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = True
    violation: Violation | None = None
    trace: list[tuple[Successor | None, State]] = field(default_factory=list)
    breaker: int | None = None
    ending: list[str] = field(default_factory=list)
    book: Book | None = None


class Checker:
    def __init__(self, world: World, rules: frozenset[str] = ALL_RULES) -> None:
        self.world = world
        self.book = Book(rules, world.given, world.beside, world.ways_back)
        self.agents = Agents(self.book)
        self.commands = Commands(self.book)
        self._acting: int | None = None
        self._stories: set[tuple[int, int, tuple[Server, ...]]] = set()
        self._checked: set[tuple[int, Server, str, int]] = set()

    def initial(self) -> State:
        """At rest: what was given is published, loaded and served."""
        pins_id = self.book.ledgers[self.book.start].pins
        pins = self.book.pins[pins_id]
        servers = (
            Server(pins_id, pins.generation, pins.mask, pins.mask, pins.default, bad)
            for bad in self.world.bad
        )
        return State(
            self.book.start,
            pins_id,
            tuple(sorted(servers)),
            tuple(started(verb) for verb in self.world.verbs),
            self.world.restarts,
            self.world.spoils,
        )

    def run(self, *, max_states: int | None = None, max_seconds: float | None = None) -> Found:
        """Search until everything is seen, a promise breaks, or the budget is spent."""
        begun = time.monotonic()
        found = Found(self.world, book=self.book)
        first = self.initial()
        came_from: dict[State, State | None] = {first: None}
        layer = [first]
        at = first
        try:
            while layer:
                following: list[State] = []
                for at in layer:
                    self._acting = None
                    self.check(at)
                    for successor in self.successors(at):
                        found.transitions += 1
                        state = successor.state
                        if state not in came_from:
                            came_from[state] = at
                            following.append(state)
                    spent = max_seconds is not None and time.monotonic() - begun > max_seconds
                    if spent or (max_states is not None and len(came_from) >= max_states):
                        found.complete = False
                        following = []
                        break
                layer = following
                found.depth += bool(layer)
        except Violation as violation:
            found.violation, found.breaker = violation, self._acting
            found.trace = self._trace(came_from, at)
            found.ending = self._ending(at)
        found.states = len(came_from)
        found.seconds = time.monotonic() - begun
        return found

    def successors(self, state: State) -> Iterator[Successor]:
        """Every step that anybody, or a fault, can take; raises Violation on a forbidden one."""
        for i, command in enumerate(state.commands):
            if command is END or command == END:
                continue
            self._acting = i
            for step in self.commands.steps(
                self.world.verbs[i],
                command,
                state.ledger,
                state.published,
                state.servers,
            ):
                commands = (*state.commands[:i], step.command, *state.commands[i + 1 :])
                after = State(
                    step.ledger,
                    step.published,
                    state.servers,
                    commands,
                    state.restarts,
                    state.spoils,
                )
                yield Successor(i, step.what, NOTHING, after)
        for i, server in enumerate(state.servers):
            self._acting = -1 - i
            for move in self.agents.moves(server, state.published):
                self._check_move(state.ledger, server, move)
                yield self._moved(state, i, move)
            for move in self.agents.stale(server, state.ledger):
                yield self._moved(state, i, move._replace(what="accepts an old copy of"))
            if state.restarts and server.loaded:
                forgotten = self._moved(state, i, Move("restarts", restarted(server)))
                after = forgotten.state._replace(restarts=state.restarts - 1)
                yield forgotten._replace(state=after)
            if state.spoils & ~server.bad:
                spoilt = server._replace(bad=server.bad | state.spoils)
                after = self._moved(state, i, Move("spoils", spoilt)).state._replace(spoils=0)
                yield Successor(-1 - i, "can no longer load some slots", NOTHING, after)

    def _moved(self, state: State, i: int, move: Move) -> Successor:
        servers = tuple(sorted((*state.servers[:i], move.server, *state.servers[i + 1 :])))
        after = State(
            state.ledger,
            state.published,
            servers,
            state.commands,
            state.restarts,
            state.spoils,
        )
        return Successor(-1 - i, move.what, move.touches, after)

    def _check_move(self, ledger_id: int, server: Server, move: Move) -> None:
        key = (ledger_id, server, move.what, move.touches)
        if move.what not in ("activates", "unloads") or key in self._checked:
            return
        pins = self.book.pins[server.accepted]
        head = self.book.pinned_head(ledger_id, pins.generation)
        slot = move.touches
        if move.what == "activates":
            if head is None or default_of(head) != slot:
                raise Violation("committed")
            if slot != NOTHING and not server.proven & 1 << slot:
                raise Violation("default_serves")
            if pins.generation < server.seen and slot != NOTHING:
                quarantined = self.book.quarantined_at(ledger_id, server.seen)
                if SLOTS[slot].digest in quarantined:
                    raise Violation("quarantine")
        else:
            if slot == server.default and pins.mask:
                raise Violation("default_kept")
            if head is not None and head.target is not None and not head.planned:
                both = head.line.slots + head.target.slots
                if slot in {INDEX[s.digest] for s in both}:
                    raise Violation("one_pointer")
        self._checked.add(key)

    def check(self, state: State) -> None:
        """What must hold in every state; raises Violation."""
        if all(map(_has_finished, self.world.verbs, state.commands)):
            self._check_finished(state)
        key = (state.ledger, state.published, state.servers)
        if key not in self._stories:
            self._check_story(state)
            self._stories.add(key)

    def _check_finished(self, state: State) -> None:
        """Nothing is left open but plans: a `resume` waits for them, or is still to come."""
        ledger = self.book.ledgers[state.ledger]
        for stand in ledger.models.values():
            is_plan = stand.head.planned or (stand.seq and is_merged(ledger.rows[stand.seq - 1]))
            if stand.head.is_open and not is_plan:
                raise Violation("finished")
        is_stale = any(verb.name == "stale merge" for verb in self.world.verbs)
        if state.published not in (ledger.pins, *ledger.waiting) and not is_stale:
            raise Violation("finished")

    def _check_story(self, state: State, told: list[str] | None = None) -> None:
        """Everybody is killed, every server is reachable, somebody says `resume`.

        `told` collects what then happens, for the story of a violation.
        """
        ledger, published, servers = state.ledger, state.published, state.servers
        models = tuple(self.book.ledgers[ledger].models)
        # Twice: what is concluded of one model may overtake another's plan.
        for model in models * len(models):
            verb = Verb("resume", model=model)
            command = started(verb)
            while command != END:
                servers = tuple(self._rests(ledger, s, published, told) for s in servers)
                step = self.commands.steps(verb, command, ledger, published, servers)[0]
                command, ledger, published = step.command, step.ledger, step.published
                if told is not None:
                    told.append(f"the resume {step.what}")
        after = self.book.ledgers[ledger]
        still_open = {stand.seq for stand in after.models.values() if stand.head.is_open}
        if published != after.pins or still_open - set(after.waiting.values()):
            raise Violation("one_story")
        pins = self.book.pins[published]
        for server in servers:
            rest = self._rests(ledger, server, published, told)
            if rest.accepted != published or rest.loaded & ~pins.mask & ~_bit(rest.default):
                raise Violation("one_story")
            # What can't load keeps the old default, loudly; once it can, all is as pinned.
            healed = self._rests(ledger, rest._replace(bad=0), published, told)
            if healed.default != pins.default or healed.proven != pins.mask:
                raise Violation("one_story")

    def _rests(self, ledger: int, server: Server, published: int, told: list[str] | None) -> Server:
        """Where an agent comes to rest, its every step checked."""
        for at, move in self.agents.path(server, published):
            if told is not None:
                told.append(f"a server {move.what} {name(move.touches)}".rstrip())
            self._check_move(ledger, at, move)
            server = move.server
        return server

    def _ending(self, state: State) -> list[str]:
        """What a resume would do from here, if that is where the promise breaks."""
        told: list[str] = []
        try:
            self._check_story(state, told)
        except Violation:
            return ["everybody is killed; all servers are reachable; somebody says resume", *told]
        return []

    def _trace(
        self, came_from: dict[State, State | None], last: State
    ) -> list[tuple[Successor | None, State]]:
        states = [last]
        while (before := came_from[states[-1]]) is not None:
            states.append(before)
        states.reverse()
        trace: list[tuple[Successor | None, State]] = [(None, states[0])]
        for before, after in itertools.pairwise(states):
            step = next(s for s in self.successors(before) if s.state == after)
            trace.append((step, after))
        return trace


def _has_finished(verb: Verb, command: Command) -> bool:
    return command == END or verb.is_pipeline


def _bit(slot: int) -> int:
    return 0 if slot == NOTHING else 1 << slot
