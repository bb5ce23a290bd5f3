"""The pins document: one canonical text, and everything else refused by name."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelswitch.errors import PinsError
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import SCHEMA, Pins, json_schema, parse, render, render_model, schema_text

ONE = Slot("1", "sha256:" + "11" * 32)
TWO = Slot("2", "sha256:ab12cd34" + "0" * 56, workers=2)
THREE = Slot("3", "sha256:" + "33" * 32)

CANONICAL = """\
{
  "deployment": "local",
  "epoch": "main",
  "generation": 17,
  "models": {
    "digits": {
      "back": [
        "1-11111111"
      ],
      "default": "2-ab12cd34",
      "pool": "default",
      "slots": {
        "1-11111111": {
          "device": "cpu",
          "digest": "ONE",
          "workers": 1
        },
        "2-ab12cd34": {
          "device": "cpu",
          "digest": "TWO",
          "workers": 2
        }
      }
    }
  },
  "schema": 1
}
""".replace("ONE", ONE.digest).replace("TWO", TWO.digest)


def document() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(CANONICAL)
    return data


def test_a_head_is_rendered_as_the_canonical_text() -> None:
    heads = {"digits": Head(Kind.SETTLED, Line((TWO, ONE)))}
    assert render(heads, deployment="local", generation=17).text == CANONICAL


def test_the_order_in_which_slots_are_named_changes_no_byte() -> None:
    line, target = Line((ONE,), (THREE,)), Line((TWO, ONE), (THREE,))
    one_way = render({"m": Head(Kind.PREPARED, line, target)}, deployment="d", generation=1)
    other = render(
        {"m": Head(Kind.PREPARED, Line((ONE,)), Line((THREE, TWO)))}, deployment="d", generation=1
    )
    assert one_way.models["m"].slots == other.models["m"].slots
    assert one_way.text == other.text
    assert one_way.sha256 == other.sha256


def test_an_open_row_pins_both_lines_and_moves_the_default_when_committed() -> None:
    line = Line((ONE,))
    prepared = Head(Kind.PREPARED, line, line.promoted(TWO))
    committed = prepared.commit()
    assert render_model(prepared).default == "1-11111111"
    assert render_model(committed).default == "2-ab12cd34"
    assert render_model(prepared).back == ()
    assert render_model(committed).back == ("1-11111111",)
    assert render_model(prepared).slots == render_model(committed).slots


def test_only_candidates_pin_no_default() -> None:
    pinned = render_model(Head(Kind.SETTLED, Line((), (TWO,))))
    assert pinned.default is None
    assert set(pinned.slots) == {"2-ab12cd34"}


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema",), 0, "pins: schema: "),
        (("schema",), "1", "pins: schema: "),
        (("generation",), -1, "pins: generation: "),
        (("generation",), None, "pins: generation: "),
        (("generation",), "17", "pins: generation: "),
        (("generation",), 17.0, "pins: generation: "),
        (("generation",), True, "pins: generation: "),
        (("deployment",), "a b", "pins: deployment: "),
        (("reason",), "because", "pins: reason: Extra inputs"),
        (("models", "digits", "actor"), "me", "pins: models.digits.actor: Extra inputs"),
        (("models", "digits", "default"), "9-99999999", "9-99999999 is named but not among"),
        (("models", "digits", "default"), "3", "pins: models.digits.default: "),
        (("models", "digits", "back"), ["9-99999999"], "9-99999999 is named but not among"),
        (("models", "digits", "back"), ["2-ab12cd34"], "is the default itself"),
        (
            ("models", "digits", "back"),
            ["1-11111111", "1-11111111"],
            "the way back 1-11111111 is named twice",
        ),
        (
            ("models", "digits", "slots", "1-11111111", "digest"),
            "sha256:" + "22" * 32,
            "the label 1-11111111 is not that of sha256:2222",
        ),
        (("models", "digits", "slots", "1-11111111", "digest"), "md5:1", "digest: "),
        (("models", "digits", "slots", "1-11111111", "workers"), 0, "workers: "),
        (("models", "digits", "slots", "1-11111111", "workers"), "1", "workers: "),
        (("models", "digits", "slots", "1-11111111", "state"), "x", "state: Extra inputs"),
        (("models", "no good"), {"default": None, "slots": {}}, "pins: models.no good"),
    ],
)
def test_what_pins_may_not_hold_is_refused_with_its_place(
    path: tuple[str, ...], value: object, says: str
) -> None:
    data = document()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(PinsError) as caught:
        parse(json.dumps(data))
    assert says in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"schema": 1}', "[" * 100_000])
def test_what_is_no_pins_document_is_refused(text: str) -> None:
    with pytest.raises(PinsError, match=r"fleet/pins\.json"):
        parse(text, source="fleet/pins.json")


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(PinsError, match="generation stands twice"):
        parse(CANONICAL.replace('"generation": 17', '"generation": 17, "generation": 16'))


def test_a_newer_schema_is_refused_and_says_what_to_do() -> None:
    data = document() | {"schema": SCHEMA + 1, "unknown": {}}
    with pytest.raises(PinsError, match="has schema 2, this release knows 1") as caught:
        parse(json.dumps(data))
    assert "upgrade" in (caught.value.next or "")


def test_a_slot_no_label_can_carry_is_never_rendered() -> None:
    with pytest.raises((ValueError, ValidationError)):
        render_model(Head(Kind.SETTLED, Line((replace(ONE, workers=4096),))))


# --- the schema that ships -------------------------------------------------------------------


def shipped() -> str:
    return (resources.files("modelswitch") / "schemas" / "pins.schema.json").read_text("utf-8")


def test_the_shipped_schema_is_that_of_the_code() -> None:
    assert shipped() == schema_text(), "python -m modelswitch.pins > modelswitch/schemas/…"
    assert json.loads(shipped()) == json_schema()


def test_the_shipped_schema_takes_what_is_rendered_and_names_its_own_draft() -> None:
    schema = json.loads(shipped())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.validate(document(), schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("generation",), -1),
        (("generation",), "17"),
        (("reason",), "because"),
        (("models", "digits", "default"), "3"),
        (("models", "digits", "slots", "1-11111111", "workers"), 0),
        (("models", "digits", "slots", "1-11111111", "state"), "x"),
        (("models", "digits", "slots", "one"), {"digest": ONE.digest, "workers": 1}),
        (("models", "no good"), {"default": None, "slots": {}}),
    ],
)
def test_the_shipped_schema_refuses_what_the_code_refuses(
    path: tuple[str, ...], value: object
) -> None:
    data = document()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(shipped()))
    with pytest.raises(PinsError):
        parse(json.dumps(data))


# --- properties ------------------------------------------------------------------------------

SLOTS = st.builds(
    Slot,
    st.integers(0, 99).map(str),
    st.binary(min_size=32, max_size=32).map(lambda b: "sha256:" + b.hex()),
    st.integers(1, 1024),
    st.sampled_from(["cpu", "cuda", "cuda:0"]),
)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    pool = draw(st.lists(SLOTS, max_size=6, unique_by=lambda s: s.label))
    cut = draw(st.integers(0, len(pool)))
    line = Line(tuple(pool[:cut]), tuple(pool[cut:]))
    kind = draw(st.sampled_from([Kind.SETTLED, Kind.PREPARED, Kind.COMMITTED]))
    if kind is Kind.SETTLED:
        return Head(kind, line)
    target = draw(st.permutations(pool))
    return Head(kind, line, Line(tuple(target[:2]), tuple(target[2:4])))


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), heads(), max_size=3))
def test_what_is_rendered_reads_back_byte_for_byte(models: dict[str, Head]) -> None:
    pins = render(models, deployment="local", generation=3)
    again = parse(pins.text)
    assert again == pins
    assert again.text == pins.text
    jsonschema.validate(json.loads(pins.text), json_schema())


@given(heads())
def test_every_named_label_is_pinned(head: Head) -> None:
    pinned = render_model(head)
    named = {pinned.default, *pinned.back} - {None}
    assert named <= set(pinned.slots)
    assert set(pinned.slots) == {s.label for s in head.slots}


@given(st.text())
def test_any_text_is_pins_or_a_pins_error(text: str) -> None:
    with contextlib.suppress(PinsError):
        assert isinstance(parse(text), Pins)


def test_a_generation_that_the_ledger_could_not_outrank_is_refused() -> None:
    assert parse(Pins(schema=1, deployment="d", generation=2**53 - 1).text)
    with pytest.raises(PinsError, match="generation"):
        parse(json.dumps({"schema": 1, "deployment": "d", "generation": 2**63}))
