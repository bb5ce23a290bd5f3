"""`bench`: what is counted, judged and suggested, and what a sweep does on a real connection."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelswitch.bench import Plan, Point, Subject, sweep
from modelswitch.bench.advice import best_of, notes_on, sla_of, suggest
from modelswitch.bench.load import Tally
from modelswitch.bench.metrics import Times, parse_times
from modelswitch.bench.sweep import percentile, point_of
from modelswitch.client.bodies import JSON, Body
from modelswitch.errors import BadRequest, NotReached, PredictionFailed, UsageError
from tests.answering import OK, Answering, Asked, Says, frontend, worker

DIGEST = OK["X-Archive-Digest"]
SUBJECT = Subject(
    model="digits",
    version="3",
    label="3-aaaaaaaa",
    digest=DIGEST,
    url="http://127.0.0.1:9",
    workers=2,
    body_from="golden request",
    batch_size=1,
    max_batch_delay_ms=1,
    threads=1,
    cores=4,
)
POINT = Point(
    clients=1,
    seconds=1.0,
    requests=1000,
    throughput=100.0,
    mean_ms=10.0,
    p50_ms=9.0,
    p95_ms=15.0,
    p99_ms=20.0,
    max_ms=30.0,
    errors={},
    queue_ms=0.1,
    worker_ms=8.0,
    rest_ms=1.9,
    client_cores=0.1,
    machine_cpu=0.4,
)
BODY = Body(b'{"inputs": [1]}', JSON)
SHORT = Plan(clients=(1, 3), seconds=0.3, warm_up_s=0, timeout_s=5)
SCRAPED = """\
# HELP ts_inference_latency_microseconds Torchserve prometheus counter metric with unit: Microseconds
# TYPE ts_inference_latency_microseconds counter
ts_inference_latency_microseconds{model_name="digits",model_version="default",hostname="vm",} 7.5
ts_inference_latency_microseconds{model_name="digits",model_version="3-aaaaaaaa",hostname="vm",} 6122.5
# HELP ts_queue_latency_microseconds Torchserve prometheus counter metric with unit: Microseconds
# TYPE ts_queue_latency_microseconds counter
ts_queue_latency_microseconds{model_name="digits",model_version="3-aaaaaaaa",hostname="vm",} 280.25
ts_queue_latency_microseconds{model_name="other",model_version="3-aaaaaaaa",hostname="vm",} 1.0
# HELP ts_inference_requests_total Torchserve prometheus counter metric with unit: Count
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="digits",model_version="3-aaaaaaaa",hostname="vm",} 2.0
"""  # noqa: E501 as the server writes it


def points(*clients: int, **more: Any) -> list[Point]:
    return [replace(POINT, clients=n, **more) for n in clients]


def test_the_servers_own_times_are_those_of_the_label() -> None:
    assert parse_times(SCRAPED, "digits", "3-aaaaaaaa") == Times(2.0, 6122.5, 280.25)
    assert parse_times(SCRAPED, "digits", "4-bbbbbbbb") == Times()


def test_latencies_are_of_what_began_and_throughput_of_what_ended_in_the_window() -> None:
    tally = Tally(
        answered=[(0.5, 1.2), (1.0, 1.010), (1.5, 1.530), (1.9, 2.5), (2.1, 2.2)],
        errors=[(0.9, "overloaded"), (1.1, "overloaded"), (1.2, "timed_out"), (1.3, "timed_out")],
    )
    # 9 asked, 5 answered; somebody else asked once, and was answered
    times = Times(requests=10, total_us=120_000, queue_us=60_000)
    point = point_of(4, tally, (1.0, 2.0), times, 0.2, None)
    assert (point.requests, point.throughput) == (3, 3.0)
    assert point.errors == {"timed_out": 2, "overloaded": 1}
    assert [round(ms) for ms in (point.p50_ms, point.p95_ms, point.max_ms)] == [30, 600, 600]
    assert point.others == 1
    assert (point.queue_ms, point.worker_ms) == (10.0, 10.0)
    assert point.rest_ms == pytest.approx((700 + 10 + 30 + 600 + 100) / 5 - 20)


def test_without_metrics_the_servers_times_are_not_made_up() -> None:
    point = point_of(1, Tally(answered=[(1.0, 1.1)]), (1.0, 2.0), None, 0.2, None)
    assert (point.queue_ms, point.worker_ms, point.rest_ms) == (None, None, None)
    nothing = point_of(1, Tally(), (1.0, 2.0), Times(), 0.2, None)
    assert (nothing.requests, nothing.p99_ms, nothing.throughput) == (0, 0.0, 0.0)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    ms = [float(n) for n in range(1, 101)]
    assert [percentile(ms, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.95) == 7.0
    assert percentile([], 0.5) == 0.0


@pytest.mark.parametrize(
    ("p95", "failed", "holds_up_to", "fails_at"),
    [
        ((5, 9, 10), (0, 0, 0), 4, None),
        ((5, 11, 9), (0, 0, 0), 1, 2),
        ((5, 9, 10), (0, 1, 0), 1, 2),
        ((11, 12, 13), (0, 0, 0), None, 1),
    ],
)
def test_an_sla_holds_as_far_as_every_smaller_load_kept_it(
    p95: tuple[float, ...], failed: tuple[int, ...], holds_up_to: int | None, fails_at: int | None
) -> None:
    measured = [
        replace(POINT, clients=n, p95_ms=ms, errors={"overloaded": f} if f else {})
        for n, ms, f in zip((1, 2, 4), p95, failed, strict=True)
    ]
    found = sla_of(10.0, measured)
    assert found is not None
    assert (found.holds_up_to, found.fails_at) == (holds_up_to, fails_at)
    assert sla_of(None, measured) is None


def test_the_best_point_is_the_smallest_that_is_nearly_as_fast() -> None:
    measured = [
        replace(POINT, clients=n, throughput=t) for n, t in ((1, 50.0), (4, 98.0), (8, 100.0))
    ]
    assert best_of(measured).clients == 4


WAITING = {"queue_ms": 20.0, "worker_ms": 8.0}


@pytest.mark.parametrize(
    ("subject", "point", "workers", "batch", "why"),
    [
        # Requests wait, and there are cores and CPU left
        ({}, WAITING, 4, 1, "60% of the CPU is idle"),
        ({}, {**WAITING, "machine_cpu": 0.7}, 3, 1, "30% of the CPU is idle"),
        # No CPU, no core left, or nobody knows: workers stay, and what waits may share a pass
        ({}, {**WAITING, "machine_cpu": 0.95}, 2, 8, "the CPU is taken"),
        ({"workers": 4}, WAITING, 4, 4, "a worker for each core"),
        ({"threads": 2}, WAITING, 2, 8, "a worker for each core"),
        ({}, {**WAITING, "machine_cpu": None}, 2, 8, "not seen from here"),
        # More workers than cores, or than have work
        ({"workers": 8}, WAITING, 4, 4, "more than the machine's 4 cores"),
        ({"workers": 4}, {"throughput": 100.0}, 2, 1, "0.8 workers were busy"),
        ({}, {"throughput": 200.0}, 2, 1, "hardly waited"),
        # A batch that cannot fill
        ({"batch_size": 32}, {}, 2, 8, "batches of more than 8 never fill"),
        ({"batch_size": 8}, {}, 2, 8, "hardly waited"),
        # Nothing known
        ({}, {"queue_ms": None, "worker_ms": None}, 2, 1, "nothing is suggested"),
    ],
)
def test_suggestions_follow_from_what_waits_for_what(
    subject: dict[str, Any], point: dict[str, Any], workers: int, batch: int, why: str
) -> None:
    found = suggest(replace(SUBJECT, **subject), points(16, **point))
    assert (found.workers, found.batch_size) == (workers, batch)
    assert why in "; ".join(found.why)


def test_where_requests_failed_nothing_is_learnt() -> None:
    full = replace(POINT, clients=200, errors={"overloaded": 1500}, **WAITING)
    found = suggest(SUBJECT, [*points(8), full])
    assert (found.workers, found.batch_size) == (2, 1)
    assert "at 8 clients" in found.why[0]


def test_a_lone_client_that_waits_for_a_batch_is_told() -> None:
    subject = replace(SUBJECT, batch_size=8, max_batch_delay_ms=20)
    lone, many = points(1, queue_ms=20.1, worker_ms=8.0)[0], points(16)[0]
    found = suggest(subject, [lone, replace(many, throughput=500.0)])
    assert "1 client cannot fill a batch of 8 and wait 20.1 ms" in "; ".join(found.why)


def test_figures_that_are_not_to_be_trusted_are_named() -> None:
    (bound,) = notes_on(SUBJECT, points(8, 16, client_cores=0.9))
    assert bound.startswith("at 8, 16 clients the clients were the bottleneck")
    (shared,) = notes_on(SUBJECT, points(8, client_cores=0.6, machine_cpu=0.97))
    assert "15% of the CPU that they share" in shared
    (others,) = notes_on(SUBJECT, points(8, others=50))
    assert "50 times" in others
    (few,) = notes_on(SUBJECT, points(8, requests=20))
    assert "fewer than 100" in few
    assert notes_on(SUBJECT, points(1, 2)) == []


def test_a_sweep_asks_the_label_on_kept_connections_and_counts_every_answer() -> None:
    with Answering() as server:
        report = sweep(replace(SUBJECT, url=server.url, sla_ms=1000), BODY, SHORT)
    assert [point.clients for point in report.points] == [1, 3]
    assert {asked.path for asked in server.asked} == {"/predictions/digits/3-aaaaaaaa"}
    assert {asked.body for asked in server.asked} == {BODY.content}
    assert {asked.headers["content-type"] for asked in server.asked} == {JSON}
    assert len({asked.headers["x-correlation-id"] for asked in server.asked}) == 1
    # One that asked first, then one and three clients
    assert len(server.connections) == 1 + 1 + 3
    assert 0 < sum(point.requests for point in report.points) < len(server.asked)
    assert all(point.errors == {} for point in report.points)
    assert all(point.client_cores > 0 for point in report.points)
    assert report.sla == sla_of(1000, report.points)
    assert report.data["points"][0]["queue_ms"] is None


def test_what_goes_wrong_meanwhile_is_counted_by_its_kind() -> None:
    full = frontend(503, "ServiceUnavailableException", "no worker")
    other = Says(headers={**OK, "X-Archive-Digest": "sha256:" + "b" * 64})
    script = [full, other, Says(body=b"x" * 999, drops=True), worker(500, "INTERNAL_ERROR", "x")]
    lock, seen = threading.Lock(), iter(range(10**9))

    def answer(_: Asked) -> Says:
        with lock:
            number = next(seen)
        return script[number % 10] if number % 10 < len(script) and number > 9 else Says()

    with Answering(answer) as server:
        plan = replace(SHORT, clients=(4,), seconds=1.0)
        report = sweep(replace(SUBJECT, url=server.url), BODY, plan)
    (point,) = report.points
    kinds = {"overloaded", "other_version", "connection_lost", "prediction_failed"}
    assert set(point.errors) == kinds
    assert point.requests > 0
    assert any("prediction_failed: digits@3 answered 500: x" in note for note in report.notes)


def test_an_answer_that_does_not_come_is_given_up() -> None:
    ever, asked = threading.Event(), []

    def answer(_: Asked) -> Says:
        asked.append(1)
        return Says(waits_for=ever if len(asked) > 1 else None)

    with Answering(answer) as server:
        plan = Plan(clients=(2,), seconds=0.5, warm_up_s=0, timeout_s=0.2)
        report = sweep(replace(SUBJECT, url=server.url), BODY, plan)
        ever.set()
    assert set(report.points[0].errors) == {"timed_out"}
    assert report.points[0].requests == 0


def test_nothing_is_measured_when_one_request_is_not_answered() -> None:
    with Answering(worker(422, "INVALID_PARAMETER_VALUE", "x")) as server:
        with pytest.raises(BadRequest):
            sweep(replace(SUBJECT, url=server.url), BODY, SHORT)
        assert len(server.asked) == 1
    with pytest.raises(NotReached):
        sweep(SUBJECT, BODY, SHORT)
    with Answering() as server, pytest.raises(PredictionFailed, match="answers from the archive"):
        sweep(replace(SUBJECT, url=server.url, digest="sha256:" + "c" * 64), BODY, SHORT)


def test_metrics_are_read_around_each_point() -> None:
    def times(asked: Asked) -> Says:
        if asked.path != "/metrics":
            return Says()
        done = sum(a.path != "/metrics" for a in server.asked) - 1  # the first was before
        name = 'model_name="digits",model_version="3-aaaaaaaa"'
        text = "".join(
            f"# TYPE {key} counter\n{key}{{{name}}} {value}\n"
            for key, value in (
                ("ts_inference_requests_total", done),
                ("ts_inference_latency_microseconds", done * 300.0),
                ("ts_queue_latency_microseconds", done * 100.0),
            )
        )
        return Says(body=text.encode())

    with Answering(times) as server:
        subject = replace(SUBJECT, url=server.url, metrics_url=server.url)
        report = sweep(subject, BODY, SHORT)
    for point in report.points:
        assert point.queue_ms == pytest.approx(0.1)
        assert point.worker_ms == pytest.approx(0.2)
        assert point.others == 0


def test_the_picture_is_one_and_where_it_cannot_be_that_is_said(tmp_path: Path) -> None:
    with Answering() as server:
        report = sweep(replace(SUBJECT, url=server.url, sla_ms=5), BODY, SHORT)
    report.draw(tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    known = replace(report, points=tuple(points(1, 2, errors={"overloaded": 3})))
    known.draw(tmp_path / "bench.svg")
    drawn = (tmp_path / "bench.svg").read_text()
    assert "<svg" in drawn
    with pytest.raises(UsageError):
        report.draw(tmp_path / "bench.nothing")
