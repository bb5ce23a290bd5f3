"""A small HTTP server on loopback that says what it is told, and keeps what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OK = {"X-Model-Version": "digits@3", "X-Archive-Digest": "sha256:" + "a" * 64}


@dataclass(frozen=True)
class Asked:
    """One request as it arrived. Header names are lower case; `connection` tells them apart."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Says:
    """An answer; `drops` ends the connection with a reset after so much of the body instead."""

    status: int = 200
    body: bytes = b'{"predictions": [1]}'
    headers: dict[str, str] = field(default_factory=lambda: dict(OK))
    drops: bool = False
    waits_for: threading.Event | None = None


def frontend(status: int, kind: str, message: str, **headers: str) -> Says:
    """As TorchServe's frontend says an error."""
    body = json.dumps({"code": status, "type": kind, "message": message}).encode()
    return Says(status, body, {"Content-Type": "application/json", **headers})


def worker(status: int, code: str, message: str, **facts: Any) -> Says:
    """As one of our workers says an error."""
    body = json.dumps({"error_code": code, "message": message, **facts}).encode()
    return Says(status, body, {"Content-Type": "application/json", **OK})


class Answering:
    """Answers with `script` in order, then with its last; or with what `script` makes of each."""

    def __init__(self, *script: Says | Callable[[Asked], Says]) -> None:
        self.script = list(script) or [Says()]
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        answering = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                port = self.client_address[1]
                answering.answer(self, Asked(self.path, headers, self.rfile.read(size), port))

            def do_GET(self) -> None:
                answering.answer(self, Asked(self.path, {}, b"", self.client_address[1]))

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """A client that has gone is no news."""

        self._server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()  # nobody is let in before `with`
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def is_up(self) -> bool:
        return self._thread.is_alive()

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    @property
    def connections(self) -> set[int]:
        return {asked.connection for asked in self.asked}

    def __enter__(self) -> Answering:
        self._server.server_activate()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        with self._lock:
            says = self.script[min(len(self.asked), len(self.script) - 1)]
            self.asked.append(asked)
        if callable(says):
            says = says(asked)
        if says.waits_for is not None:
            says.waits_for.wait(10)
        handler.send_response(says.status)
        for name, value in {**says.headers, "Content-Length": str(len(says.body))}.items():
            handler.send_header(name, value)
        if says.status >= 400:
            handler.send_header("Connection", "close")  # as TorchServe does
        handler.end_headers()
        if says.drops:
            handler.wfile.write(says.body[: len(says.body) // 2])
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.close_connection = True
            handler.connection.close()
            return
        handler.wfile.write(says.body)
