"""The plan of one pass, on simulated servers in any state: safe in each step, and done soon."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelswitch.agent import plan
from modelswitch.agent.plan import (
    PLACEHOLDER,
    STANDIN,
    Activate,
    Cancel,
    Known,
    Load,
    Prove,
    Scale,
    Shrink,
    Step,
    Unload,
)
from modelswitch.pins import PinnedModel, PinnedSlot
from modelswitch.servers.protocol import READY, ServedModel, ServedVersion, ServedWorker

MODEL = "digits"
DIGESTS = {f"{n}-{n}{n}{n}{n}{n}{n}{n}{n}": "sha256:" + str(n) * 64 for n in range(1, 6)}
LABELS = sorted(DIGESTS)
MANY = 12  # passes, each with one load or unload done: more than there are labels


@dataclass
class Server:
    """What a server holds: workers wanted and ready for each label, and the default."""

    default: str | None = None
    wanted: dict[str, int] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)

    @property
    def served(self) -> ServedModel | None:
        if not self.wanted:
            return None
        return ServedModel(MODEL, self.default, {x: self._version(x) for x in self.wanted})

    def _version(self, label: str) -> ServedVersion:
        count = self.ready.get(label, 0)
        workers = tuple(ServedWorker(str(n), n, READY) for n in range(count))
        return ServedVersion(label, f"{label}.mar", workers, max_workers=self.wanted[label])

    def load(self, label: str, workers: int) -> None:
        if self.default is None:
            self.wanted[PLACEHOLDER], self.default = 0, PLACEHOLDER
        self.wanted[label] = self.ready[label] = workers

    def unload(self, label: str) -> None:
        self.wanted.pop(label)
        self.ready.pop(label, None)
        if label == self.default:
            assert not self.wanted, "TorchServe refuses to unload the default while others stand"
            self.default = None


@st.composite
def pins(draw: st.DrawFn) -> PinnedModel:
    labels = draw(st.lists(st.sampled_from(LABELS), unique=True, max_size=4))
    default = draw(st.sampled_from([None, *labels]))
    back = [label for label in labels if label != default and default and draw(st.booleans())]
    slots = {
        label: PinnedSlot(digest=DIGESTS[label], workers=draw(st.integers(1, 3)))
        for label in labels
    }
    return PinnedModel(default=default, back=tuple(back), slots=slots)


@st.composite
def servers(draw: st.DrawFn) -> Server:
    labels = draw(st.lists(st.sampled_from([*LABELS, PLACEHOLDER]), unique=True))
    if not labels:
        return Server()
    ready = {label: draw(st.integers(0, 3)) for label in labels if label != PLACEHOLDER}
    wanted = {label: max(1, count) for label, count in ready.items()}
    wanted |= {label: 0 for label in labels if label == PLACEHOLDER}
    return Server(draw(st.sampled_from(labels)), wanted, ready)


@st.composite
def memories(draw: st.DrawFn, server: Server) -> Known:
    """What an agent may remember, whether it still holds or not; nothing is two things at once."""
    some = st.frozensets(st.sampled_from(LABELS), max_size=3)
    proven, loading, unloading = draw(some), draw(some), draw(some)
    return Known(
        proven=proven - loading - unloading,
        resting=draw(some) - loading,
        loading=loading,
        unloading=unloading - loading,
        default_proven=draw(st.sampled_from([None, server.default])),
        hold_candidates=draw(st.booleans()),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[PinnedModel, Server, Known]:
    server = draw(servers())
    return draw(pins()), server, draw(memories(server))


def of(kind: type, steps: list[Step]) -> list[str]:
    return [step.label for step in steps if isinstance(step, kind)]


@given(situations())
def test_what_is_default_is_unloaded_only_as_the_last_of_a_model_that_goes_whole(
    situation: tuple[PinnedModel, Server, Known],
) -> None:
    wanted, server, known = situation
    steps = plan.diff(MODEL, wanted, server.served, known)
    if server.default in of(Unload, steps):
        assert not wanted.slots
        assert set(server.wanted) == {server.default}
    assert not set(of(Unload, steps)) & set(wanted.slots)


@given(situations())
def test_only_what_is_proven_here_and_ready_is_activated(
    situation: tuple[PinnedModel, Server, Known],
) -> None:
    wanted, server, known = situation
    for label in of(Activate, plan.diff(MODEL, wanted, server.served, known)):
        if label == PLACEHOLDER:
            assert wanted.default is None
        else:
            assert label == wanted.default
            assert label in known.proven
            assert server.ready[label] > 0


@given(situations())
def test_the_pointer_comes_before_whatever_may_delay_it(
    situation: tuple[PinnedModel, Server, Known],
) -> None:
    wanted, server, known = situation
    steps = [s for s in plan.diff(MODEL, wanted, server.served, known) if not isinstance(s, Cancel)]
    kinds = [isinstance(step, Activate | Prove) for step in steps]
    assert kinds == sorted(kinds, reverse=True)


@given(situations())
def test_a_label_is_never_loaded_and_unloaded_at_once_nor_a_second_time(
    situation: tuple[PinnedModel, Server, Known],
) -> None:
    wanted, server, known = situation
    steps = plan.diff(MODEL, wanted, server.served, known)
    begun = of(Load, steps) + of(Unload, steps)
    assert len(begun) == len(set(begun))
    assert not set(begun) & (known.loading | known.unloading | known.resting & set(wanted.slots))
    assert set(of(Cancel, steps)) <= known.loading | known.unloading


@given(situations())
def test_the_default_is_loaded_first_and_alone_while_others_are_held(
    situation: tuple[PinnedModel, Server, Known],
) -> None:
    wanted, server, known = situation
    loads = of(Load, plan.diff(MODEL, wanted, server.served, known))
    if wanted.default in loads:
        assert loads[0] == wanted.default
    if known.hold_candidates:
        assert set(loads) <= {wanted.default}
    backs = [label for label in loads if label in wanted.back]
    others = [label for label in loads if label not in (wanted.default, *wanted.back)]
    assert [x for x in loads if x != wanted.default] == backs + others


@pytest.mark.parametrize("forgets", [False, True], ids=["steadily", "agent restarts midway"])
@given(pins(), servers())
def test_it_comes_to_an_end_at_what_is_pinned(
    forgets: bool, wanted: PinnedModel, server: Server
) -> None:
    proven: set[str] = set()
    default_proven: str | None = None
    for count in range(MANY):
        if forgets and count == 3:
            proven, default_proven = set(), None
        if default_proven != server.default:
            default_proven = None
        known = Known(
            proven=frozenset(proven & set(server.wanted)),
            default_proven=default_proven,
            hold_candidates=wanted.default is not None and wanted.default not in proven,
        )
        steps = plan.diff(MODEL, wanted, server.served, known)
        if not steps and not forgets:
            break
        slow_done = False
        for step in steps:
            match step:
                case Activate(_, label):
                    server.wanted.setdefault(label, 0)
                    server.default, default_proven = label, None
                case Prove(_, label, digest):
                    assert digest == DIGESTS[label]
                    default_proven = label
                case Scale(_, label, workers):
                    assert workers > server.wanted[label]
                    server.wanted[label] = server.ready[label] = workers
                case Shrink(_, label, slot, is_default) if not slow_done:
                    assert is_default == (server.default == label)
                    server.wanted[label] = server.ready[label] = slot.workers
                    slow_done = True
                case Load(_, label, slot) if not slow_done:
                    # After a restart of the agent it may stand there with more workers.
                    server.load(label, max(slot.workers, server.wanted.get(label, 0)))
                    proven.add(label)
                    slow_done = True
                case Unload(_, label) if not slow_done:
                    server.unload(label)
                    proven.discard(label)
                    slow_done = True
    assert steps == []
    held = {label: n for label, n in server.wanted.items() if label != PLACEHOLDER}
    assert held == {label: slot.workers for label, slot in wanted.slots.items()}
    assert server.default in ((wanted.default,) if wanted.default else (None, PLACEHOLDER))


def test_a_slot_that_is_wanted_again_is_not_unloaded_any_further() -> None:
    label = LABELS[0]
    wanted = PinnedModel(default=None, slots={label: PinnedSlot(digest=DIGESTS[label], workers=1)})
    server = Server(PLACEHOLDER, {PLACEHOLDER: 0, label: 1}, {label: 1})
    known = replace(Known(), unloading=frozenset({label}))
    assert plan.diff(MODEL, wanted, server.served, known) == [Cancel(MODEL, label)]


ONE, TWO = LABELS[:2]


def shrinking(
    server: Server, known: Known, *, workers: int = 1, default: str | None = ONE
) -> list[Step]:
    slots = {x: PinnedSlot(digest=DIGESTS[x], workers=workers) for x in (ONE, TWO)}
    wanted = PinnedModel(default=default, slots=slots)
    return plan.diff(MODEL, wanted, server.served, known)


def a_shrink(label: str, *, is_default: bool) -> Shrink:
    return Shrink(MODEL, label, PinnedSlot(digest=DIGESTS[label], workers=1), is_default)


PROVEN = Known(proven=frozenset({ONE, TWO}), default_proven=ONE)


def test_a_model_that_goes_whole_stops_answering_before_it_is_drained() -> None:
    label = LABELS[0]
    nothing = PinnedModel(default=None, back=(), slots={})
    server = Server(label, {label: 1}, {label: 1})
    assert plan.diff(MODEL, nothing, server.served, Known()) == [
        Activate(MODEL, PLACEHOLDER),
        Unload(MODEL, label),
    ]


def test_fewer_workers_are_a_slow_step_of_their_own() -> None:
    server = Server(ONE, {ONE: 3, TWO: 2}, {ONE: 3, TWO: 2})
    assert shrinking(server, PROVEN) == [
        a_shrink(ONE, is_default=True),
        a_shrink(TWO, is_default=False),
    ]


def test_a_shrinking_slot_and_what_stands_in_for_it_are_left_alone() -> None:
    standin = ONE + STANDIN
    server = Server(ONE, {ONE: 3, TWO: 1, standin: 1}, {ONE: 3, TWO: 1, standin: 1})
    under_way = frozenset({a_shrink(ONE, is_default=True)})
    known = replace(PROVEN, shrinking=under_way, kept=frozenset({standin}))
    assert shrinking(server, known) == []


def test_shrinking_is_given_up_when_the_pins_have_moved_on() -> None:
    server = Server(ONE, {ONE: 3, TWO: 1}, {ONE: 3, TWO: 1})
    known = replace(PROVEN, shrinking=frozenset({a_shrink(ONE, is_default=True)}))
    moved = shrinking(server, known, default=TWO)
    assert moved[:2] == [Cancel(MODEL, ONE), Activate(MODEL, TWO)]
    assert of(Shrink, moved) == []
    assert shrinking(server, known, workers=3)[0] == Cancel(MODEL, ONE)


def test_what_was_left_standing_in_makes_way_before_anything_shrinks_again() -> None:
    standin = ONE + STANDIN
    server = Server(standin, {ONE: 3, TWO: 1, standin: 1}, {ONE: 3, TWO: 1, standin: 1})
    back = shrinking(server, PROVEN)
    assert back == [Activate(MODEL, ONE), Prove(MODEL, ONE, DIGESTS[ONE])]
    server.default = ONE
    assert shrinking(server, PROVEN) == [Unload(MODEL, standin)]


def test_what_could_not_shrink_rests() -> None:
    server = Server(ONE, {ONE: 3, TWO: 1}, {ONE: 3, TWO: 1})
    assert shrinking(server, replace(PROVEN, unshrinkable=frozenset({ONE}))) == []
