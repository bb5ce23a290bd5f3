"""A TorchServe worker in this process: its own message reader, Service and Context, no frontend.

An archive's files are extracted and its handler is loaded from there, as flat modules. What is
asked goes through the bytes that the frontend would send, and what comes back is read from the
bytes that it would get.
"""

from __future__ import annotations

import importlib
import json
import socket
import struct
import sys
import threading
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

JSON = "application/json"
_METRICS = str(Path(find_spec("ts").submodule_search_locations[0]) / "configs/metrics.yaml")
_PATHS: list[str] = []  # what the last worker has put before Python's own


@dataclass(frozen=True)
class Ask:
    """One request as it leaves a client; `body` that is no bytes becomes JSON."""

    body: Any
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_no_constant)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Worker:
    """`folder` is where the archive was extracted to."""

    def __init__(self, folder: Path) -> None:
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
        from ts.service import Service

        manifest = json.loads((folder / "MAR-INF/MANIFEST.json").read_bytes())
        module = Path(manifest["model"]["handler"]).stem
        _forget(_PATHS)
        before = list(sys.path)
        sys.path.insert(0, str(folder))
        self.handle = importlib.import_module(module).handle
        metrics = MetricsCacheYamlImpl(config_file_path=_METRICS)
        self.service = Service(
            "model", str(folder), manifest, self.handle, None, 1, metrics_cache=metrics
        )
        self.service.set_cl_socket(None)
        try:
            self.handle(None, self.service.context)
        finally:
            _PATHS.extend(path for path in sys.path if path not in before)

    def ask(self, *asked: Ask | Any) -> list[Answer]:
        """One batch, in its order."""
        from ts.protocol.otf_message_handler import retrieve_msg

        asks = [each if isinstance(each, Ask) else Ask(each) for each in asked]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            frame = b"I" + b"".join(map(_frame, asks)) + struct.pack("!i", -1)
            sending = threading.Thread(target=ours.sendall, args=(frame,))
            sending.start()
            _, batch = retrieve_msg(theirs)
            sending.join()
        return _answers(bytes(self.service.predict(batch)), len(asks))

    def predictions(self, body: Any) -> Any:
        [answer] = self.ask(body)
        assert answer.status == 200, answer.body
        return answer.json["predictions"]


def extracted(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def _forget(paths: list[str]) -> None:
    """Handlers, and what models brought, are imported anew from each archive's own files."""
    for path in paths:
        with suppress(ValueError):
            sys.path.remove(path)
    for name, module in list(sys.modules.items()):
        file = str(getattr(module, "__file__", None) or "")
        if name.startswith("modelswitch_") or file.startswith(tuple(f"{p}/" for p in paths)):
            del sys.modules[name]
    paths.clear()


def _frame(ask: Ask) -> bytes:
    headers = {"content-type": ask.content_type, **ask.headers}
    parts = [_text("1")]
    parts += [_text(name) + _text(value) for name, value in headers.items()]
    parts.append(struct.pack("!i", -1))
    parts += [_text("body") + _text(ask.content_type) + _bytes(ask.content)]
    parts.append(struct.pack("!i", -1))
    return b"".join(parts)


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def _answers(frame: bytes, count: int) -> list[Answer]:
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return int(struct.unpack_from("!i", frame, at - 4)[0])

    def content() -> bytes:
        nonlocal at
        length = number()
        at += length
        return frame[at - length : at]

    code, message = number(), content()
    found = []
    for _ in range(count):
        _, _ = content(), content()  # the request's id, the content type
        status, _ = number(), content()
        headers = {content().decode(): content().decode() for _ in range(number())}
        found.append(Answer(status, headers, content()))
    assert code == 200, f"the whole batch failed: {code} {message!r}"
    assert number() == -1
    return found


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")
