"""The sums a move must pass: what is exceeded is refused, whatever else stands on the server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelswitch.errors import Refused
from modelswitch.policy.sums import Ask, Machine, amount, cost, refuse_misfit, unknown
from modelswitch.reports import Capacity

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
MB = 1_000_000


def digits(workers: int, memory: int | None = 520 * MB, **more: object) -> Ask:
    return Ask("digits", "3", DIGEST, workers, memory, **{"threads": 1, **more})  # type: ignore[arg-type]


def faces(workers: int, memory: int | None = 480 * MB) -> Ask:
    return Ask("faces", "1", OTHER, workers, memory)


def machine(
    after: Ask,
    *beside: Ask,
    before: Ask | None = None,
    cores: int = 64,
    memory: int = 2_000 * MB,
    gpus: int = 0,
    name: str = "a",
) -> Machine:
    has = Capacity(cores=cores, memory_bytes=memory, gpus=gpus)
    return Machine(name, has, (*((before,) if before else ()), *beside), (after, *beside))


def refusal(*machines: Machine, overcommit: bool = False) -> Refused:
    with pytest.raises(Refused) as refused:
        refuse_misfit(machines, "digits", DIGEST, overcommit=overcommit)
    return refused.value


def test_a_sum_of_memory_is_told_term_by_term() -> None:
    said = refusal(machine(digits(4), faces(2), before=digits(1)))
    assert said.message == (
        "digits@3 does not fit: digits@3: 4 workers × 520 MB + faces@1: 2 × 480 MB = 3.0 GB, "
        "server a has 2.0 GB. Nothing was changed."
    )
    assert said.next == "fewer workers, a pool of larger servers, or --overcommit"


def test_many_terms_are_told_by_the_largest() -> None:
    beside = [Ask(f"m{n:02}", "1", OTHER, 1, (100 + n) * MB) for n in range(20)]
    said = refusal(machine(digits(4), *beside, before=digits(1)))
    assert "digits@3: 4 workers × 520 MB + m19@1: 1 × 119 MB" in said.message
    assert "15 more: " in said.message
    assert "= 4.3 GB, server a has 2.0 GB" in said.message


def test_cores_are_those_of_the_moved_slot_alone() -> None:
    refuse_misfit([machine(digits(2), faces(8, 1), cores=2)], "digits", DIGEST)
    said = refusal(machine(digits(2, 1, threads=4), cores=4))
    assert "2 workers × 4 threads = 8 cores, server a has 4, for 1 worker" in said.message


def test_a_gpu_that_is_not_there_is_refused_whatever_is_overcommitted() -> None:
    refuse_misfit([machine(digits(1, device="gpu:1"), gpus=2)], "digits", DIGEST)
    assert "it wants a GPU, server a has 0" in refusal(machine(digits(1, device="gpu"))).message
    said = refusal(machine(digits(1, device="gpu:2"), gpus=2), overcommit=True)
    assert "it wants GPU 2 (they are counted from 0), server a has 2" in said.message
    assert "--overcommit" not in str(said.next)


def test_overcommit_lets_memory_and_cores_be_exceeded() -> None:
    refuse_misfit([machine(digits(400), cores=1)], "digits", DIGEST, overcommit=True)


def test_a_capacity_that_was_not_told_refuses_nothing() -> None:
    refuse_misfit([machine(digits(400), cores=0, memory=0)], "digits", DIGEST)


def test_what_is_unknown_is_named_and_in_no_sum() -> None:
    one = machine(digits(1, None), faces(2), before=None)
    refuse_misfit([one], "digits", DIGEST)
    assert unknown([one, one]) == ("digits@3",)


def test_a_server_without_the_slot_is_not_asked() -> None:
    has = Capacity(cores=1, memory_bytes=1)
    refuse_misfit([Machine("a", has, (), (faces(9),))], "digits", DIGEST)


def test_the_first_server_is_told_and_the_others_counted() -> None:
    said = refusal(*(machine(digits(9), name=n) for n in "abc"))
    assert "server a has 2.0 GB (and 2 more like it)" in said.message
    one = replace(machine(digits(9)), alike=999)
    assert "server a has 2.0 GB (and 999 more like it)" in refusal(one).message


ASKS = st.builds(
    digits,
    st.integers(1, 64),
    st.one_of(st.none(), st.integers(1, 2_000 * MB)),
    threads=st.one_of(st.none(), st.integers(1, 16)),
)
BESIDE = st.lists(st.builds(faces, st.integers(1, 8), st.integers(1, 900 * MB)), max_size=3)


def is_refused(one: Machine) -> bool:
    try:
        refuse_misfit([one], "digits", DIGEST)
    except Refused:
        return True
    return False


@given(ASKS, BESIDE, st.integers(1, 64), st.integers(1, 8_000 * MB))
def test_what_stands_is_never_refused(ask: Ask, beside: list[Ask], cores: int, memory: int) -> None:
    assert not is_refused(machine(ask, *beside, before=ask, cores=cores, memory=memory))


@given(ASKS, BESIDE, st.integers(1, 64), st.integers(1, 8_000 * MB))
def test_what_comes_new_is_refused_just_when_a_sum_is_exceeded(
    ask: Ask, beside: list[Ask], cores: int, memory: int
) -> None:
    total = sum(a.workers * (a.memory_bytes or 0) for a in (ask, *beside))
    too_much = bool(ask.memory_bytes) and total > memory
    too_many = ask.workers * (ask.threads or 0) > cores
    one = machine(ask, *beside, cores=cores, memory=memory)
    assert is_refused(one) == (too_much or too_many)


@given(ASKS, BESIDE, st.integers(1, 64), st.integers(1, 8_000 * MB), st.integers(1, 64))
def test_fewer_workers_are_never_refused_where_more_are_not(
    ask: Ask, beside: list[Ask], cores: int, memory: int, workers: int
) -> None:
    fewer = Ask(
        ask.model, ask.version, ask.digest, min(workers, ask.workers), ask.memory_bytes, ask.threads
    )
    if is_refused(machine(fewer, *beside, cores=cores, memory=memory)):
        assert is_refused(machine(ask, *beside, cores=cores, memory=memory))


def test_amounts_and_costs_are_read_by_people() -> None:
    assert [amount(n) for n in (480 * MB, 999.9 * MB, 3_040 * MB, 1_500)] == [
        "480 MB",
        "1000 MB",
        "3.0 GB",
        "2 kB",
    ]
    assert cost([digits(2)]) == "2 × 520 MB = 1.0 GB"
    assert cost([digits(2, None)]) == "memory not measured"
