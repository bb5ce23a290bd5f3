"""The same engine behind LitServe: run by the Python of the peers' environment.

    python serving_litserve.py GRAPH PORT BATCH_SIZE

The picture is the request's body as it is, the cheapest that LitServe takes.
"""

# No `from __future__ import annotations`: LitServe and FastAPI read the annotation itself

import sys
from typing import Annotated, Any

import litserve
from fastapi import Body
from serving_engine import Engine

# A request waits as long for company as in TorchServe's setting.
BATCH_TIMEOUT_S = 0.001
WORKERS = 2


class Pictures(litserve.LitAPI):  # type: ignore[misc]  # not installed where types are checked
    def setup(self, device: str) -> None:
        self.engine = Engine(sys.argv[1])

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        return self.engine.decode(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: Any) -> Any:
        return self.engine.run(x if isinstance(x, list) else [x])

    def encode_response(self, output: Any) -> Any:
        return {"predictions": [output]}


if __name__ == "__main__":
    size = int(sys.argv[3])
    api = Pictures(max_batch_size=size, batch_timeout=BATCH_TIMEOUT_S)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True, track_requests=False
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
        access_log=False,
    )
