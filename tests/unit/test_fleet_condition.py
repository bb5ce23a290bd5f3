"""A report survives its way through a pod's condition, as far as anybody decides by it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from modelswitch.fleet import condition
from modelswitch.line import label_of
from modelswitch.pins import PinnedModel, PinnedSlot, Pins
from modelswitch.reports import ModelReport, Proof, Report, SlotReport, State

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def digest(number: int) -> str:
    return f"sha256:{number:08x}" + "0" * 56


def label(number: int) -> str:
    return label_of(str(number), digest(number))


def pinned(default: int, *others: int, pool: str = "default") -> PinnedModel:
    slots = {label(n): PinnedSlot(digest=digest(n), workers=1) for n in (default, *others)}
    return PinnedModel(pool=pool, default=label(default), slots=slots)


def pins(models: dict[str, PinnedModel], generation: int = 7) -> Pins:
    return Pins(schema=1, deployment="d", generation=generation, models=models)


def as_pinned(model: PinnedModel, at: datetime = NOW) -> ModelReport:
    assert model.default is not None
    return ModelReport(
        default=model.default,
        proof=Proof(digest=model.slots[model.default].digest, at=at, latency_ms=2.5),
        slots={
            x: SlotReport(state=State.PROVEN, workers=slot.workers)
            for x, slot in model.slots.items()
        },
    )


def report(wanted: Pins, **changes: object) -> Report:
    fields = {
        "server": "pod-a",
        "boot_id": "b",
        "at": NOW,
        "heartbeat_at": NOW,
        "generation": wanted.generation,
        "pins_sha256": wanted.sha256,
        "models": {name: as_pinned(model) for name, model in wanted.models.items()},
    }
    return Report(**{**fields, **changes})  # type: ignore[arg-type]


def back(sent: Report, wanted: Pins | None) -> Report:
    text = json.dumps(condition.render(sent, wanted))
    asked = condition.Wanted.of(wanted, sent.pool) if wanted else None
    found = condition.parse(json.loads(text), server="pod-a", pool=sent.pool, wanted=asked)
    assert found is not None
    return found


def test_what_is_as_pinned_is_not_told_and_known_all_the_same() -> None:
    wanted = pins({f"m{n}": pinned(n, n + 1000) for n in range(500)})
    sent = report(wanted)

    message = condition.render(sent, wanted)["message"]
    found = back(sent, wanted)

    assert len(message) < 2_000
    for name, model in wanted.models.items():
        assert found.proves(name, str(model.default), model.slots[str(model.default)].digest)
        assert all(found.is_warm(name, x) for x in model.slots)


def test_the_newest_proofs_carry_their_time_and_latency() -> None:
    wanted = pins({f"m{n}": pinned(n) for n in range(20)})
    models = {name: as_pinned(model) for name, model in wanted.models.items()}
    models["m13"] = as_pinned(wanted.models["m13"], NOW + timedelta(minutes=1))
    found = back(report(wanted, models=models), wanted)
    proof = found.models["m13"].proof
    assert proof is not None
    assert (proof.at, proof.latency_ms) == (NOW + timedelta(minutes=1), 2.5)


def test_what_is_not_among_the_newest_still_says_since_when() -> None:
    wanted = pins({f"m{n}": pinned(n) for n in range(20)})
    models = {
        name: as_pinned(model, NOW + timedelta(days=n))
        for n, (name, model) in enumerate(wanted.models.items())
    }
    found = back(report(wanted, at=NOW + timedelta(days=99), models=models), wanted)
    for n in range(20):
        proof = found.models[f"m{n}"].proof
        assert proof is not None
        assert proof.at == NOW + timedelta(days=n)


def test_what_differs_is_told() -> None:
    wanted = pins({"digits": pinned(1, 2), "faces": pinned(3)})
    models = {
        "digits": as_pinned(wanted.models["digits"]).model_copy(
            update={
                "slots": {
                    label(1): SlotReport(state=State.PROVEN, workers=1),
                    label(2): SlotReport(state=State.FAILED, error="x" * 9_000 + "\nKeyError: 'w'"),
                    label(9): SlotReport(state=State.UNLOADING, workers=1),
                }
            }
        ),
        "faces": ModelReport(default=None, error="its default path was wrong"),
    }
    found = back(report(wanted, models=models, healthy=False, error="boom"), wanted)
    failed = found.slot("digits", label(2))
    assert failed.state is State.FAILED
    assert (failed.error or "").endswith("KeyError: 'w'")
    assert label(9) not in found.models["digits"].slots
    assert not found.proves("faces", label(3), digest(3))
    assert found.models["faces"].error == "its default path was wrong"
    assert (found.healthy, found.error) == (False, "boom")


def test_of_many_broken_models_the_message_stays_small_and_invents_nothing() -> None:
    wanted = pins({f"m{n}": pinned(n) for n in range(500)})
    broken = ModelReport(default=None, error="e" * 800)
    sent = report(wanted, models=dict.fromkeys(wanted.models, broken))
    assert len(condition.render(sent, wanted)["message"].encode()) <= 16_000
    found = back(sent, wanted)
    assert not any(found.proves(f"m{n}", label(n), digest(n)) for n in range(500))


def test_who_follows_other_pins_is_believed_only_what_it_tells() -> None:
    old, new = pins({"digits": pinned(1)}), pins({"digits": pinned(2, 1)}, generation=8)
    text = condition.render(report(old, models={}), old)
    asked = condition.Wanted.of(new, "default")
    found = condition.parse(text, server="pod-a", pool="default", wanted=asked)
    assert found is not None
    assert found.generation == 7
    assert not found.is_warm("digits", label(2))


def test_a_pool_knows_only_its_own_models() -> None:
    wanted = pins({"digits": pinned(1, pool="classifier"), "tabular": pinned(2, pool="features")})
    sent = report(wanted, pool="features", models={"tabular": as_pinned(wanted.models["tabular"])})
    assert set(back(sent, wanted).models) == {"tabular"}


@given(st.text())
def test_rubbish_is_no_report(message: str) -> None:
    told = {"type": condition.CONDITION, "message": message}
    assert condition.parse(told, server="a", pool="default", wanted=None) is None


def test_what_would_end_a_command_is_no_report() -> None:
    """One pod that lies must not keep anybody from rolling back."""
    wanted = pins({"a": pinned(1)})
    asked = condition.Wanted.of(wanted, "default")
    told = json.loads(condition.render(report(wanted), wanted)["message"])
    proof = {"digest": digest(1), "at": "2026-05-01T12:00:00", "latency_ms": 1.0}
    odd = {
        "no zone": {"at": "2026-05-01T12:00:00"},
        "before every zone": {"at": "0001-01-01T00:00:00+14:00"},
        "after every zone": {"at": "9999-12-31T23:59:59-14:00"},
        "a proof without a zone": {"models": {"a": {"proof": proof}}},
        "since after every zone": {"since": {"a": 253402300799}},
    }
    assert condition.parse({"message": json.dumps(told)}, server="s", pool="default", wanted=asked)
    for name, change in odd.items():
        message = json.dumps(told | change)
        found = condition.parse({"message": message}, server="s", pool="default", wanted=asked)
        assert found is None, name
    lone = json.dumps(told | {"error": "\ud800"})
    for message in ("[" * 100_000, lone, json.dumps(told | {"error": float("nan")})):
        assert (
            condition.parse({"message": message}, server="s", pool="default", wanted=asked) is None
        )


def test_an_error_commands_no_terminal() -> None:
    wanted = pins({})
    found = back(report(wanted, healthy=False, error="\x1b[31mred\x07\nKeyError"), wanted)
    assert found.error == "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\nKeyError"


def test_memory_is_told_in_the_whole_report_alone() -> None:
    wanted = pins({"digits": pinned(3)})
    slots = {label(3): SlotReport(state=State.PROVEN, workers=1, memory_bytes=520_000_000)}
    model = as_pinned(wanted.models["digits"]).model_copy(update={"slots": slots})
    told = condition.render(report(wanted, models={"digits": model}), wanted)
    assert 'memory_bytes":5' not in told["message"]
