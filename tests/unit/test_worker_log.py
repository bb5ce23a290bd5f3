"""What a worker writes into its log: news, not one line for each batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ts")

ROOT = Path(__file__).resolve().parents[2]
# As TorchServe's worker sets its log up, and with its own reader of messages
WORKER = """
import logging, socket, struct, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.protocol.otf_message_handler import retrieve_msg
import ts

def text(content):
    return struct.pack("!i", len(content)) + content

metrics = MetricsCacheYamlImpl(config_file_path=ts.__path__[0] + "/configs/metrics.yaml")
metrics.initialize_cache()
metrics.model_name = "model"
metrics.request_ids = {0: "an id"}
if len(sys.argv) > 1:
    from modelswitch_protocol import write_less
    write_less()
ours, theirs = socket.socketpair()
end = struct.pack("!i", -1)
body = text(b"body") + text(b"application/json") + text(b"{no JSON")
ours.sendall(b"I" + text(b"an id") + end + body + end + end)
retrieve_msg(theirs)
metrics.add_time("PredictionTime", 1.0)
logging.info("a model's own line")
"""
A_BATCH = ("Backend received inference at", "[METRICS]PredictionTime")
NEWS = ("Failed json decoding of input data", "a model's own line")


def written(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *arguments],
        cwd=ROOT / "modelswitch/handlers",
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_torchserves_worker_writes_lines_for_each_batch() -> None:
    log = written()
    assert [line for line in (*A_BATCH, *NEWS) if line not in log] == []


def test_ours_writes_none_of_them_and_keeps_the_rest() -> None:
    log = written("quiet")
    assert [line for line in A_BATCH if line in log] == []
    assert [line for line in NEWS if line not in log] == []
