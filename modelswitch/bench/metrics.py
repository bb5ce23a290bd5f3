"""TorchServe's own times for one version: sums that only grow, read before and after."""

from __future__ import annotations

from dataclasses import dataclass

import httpx2

_TIMEOUT_S = 5.0
# Of those with a model_version; the latencies are sums over successes, in microseconds, and
# "inference" is from the request's arrival to its answer: waiting is in it.
_NAMES = {
    "ts_inference_requests": "requests",
    "ts_inference_latency_microseconds": "total_us",
    "ts_queue_latency_microseconds": "queue_us",
}


@dataclass(frozen=True, slots=True)
class Times:
    """Since the server's start. Microseconds, summed over all requests that were answered."""

    requests: float = 0.0
    total_us: float = 0.0
    queue_us: float = 0.0

    def since(self, before: Times) -> Times:
        return Times(
            self.requests - before.requests,
            self.total_us - before.total_us,
            self.queue_us - before.queue_us,
        )


def read_times(url: str | None, model: str, label: str) -> Times | None:
    """What the metrics address says of a version now; None where it cannot be read."""
    if url is None:
        return None
    try:
        answer = httpx2.get(f"{url}/metrics", timeout=_TIMEOUT_S, trust_env=False)
    except httpx2.HTTPError:
        return None
    return parse_times(answer.text, model, label) if answer.is_success else None


def parse_times(text: str, model: str, label: str) -> Times:
    """Out of Prometheus' text; zeros for a version that nobody asked yet."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser ends every counter's name in _total, as OpenMetrics does
            key = _NAMES.get(sample.name.removesuffix("_total"))
            asked = (sample.labels.get("model_name"), sample.labels.get("model_version"))
            if key is not None and asked == (model, label):
                found[key] = found.get(key, 0.0) + sample.value
    return Times(**found)
