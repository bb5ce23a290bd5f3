"""Clients that call without pause and without retries, and hold every answer against its header."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import httpx

from tests.stack.models import MODEL, REQUEST, document_of


class Clients:
    """Threads over all servers; `answered` counts by version, `failed` and `wrong` tell."""

    def __init__(self, urls: list[str], *, count: int = 8, model: str = MODEL) -> None:
        self.model = model
        self.urls = [f"{url}/predictions/{model}" for url in urls]
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(i,)) for i in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self, place: int) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            while not self._done.is_set():
                url = self.urls[place % len(self.urls)]
                place += 1
                try:
                    answer = client.post(url, json=REQUEST)
                except httpx.HTTPError as error:
                    self.failed.append(f"{type(error).__name__} {error}")
                    continue
                if answer.status_code != 200:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")
                    continue
                version = answer.headers.get("x-model-version", "@").partition("@")[2]
                self.answered[version] += 1
                if not version or answer.json() != document_of(version, self.model):
                    self.wrong.append(f"{version}: {answer.text[:200]}")

    def __str__(self) -> str:
        answers = ", ".join(f"{n} by version {v}" for v, n in sorted(self.answered.items()))
        return f"{len(self.failed)} failed, {len(self.wrong)} wrong; {answers}"
