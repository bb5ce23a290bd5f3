"""Several models on one server: what goes wrong with one is its own affair, under load."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelswitch.client import Client
from modelswitch.errors import OutOfMemory, Overloaded, PredictionError, WorkerDied
from tests.stack.clients import Clients
from tests.stack.deployment import Deployment, wait_for

pytestmark = pytest.mark.stack

NAME = "troubled"
FINE, CRASH, HUNGRY = 0.0, 1.0, 2.0
SLOW_S = 3.0
BLOCKED_S = 10.0  # until all others have come, however busy the machine is
BRIEF_S = 0.02
QUEUE = 100  # TorchServe's own: as many requests wait for a model, the next is refused
RECIPE = {"memory_limit_bytes": 1 << 30, "response_timeout_s": 30}


def trouble(value: float) -> dict[str, Any]:
    return {"inputs": [[value]]}


def log_troubled(tracking_uri: str) -> None:
    import mlflow
    import numpy as np
    from mlflow.models import infer_signature

    class Troubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import os
            import time

            import numpy as np

            value = float(model_input[0][0])
            if value == 1.0:
                os._exit(3)
            if value == 2.0:
                np.ones(1 << 33, dtype=np.uint8)
            if value < 0:
                time.sleep(-value)
            return model_input

    before = dict(os.environ)
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("tests")
    example = np.zeros((1, 1))
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name=NAME,
            python_model=Troubled(),
            signature=infer_signature(example, example),
            input_example=example,
            pip_requirements=[f"numpy=={np.__version__}", f"mlflow=={mlflow.__version__}"],
            registered_model_name=NAME,
        )
    mlflow.MlflowClient().set_model_version_tag(
        NAME, str(logged.registered_model_version), "modelswitch.recipe", json.dumps(RECIPE)
    )
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def beside(deployment: Deployment) -> Iterator[Deployment]:
    """`tiny` serves, and `troubled` beside it."""
    log_troubled(deployment.tracking_uri)
    deployment.stand("1", "2")
    said = deployment.run("promote", f"{NAME}@1", "--reason", "to be trouble")
    assert said.exit == 0, said
    yield deployment
    said = deployment.run("retire", NAME, "--reason", "no more trouble", "--yes")
    assert said.exit == 0, said


@pytest.fixture
def troubled(beside: Deployment) -> Iterator[Callable[[float], Any]]:
    """Ask the troubled model of server a."""
    with Client(beside.urls["a"], timeout_s=60) as client:
        yield lambda value: client.predict(NAME, trouble(value)["inputs"]).outputs


def is_fine(ask: Callable[[float], Any]) -> bool:
    try:
        return bool(ask(FINE) == [[FINE]])
    except PredictionError:
        return False


def test_slow_requests_wait_in_a_queue_of_their_own(
    beside: Deployment, troubled: Callable[[float], Any]
) -> None:
    with Clients([beside.urls["a"]], count=2) as clients, ThreadPoolExecutor(2) as pool:
        wait_for(lambda: clients.answered["1"])
        slow = [pool.submit(troubled, -SLOW_S) for _ in range(2)]
        seen = clients.answered["1"]
        wait_for(lambda: clients.answered["1"] >= seen + 20)
        assert not any(each.done() for each in slow)
        assert [each.result() for each in slow] == [[[-SLOW_S]]] * 2
    assert (clients.failed, clients.wrong) == ([], []), str(clients)


def test_a_queue_that_is_full_says_when_to_come_again(
    beside: Deployment, troubled: Callable[[float], Any]
) -> None:
    def ask(_: int) -> Any:
        try:
            return troubled(-BRIEF_S)
        except Overloaded as error:
            return error

    many = QUEUE + 20
    with Clients([beside.urls["a"]], count=2) as clients, ThreadPoolExecutor(many) as pool:
        blocker = pool.submit(troubled, -BLOCKED_S)
        answers = list(pool.map(ask, range(many - 1)))
        blocker.result()
    refused = [each for each in answers if isinstance(each, Overloaded)]
    assert refused
    assert {each.status for each in refused} == {503}
    assert all(each.retry_after_s and each.reason for each in refused)
    assert (clients.failed, clients.wrong) == ([], []), str(clients)


def test_a_worker_that_dies_is_started_again_and_fails_nobody_else(
    beside: Deployment, troubled: Callable[[float], Any]
) -> None:
    with Clients(list(beside.urls.values()), count=3) as clients:
        with pytest.raises(WorkerDied) as died:
            troubled(CRASH)
        assert died.value.retry_after_s
        wait_for(lambda: is_fine(troubled))
    assert (clients.failed, clients.wrong) == ([], []), str(clients)


def test_a_request_for_too_much_memory_is_its_own_failure(
    beside: Deployment, troubled: Callable[[float], Any]
) -> None:
    with Clients([beside.urls["a"]], count=2) as clients:
        with pytest.raises(OutOfMemory, match=f"{NAME}@1 ran out of memory") as hungry:
            troubled(HUNGRY)
        assert hungry.value.status == 507
        assert hungry.value.retry_after_s == 1.0
        assert troubled(FINE) == [[FINE]]
    assert (clients.failed, clients.wrong) == ([], []), str(clients)
