"""What `diff` says: never an advice that would make things worse."""

from __future__ import annotations

from datetime import UTC, datetime

from modelswitch import overview
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import BREAK_GLASS, Pins, render
from modelswitch.reports import ModelReport, Proof, Report, SlotReport, State

NOW = datetime(2026, 1, 31, tzinfo=UTC)
GOOD = Slot("1", "sha256:" + "a" * 64)
BAD = Slot("2", "sha256:" + "b" * 64)


def pins(*serving: Slot, generation: int, epoch: str = "main") -> Pins:
    heads = {"digits": Head(Kind.SETTLED, Line(serving))}
    return render(heads, deployment="local", generation=generation, epoch=epoch)


def report(*serving: Slot, generation: int) -> Report:
    slots = {slot.label: SlotReport(state=State.PROVEN, workers=1) for slot in serving}
    proof = Proof(digest=serving[0].digest, at=NOW, latency_ms=1.0)
    model = ModelReport(default=serving[0].label, proof=proof, slots=slots)
    return Report(
        server="a",
        boot_id="x",
        at=NOW,
        heartbeat_at=NOW,
        generation=generation,
        models={"digits": model},
    )


def test_a_break_glass_rollback_is_to_be_recorded_and_not_to_be_outranked() -> None:
    wanted = pins(BAD, GOOD, generation=7)
    published = pins(GOOD, generation=8, epoch=BREAK_GLASS + "x")

    found = overview.differences(wanted, published, [report(GOOD, generation=8)], {}, NOW)

    assert [(d.kind, d.fix) for d in found] == [("pins", "modelswitch resume records it")]
    assert "break-glass rollback of digits" in found[0].found


def test_pins_that_somebody_else_wrote_above_the_ledger_are_to_be_outranked() -> None:
    wanted = pins(BAD, GOOD, generation=7)

    found = overview.differences(wanted, pins(GOOD, generation=8), [], {}, NOW)

    assert "--outrank" in found[0].fix
    assert "not from the ledger" in found[0].found
