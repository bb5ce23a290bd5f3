"""The protocol on a real TorchServe: three flavors, batches of eight, whatever anybody sends.

tests/unit/test_flavors.py has every flavor in every form; here is what the frontend has a say in.
"""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from modelswitch.archive.build import Built, VersionSource, build
from modelswitch.archive.golden import Golden, compare
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.reference import Reference
from tests import trained
from tests.contract.servers import TorchServeHouse
from tests.stack.machine import free_port_base
from tests.trained import Trained

BATCH = {"batch_size": 8, "max_batch_delay_ms": 200}
NAMES = ("torch_exported", "sklearn_columns", "python")
LOAD_S = 120.0
NPY = "application/x-npy"

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Served:
    name: str
    trained: Trained
    built: Built
    url: str

    def post(self, **request: Any) -> httpx.Response:
        return httpx.post(self.url, timeout=30, trust_env=False, **request)

    @property
    def right(self) -> dict[str, Any]:
        return self.trained.bodies["dataframe_split"]

    def expects(self, body: Any) -> Golden:
        reference = Reference(self.name, str(self.trained.folder))
        return Golden(kind="close", request=body, expected=reference.answer(body))


@pytest.fixture(scope="module")
def house() -> Iterator[TorchServeHouse]:
    with tempfile.TemporaryDirectory(prefix="modelswitch-protocol-") as folder:
        started = TorchServeHouse(Path(folder), free_port_base(1))
        started.store.mkdir(parents=True)
        started.start()
        yield started
        started.stop()


@pytest.fixture(scope="module")
def served(house: TorchServeHouse, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """All three loaded, one worker each, eight requests a batch."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        model = getattr(trained, name)(folder / "saved")
        source = VersionSource(name, "1", "r1", "models:/m-1", model.folder)
        built = build(source, Recipe.model_validate({**model.recipe, **BATCH}), house.store)
        url = f"{house.part.address}/predictions/{name}/{built.label}"
        made[name] = Served(name, model, built, url)
    asyncio.run(_load(house, made))
    return made


async def _load(house: TorchServeHouse, made: dict[str, Served]) -> None:
    server = house.client()
    for name, model in made.items():
        label, file = model.built.label, model.built.path.name
        await server.register(name, label, file, batch_size=8, max_batch_delay_ms=200)
        await server.workers(name, label, 1)
    deadline = time.monotonic() + LOAD_S
    for name, model in made.items():
        while True:
            found = await server.describe(name)
            if found and found.versions[model.built.label].ready:
                break
            why = await server.load_error(name, model.built.label)
            assert time.monotonic() < deadline, why
            await asyncio.sleep(0.1)
    await server.close()


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, served: dict[str, Served]) -> Served:
    return served[request.param]


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def text(body: Any) -> bytes:
    return json.dumps(body).encode()


def kind(content_type: str, **more: str) -> dict[str, str]:
    return {"Content-Type": content_type, **more}


@pytest.mark.parametrize("form", ["inputs", "instances", "dataframe_split", "dataframe_records"])
def test_each_form_is_answered_as_mlflow_does(model: Served, form: str) -> None:
    body = model.trained.bodies[form]

    answer = model.post(json=body)

    assert answer.status_code == 200, answer.text
    assert compare(model.expects(body), answer.json()) is None
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-archive-digest"] == model.built.digest


JSON = kind("application/json")
FORM, PARTS = kind("application/x-www-form-urlencoded"), "multipart/form-data"
OCTETS = kind("application/octet-stream")
TENSOR = {"X-Tensor-Dtype": "float32", "X-Tensor-Shape": "1,64"}
WRONG: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "no body": ({"content": b"", "headers": JSON}, (400,)),
    "no JSON": ({"content": b"{nonsense", "headers": JSON}, (400,)),
    "no text": ({"content": b"\xff\xfe\x00", "headers": JSON}, (400,)),
    "too deep": ({"content": b"[" * 100_000, "headers": JSON}, (400,)),
    "deep": ({"content": b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", "headers": JSON}, (422,)),
    "a list": ({"json": [1, 2]}, (400,)),
    "nothing": ({"json": {}}, (400,)),
    "null": ({"json": None, "content": b"null", "headers": JSON}, (400,)),
    "two forms": ({"json": {"inputs": [], "instances": []}}, (400,)),
    "empty": ({"json": {"inputs": []}}, (422,)),
    "ragged": ({"json": {"inputs": [[1, 2], [3]]}}, (422,)),
    "words": ({"json": {"inputs": [["a"] * 64]}}, (422,)),
    "NaN": ({"content": b'{"inputs": [[NaN]]}', "headers": JSON}, (422,)),
    "1e308": ({"json": {"inputs": [[1e308] * 64]}}, (422,)),
    "shape": ({"json": {"inputs": [[[1.0]]]}}, (422,)),
    "columns": ({"json": {"dataframe_records": [{"other": 1}]}}, (422,)),
    "params": ({"json": {"inputs": [[1]], "params": {"more": 1}}}, (422,)),
    "a form": ({"data": {"inputs": "[[1]]"}}, (400,)),
    "curl -d": ({"content": b'{"inputs": [[1]]}', "headers": FORM}, (400,)),
    "a file": ({"files": {"body": ("a.csv", b"1,2\n", "text/csv")}}, (400, 415)),
    "another file": ({"files": {"other": ("a.csv", b"1,2\n", "text/csv")}}, (400, 415)),
    "a torn file": ({"content": b"--x\r\n", "headers": kind(PARTS + "; boundary=x")}, (415,)),
    "no boundary": ({"content": b"--x\r\n", "headers": kind(PARTS)}, (415,)),
    "CSV": ({"content": b"a,b\n1,2\n", "headers": kind("text/csv")}, (415,)),
    "unknown": ({"content": b"<a/>", "headers": kind("application/xml; charset=utf-16")}, (415,)),
    "no type": ({"content": b"hello"}, (400,)),
    "odd type": ({"content": b"hello", "headers": kind("///;;;")}, (400, 415)),
    "PNG": ({"content": b"\x89PNG", "headers": kind("image/png")}, (415,)),
    "no .npy": ({"content": b"hello", "headers": kind(NPY)}, (400, 415)),
    "cut .npy": ({"content": npy(np.zeros((1, 64)))[:-1], "headers": kind(NPY)}, (400, 415)),
    "pickle": ({"content": npy(np.array([print])), "headers": kind(NPY)}, (400, 415)),
    "bare bytes": ({"content": b"1234", "headers": OCTETS}, (400, 415)),
    "few bytes": ({"content": b"1234", "headers": OCTETS | TENSOR}, (415, 422)),
    "other dtype": (
        {"content": b"1234", "headers": OCTETS | TENSOR | {"X-Tensor-Dtype": "O"}},
        (400, 415),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_the_caller_got_wrong_is_a_4xx_that_says_what(model: Served, what: str) -> None:
    request, statuses = WRONG[what]
    if "content" in request:
        request = {key: value for key, value in request.items() if key != "json"}

    answer = model.post(**request)

    assert answer.status_code in statuses, answer.text
    assert answer.json()["message"]
    assert len(answer.content) < 4000
    assert model.post(json=model.right).status_code == 200


def test_one_bad_request_of_eight_spoils_nothing_for_the_other_seven(model: Served) -> None:
    expected = model.expects(model.right)
    bad = [
        {"json": {"inputs": "no such thing"}},
        {"content": npy(np.array([print])), "headers": kind(NPY)},
    ]

    for wrong in bad:
        requests = [{"json": model.right}] * 7
        requests.insert(3, wrong)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda request: model.post(**request), requests))
        assert 400 <= answers.pop(3).status_code < 500
        assert [answer.status_code for answer in answers] == [200] * 7
        assert all(compare(expected, answer.json()) is None for answer in answers)


def test_what_the_model_raises_is_a_500_that_names_it(served: dict[str, Served]) -> None:
    model = served["python"]
    bad = json.loads(json.dumps(model.right))
    bad["dataframe_split"]["data"][0][0] = 666

    with ThreadPoolExecutor(8) as pool:
        bodies = [model.right] * 5 + [bad] + [model.right] * 2
        answers = list(pool.map(lambda body: model.post(json=body), bodies))

    assert [answer.status_code for answer in answers] == [200] * 5 + [500] + [200] * 2
    assert "RuntimeError: six hundred and sixty-six" in answers[5].json()["message"]


@pytest.mark.parametrize("name", ["torch_exported", "sklearn_columns"])
def test_arrays_come_and_go_as_bytes(served: dict[str, Served], name: str) -> None:
    model = served[name]
    rows = np.asarray(model.trained.rows)
    expected = model.post(json=model.right).json()["predictions"]
    headers = {"X-Tensor-Dtype": str(rows.dtype), "X-Tensor-Shape": ",".join(map(str, rows.shape))}

    for request in (
        {"content": npy(rows), "headers": kind(NPY)},
        {"content": rows.tobytes(), "headers": OCTETS | headers},
    ):
        plain = model.post(**request)
        array = model.post(content=request["content"], headers=request["headers"] | {"Accept": NPY})
        assert np.allclose(plain.json()["predictions"], expected, rtol=1e-4, atol=1e-5)
        assert array.headers["content-type"] == NPY
        found = np.load(io.BytesIO(array.content), allow_pickle=False)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_body_of_ten_megabytes_is_answered_or_refused(served: dict[str, Served]) -> None:
    model = served["torch_exported"]
    row = model.trained.rows[:1].tolist()[0]
    rows = [row] * (10_000_000 // len(json.dumps(row)))

    right = model.post(content=text({"inputs": rows}), headers=JSON)
    wrong = model.post(content=text({"inputs": [*rows, row[1:]]}), headers=JSON)

    assert right.status_code == 200, right.text[:300]
    assert len(right.json()["predictions"]) == len(rows)
    assert wrong.status_code == 422
    assert len(wrong.content) < 1000


def test_form_that_the_frontend_cannot_read_is_its_own_500(model: Served) -> None:
    """TorchServe takes forms apart itself, before any worker: nothing of ours can answer."""
    answer = model.post(content=b"share=50%", headers=FORM)

    assert answer.status_code == 500
    assert answer.json()["type"] == "ErrorDataDecoderException"
    assert model.post(json=model.right).status_code == 200


def test_body_beyond_all_bounds_is_refused_and_the_server_stays(model: Served) -> None:
    answer = model.post(content=b" " * 70_000_000, headers=JSON)

    assert answer.status_code == 413
    assert model.post(json=model.right).status_code == 200
