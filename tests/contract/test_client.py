"""The SDK against a real HTTP server: one suite for the client of threads and that of asyncio."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import modelswitch
from modelswitch import Prediction
from modelswitch.client import client
from modelswitch.errors import (
    BadRequest,
    ConnectionLost,
    NotReached,
    NotServed,
    OutOfMemory,
    Overloaded,
    PredictionError,
    PredictionFailed,
    ServerUnreachable,
    Temporary,
    TimedOut,
    UsageError,
    WorkerDied,
)
from tests.answering import OK, Answering, Says, frontend, worker

NO_WORKER = 'Model "digits" has no worker to serve inference request.'
BUSY = frontend(503, "ServiceUnavailableException", NO_WORKER)


class Asks:
    """Either client, called in the same way: `predict` answers when the answer is there."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._close: list[Callable[[], Any]] = []
        self._loop = asyncio.new_event_loop()

    def client(self, url: str, **options: Any) -> Callable[..., Prediction]:
        if self.kind == "sync":
            plain = modelswitch.Client(url, **options)
            self._close.append(plain.close)
            return plain.predict
        twin = modelswitch.AsyncClient(url, **options)
        self._close.append(lambda: self._loop.run_until_complete(twin.close()))
        return lambda *a, **k: self._loop.run_until_complete(twin.predict(*a, **k))

    def close(self) -> None:
        for close in self._close:
            close()
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def asks(request: pytest.FixtureRequest) -> Iterator[Asks]:
    made = Asks(request.param)
    yield made
    made.close()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def png(color: int = 7) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (color, 0, 0)).save(out, format="PNG")
    return out.getvalue()


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def test_an_answer_says_what_who_and_how_long(asks: Asks) -> None:
    with Answering(Says(body=b'{"predictions": [[0.25, 0.75]]}')) as server:
        said = asks.client(server.url + "/")("digits", [[1, 2]], correlation_id="abc")

    assert said.outputs == [[0.25, 0.75]]
    assert (said.model, said.model_version, said.version) == ("digits", "digits@3", "3")
    assert said.digest == OK["X-Archive-Digest"]
    assert said.correlation_id == server.last.headers["x-correlation-id"] == "abc"
    assert said.latency_ms > 0
    assert said.attempts == 1
    assert said.numpy(np.float32).tolist() == [[0.25, 0.75]]
    assert server.last.path == "/predictions/digits"


def test_a_label_is_asked_by_its_own_path_and_names_are_escaped(asks: Asks) -> None:
    with Answering() as server:
        ask = asks.client(server.url)
        ask("digits", [1], version="3-ab12cd34")
        ask("a b/c", [1])
    assert [asked.path for asked in server.asked] == [
        "/predictions/digits/3-ab12cd34",
        "/predictions/a%20b%2Fc",
    ]


FRAME = pd.DataFrame(
    {
        "n": [1, 2**60 + 1],
        "x": [0.1, np.nan],
        "s": ["a", None],
        "at": pd.to_datetime(["2026-01-31T12:00:00", None]),
    }
)


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        ([1, 2.5, "three", None, True], {"inputs": [1, 2.5, "three", None, True]}),
        (7, {"inputs": 7}),
        ("a text", {"inputs": "a text"}),
        ({"x": [1], "y": [2]}, {"inputs": {"x": [1], "y": [2]}}),
        ({"inputs": [1]}, {"inputs": [1]}),
        ({"instances": [1], "params": {"k": 2}}, {"instances": [1], "params": {"k": 2}}),
        ({"inputs": [1], "x": [2]}, {"inputs": {"inputs": [1], "x": [2]}}),
        (np.array([[1, 2]], dtype=np.uint8), {"inputs": [[1, 2]]}),
        (np.float32(0.5), {"inputs": 0.5}),
        ({"x": np.arange(2), "when": datetime(2026, 1, 31, tzinfo=UTC)},
         {"inputs": {"x": [0, 1], "when": "2026-01-31T00:00:00+00:00"}}),
        (np.array(["a", "b"]), {"inputs": ["a", "b"]}),
        (torch.tensor([[1.5, 2.5]], requires_grad=True), {"inputs": [[1.5, 2.5]]}),
        (torch.tensor([0.5], dtype=torch.bfloat16), {"inputs": [0.5]}),
        (FRAME, {"dataframe_split": {
            "columns": ["n", "x", "s", "at"],
            "data": [[1, 0.1, "a", "2026-01-31T12:00:00"], [2**60 + 1, None, None, None]],
        }}),
        (pd.Series([1, 2], name="age"),
         {"dataframe_split": {"columns": ["age"], "data": [[1], [2]]}}),
    ],
)  # fmt: skip
def test_values_arrays_and_tables_go_out_as_json(asks: Asks, inputs: Any, sent: Any) -> None:
    with Answering() as server:
        asks.client(server.url)("digits", inputs)
    assert server.last.json == sent
    assert server.last.headers["content-type"] == "application/json"
    assert server.last.headers["accept"] == "application/json"


def test_large_arrays_go_out_as_they_are_and_small_ones_when_told(asks: Asks) -> None:
    large = np.arange(20_000, dtype=np.float32).reshape(100, 200)
    with Answering() as server:
        ask = asks.client(server.url)
        for inputs, how in (
            (large.T, {}),
            (torch.from_numpy(large), {}),
            (large[:1], {"binary": True}),
            (np.float64(3), {"binary": True}),
            (large, {"binary": False}),
        ):
            ask("digits", inputs, **how)
    kinds = [asked.headers["content-type"] for asked in server.asked]
    assert kinds == ["application/x-npy"] * 4 + ["application/json"]
    arrays = [np.load(io.BytesIO(asked.body)) for asked in server.asked[:4]]
    for found, wanted in zip(arrays, (large.T, large, large[:1], np.float64(3)), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape


def test_an_array_comes_back_as_one_when_it_was_asked_for(asks: Asks) -> None:
    array = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    says = Says(body=npy(array), headers={**OK, "Content-Type": "application/x-npy"})
    with Answering(says) as server:
        said = asks.client(server.url)("digits", [1], answer="npy")
    assert server.last.headers["accept"] == "application/x-npy"
    np.testing.assert_array_equal(said.outputs, array)
    assert said.numpy().dtype == np.float32


def test_images_go_out_as_they_are(asks: Asks, tmp_path: Path) -> None:
    picture = Image.open(io.BytesIO(png()))
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "wrong.jpg").write_bytes(png())
    jpeg = io.BytesIO()
    picture.save(jpeg, format="JPEG")
    (tmp_path / "b.jpeg").write_bytes(jpeg.getvalue())
    with Answering() as server:
        ask = asks.client(server.url)
        for inputs in (
            png(),
            tmp_path / "a.png",
            tmp_path / "wrong.jpg",
            tmp_path / "b.jpeg",
            picture,
            picture.convert("CMYK"),
        ):
            ask("images", inputs)
        ask("images", [png(1), tmp_path / "a.png"])
    kinds = [asked.headers["content-type"] for asked in server.asked]
    one = ["image/png"] * 3 + ["image/jpeg"] + ["image/png"] * 2
    assert kinds == [*one, "application/json"]
    assert server.asked[0].body == server.asked[1].body == png()
    assert server.asked[3].body == jpeg.getvalue()
    for asked in server.asked[4:6]:
        shown = Image.open(io.BytesIO(asked.body)).convert("RGB")
        assert shown.size == (4, 3)
        assert shown.getpixel((0, 0)) == (7, 0, 0)
    sent = server.last.json["inputs"]
    assert [base64.b64decode(item["b64"]) for item in sent] == [png(1), png()]


def test_files_and_bytes_go_out_by_what_is_in_them(asks: Asks, tmp_path: Path) -> None:
    array = np.array([[1, 2]], dtype=np.int64)
    (tmp_path / "a.npy").write_bytes(npy(array))
    (tmp_path / "b.json").write_text('{"inputs": [1]}')
    (tmp_path / "c.csv").write_text("age,name\n1,ann\n2,bob\n")
    with Answering() as server:
        ask = asks.client(server.url)
        ask("m", tmp_path / "a.npy")
        ask("m", tmp_path / "b.json")
        ask("m", tmp_path / "c.csv")
        ask("m", b" \n[1]")
        ask("m", bytearray(4), content_type="application/octet-stream")
    assert [asked.headers["content-type"] for asked in server.asked] == [
        "application/x-npy",
        *["application/json"] * 3,
        "application/octet-stream",
    ]
    assert server.asked[0].body == npy(array)
    assert server.asked[2].json == {
        "dataframe_split": {"columns": ["age", "name"], "data": [[1, "ann"], [2, "bob"]]}
    }


@pytest.mark.parametrize(
    ("inputs", "how", "said"),
    [
        ([float("nan")], {}, "JSON has no NaN"),
        (np.array([np.inf]), {}, "JSON has no NaN"),
        ([1, {2, 3}], {}, "a set has no order"),
        ([object()], {}, "object is no JSON"),
        (b"\x00\x01", {}, "cannot be told apart"),
        (Path("not there.png"), {}, "No such file"),
        ([1], {"binary": True}, "one array or tensor"),
        (np.array(["a"]), {"binary": True}, "array of <U1"),
        ([1], {"content_type": "image/png"}, "is no bytes"),
        ([1], {"answer": "xml"}, "'json' or as 'npy'"),
        *(
            ([1], {"timeout_s": seconds}, "positive number of seconds, up to a day")
            for seconds in (0, -1, float("nan"), float("inf"), 86_401, 10**400, "5", True)
        ),
        ([1], {"retries": -1}, "whole number"),
        ([1], {"retries": "2"}, "whole number"),
        *(
            ([1], {"correlation_id": text}, "X-Correlation-Id cannot be sent")
            for text in ("\N{SNOWMAN}", "a\r\nX-Other: b", "a\n", " a", 5)
        ),
        (b"1", {"content_type": "text/plain\r\nX-Other: b"}, "Content-Type cannot be sent"),
        ([1], {"version": ".."}, "no label"),
        ([1], {"version": "\ud800"}, "no label"),
        (nested(200_000), {}, "nested too deep"),
        (Path("a\0b"), {}, "cannot be read"),
    ],
)
def test_what_cannot_be_sent_is_said_and_nothing_is(
    asks: Asks, inputs: Any, how: dict[str, Any], said: str
) -> None:
    with Answering() as server, pytest.raises(UsageError) as refused:
        asks.client(server.url)("digits", inputs, **how)
    assert said in f"{refused.value.message} {refused.value.next}"
    assert server.asked == []


def test_the_name_of_a_file_is_not_sent_for_the_file(asks: Asks, tmp_path: Path) -> None:
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(b"\xff\xd8\xff")
    name, other = str(picture), str(tmp_path / "no such.jpg")
    with Answering() as server:
        ask = asks.client(server.url)
        with pytest.raises(UsageError, match="names a file") as refused:
            ask("digits", name)
        assert refused.value.next == f"Path({name!r}) sends the file, [{name!r}] the words"
        ask("digits", [name])
        ask("digits", other)
        ask("digits", "x" * 5000 + ".jpg")
    assert [asked.json["inputs"] for asked in server.asked[:2]] == [[name], other]


# What is answered, the error, its reason, whether it is worth asking again and when
ANSWERS = [
    (worker(400, "BAD_REQUEST", "no JSON object came", expected=[-1, 2]), BadRequest,
     "BAD_REQUEST", None),
    (worker(422, "INVALID_PARAMETER_VALUE", "shape"), BadRequest, "INVALID_PARAMETER_VALUE", None),
    (worker(406, "NOT_ACCEPTABLE", "ask for JSON"), BadRequest, "NOT_ACCEPTABLE", None),
    (frontend(400, "InvalidKeyException", "token"), BadRequest, "InvalidKeyException", None),
    (Says(413, b"too large"), BadRequest, "http_413", None),
    (frontend(404, "ModelNotFoundException", "Model not found: digits"), NotServed,
     "ModelNotFoundException", None),
    (worker(500, "INTERNAL_ERROR", "digits@3 could not answer"), PredictionFailed,
     "INTERNAL_ERROR", None),
    (frontend(503, "InternalServerException", "Prediction failed"), PredictionFailed,
     "InternalServerException", None),
    (Says(302, b"", {"Location": "/elsewhere"}), PredictionFailed, "http_302", None),
    (BUSY, Overloaded, "queue_full_or_no_worker", 1.0),
    (frontend(503, "ServiceUnavailableException", NO_WORKER, **{"Retry-After": "7"}), Overloaded,
     "queue_full_or_no_worker", 7.0),
    (Says(429, b"slower", {"Retry-After": "2"}), Overloaded, "http_429", 2.0),
    (Says(503, b"<html>", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), Overloaded,
     "http_503", 1.0),
    (frontend(507, "InternalServerException", "Worker died."), OutOfMemory, "out_of_memory", 5.0),
    (frontend(500, "InternalServerException", "Worker died."), WorkerDied, "worker_died", 5.0),
]  # fmt: skip


@pytest.mark.parametrize(("says", "kind", "reason", "after"), ANSWERS)
def test_every_refusal_has_its_type_its_reason_and_when_to_ask_again(
    asks: Asks, says: Says, kind: type[PredictionError], reason: str, after: float | None
) -> None:
    with Answering(says) as server, pytest.raises(PredictionError) as raised:
        asks.client(server.url)("digits", [1], correlation_id="abc")
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.reason, error.retry_after_s) == (says.status, reason, after)
    assert isinstance(error, Temporary) == (after is not None)
    assert error.message.startswith(f"digits answered {says.status}: ")
    assert error.correlation_id == "abc"
    if says.headers.get("X-Model-Version"):
        assert (error.model_version, error.digest) == ("digits@3", OK["X-Archive-Digest"])
    assert len(server.asked) == 1


def test_what_a_worker_expected_is_in_the_error(asks: Asks) -> None:
    says = worker(422, "INVALID_PARAMETER_VALUE", "x has 3 columns", expected=2, got=3)
    with Answering(says) as server, pytest.raises(BadRequest) as raised:
        asks.client(server.url)("digits", [1])
    assert raised.value.message == "digits answered 422: x has 3 columns"
    assert raised.value.facts == {"expected": 2, "got": 3}


def test_only_what_was_refused_unlooked_at_is_asked_again(asks: Asks) -> None:
    now = frontend(503, "ServiceUnavailableException", NO_WORKER, **{"Retry-After": "0"})
    with Answering(now, now, Says()) as server:
        said = asks.client(server.url, retries=2)("digits", [1])
        assert (said.attempts, len(server.asked)) == (3, 3)
        assert len({asked.headers["x-correlation-id"] for asked in server.asked}) == 1
    with Answering(now) as server, pytest.raises(Overloaded) as raised:
        asks.client(server.url, retries=2)("digits", [1])
    assert len(server.asked) == 3
    assert not raised.value.may_have_run


MAY_HAVE_RUN = [
    *(says for says, kind, _, _ in ANSWERS if kind is not Overloaded),
    Says(503, b"<html>upstream connect error", {"Retry-After": "0"}),  # a proxy's
    Says(body=b"x" * 1000, drops=True),
]


@pytest.mark.parametrize("says", MAY_HAVE_RUN)
def test_what_may_have_run_is_never_asked_again(asks: Asks, says: Says) -> None:
    with Answering(says, Says()) as server, pytest.raises(PredictionError):
        asks.client(server.url, retries=5)("digits", [1])
    assert len(server.asked) == 1


def test_nobody_there_is_known_not_to_have_been_sent(asks: Asks) -> None:
    with socket.socket() as held:  # bound and not listening: refused at once
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(NotReached) as raised:
            asks.client(url, retries=1)("digits", [1])
    assert isinstance(raised.value, ServerUnreachable)
    assert not raised.value.may_have_run
    assert "nothing was sent" in raised.value.message
    assert raised.value.status is None


def test_a_server_that_comes_up_meanwhile_is_reached_by_a_retry(
    asks: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = client._pause_s
    with ExitStack() as stack:
        server = Answering()

        def comes_up(*told: Any) -> float | None:
            if not server.is_up:
                stack.enter_context(server)
            return pause_s(*told) and 0.0

        monkeypatch.setattr(client, "_pause_s", comes_up)
        assert asks.client(server.url, retries=1)("digits", [1]).attempts == 2


def test_a_lost_connection_and_a_late_answer_may_have_run(asks: Asks) -> None:
    breaks = Answering(Says(body=b"x" * 1000, drops=True))
    with breaks as server, pytest.raises(ConnectionLost) as lost:
        asks.client(server.url)("digits", [1])
    asked = threading.Event()
    with Answering(Says(waits_for=asked)) as server:
        ask = asks.client(server.url, timeout_s=0.2)
        with pytest.raises(TimedOut) as late:
            ask("digits", [1])
        asked.set()
    for raised in (lost, late):
        assert raised.value.may_have_run
        assert isinstance(raised.value, Temporary)
    assert "within 0.2 s" in late.value.message


def test_connections_are_kept(asks: Asks) -> None:
    with Answering() as server:
        ask = asks.client(server.url)
        for _ in range(5):
            ask("digits", [1])
    assert len(server.asked) == 5
    assert len(server.connections) == 1


def test_other_bodies_come_as_they_are(asks: Asks) -> None:
    with Answering(Says(body=b'{"a": 1}'), Says(body=b"plain \xff")) as server:
        ask = asks.client(server.url)
        whole, text = ask("digits", [1]), ask("digits", [1])
    assert whole.outputs == whole.answer == {"a": 1}
    with pytest.raises(ValueError, match="named"):
        whole.numpy()
    assert text.outputs == "plain \N{REPLACEMENT CHARACTER}"


def test_headers_and_addresses(asks: Asks) -> None:
    with Answering() as server:
        asks.client(server.url + "/prefix/", headers={"Authorization": "Bearer x"})("digits", [1])
    assert server.last.path == "/prefix/predictions/digits"
    assert server.last.headers["authorization"] == "Bearer x"
    with pytest.raises(UsageError, match="no address"):
        asks.client("127.0.0.1:8080")


def test_many_threads_share_one_client() -> None:
    def echo(asked: Any) -> Says:
        return Says(body=json.dumps({"predictions": asked.json["inputs"]}).encode())

    with (
        Answering(echo) as server,
        modelswitch.Client(server.url, connections=8) as shared,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(pool.map(lambda n: shared.predict("digits", [n]).outputs, range(200)))
    assert answers == [[n] for n in range(200)]
    assert len(server.connections) <= 8


async def test_many_tasks_share_one_async_client() -> None:
    def echo(asked: Any) -> Says:
        return Says(body=json.dumps({"predictions": asked.json["inputs"]}).encode())

    with Answering(echo) as server:
        async with modelswitch.AsyncClient(server.url, connections=8) as shared:
            answers = await asyncio.gather(*(shared.predict("digits", [n]) for n in range(100)))
    assert [answer.outputs for answer in answers] == [[n] for n in range(100)]
    assert len(server.connections) <= 8


def test_a_version_that_is_no_label_is_refused_before_anything_is_sent() -> None:
    with (
        modelswitch.Client("http://127.0.0.1:9") as asking,
        pytest.raises(UsageError, match="version=1 is no label"),
    ):
        asking.predict("digits", [1], version=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a\nb", "\ud800", 5, None])
def test_a_name_that_is_none_is_refused_before_anything_is_sent(asks: Asks, name: Any) -> None:
    with Answering() as server, pytest.raises(UsageError, match="no name of a model"):
        asks.client(server.url)(name, [1])
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        (5, {}, "5 is no address"),
        (None, {}, "None is no address"),
        ("http://127.0.0.1:9/\n", {}, "no address"),
        ("http://127.0.0.1:9", {"timeout_s": 1e10}, "up to a day"),
        ("http://127.0.0.1:9", {"retries": 0.5}, "whole number"),
        ("http://127.0.0.1:9", {"headers": 5}, "a mapping"),
        ("http://127.0.0.1:9", {"headers": {"X Y": "a"}}, "'X Y' is no name"),
        ("http://127.0.0.1:9", {"headers": {"Authorization": "s3cret\n"}}, "Authorization cannot"),
    ],
)
def test_a_client_that_could_ask_nothing_is_not_made(
    asks: Asks, url: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        asks.client(url, **options)
    assert "s3cret" not in f"{refused.value.message} {refused.value.next}"


def test_a_closed_client_says_so() -> None:
    closed = modelswitch.Client("http://127.0.0.1:9")
    closed.close()
    with pytest.raises(UsageError, match="the client is closed"):
        closed.predict("digits", [1])


async def test_a_closed_async_client_says_so() -> None:
    closed = modelswitch.AsyncClient("http://127.0.0.1:9")
    await closed.close()
    with pytest.raises(UsageError, match="the client is closed"):
        await closed.predict("digits", [1])


def headed(header: bytes) -> bytes:
    """A .npy of that header and 8 bytes."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)


ARRAY = npy(np.arange(100.0))
HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}\n"


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        *(
            ("application/x-npy", body, "no array in .npy")
            for body in (
                b"",
                b"rubbish",
                ARRAY[:5],
                ARRAY[:-10],
                npy(np.array([{}], dtype=object)),
                headed(b"{'descr': ((("),
                headed(HUGE % 10**15),
                headed(HUGE % 10**30),
                b"PK\x03\x04 an archive",
            )
        ),
        (None, b"[" * 200_000, "its JSON"),
        (None, b"[" + b"9" * 5000 + b"]", "its JSON"),
        ("application/json", b"[1, 2", "it is no JSON"),
        ("Text/HTML; charset=utf-8", b"<html>log in</html>", "a web page"),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error(
    asks: Asks, kind: str | None, body: bytes, said: str
) -> None:
    says = Says(body=body, headers=OK | ({"Content-Type": kind} if kind else {}))
    with Answering(says) as server, pytest.raises(PredictionFailed) as raised:
        asks.client(server.url, retries=3)("digits", [1], correlation_id="abc")
    error = raised.value
    assert said in error.message
    assert (error.status, error.reason, error.correlation_id) == (200, "unreadable", "abc")
    assert error.model_version == "digits@3"
    assert len(server.asked) == 1


def test_no_content_is_no_answer_and_a_text_is(asks: Asks) -> None:
    with Answering(Says(204, b"")) as server, pytest.raises(PredictionFailed, match="no content"):
        asks.client(server.url)("digits", [1])
    with Answering(Says(body=b"seven", headers={"Content-Type": "text/plain"})) as server:
        assert asks.client(server.url)("digits", [1]).outputs == "seven"
