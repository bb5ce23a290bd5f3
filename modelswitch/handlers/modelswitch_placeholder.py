"""Stands where a model's default would stand while it has none; answers nothing useful."""

from __future__ import annotations

from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str] | None:
    if data is None:
        return None
    context.set_all_response_status(503, "Service Unavailable")
    return ["no version of this model is in production"] * len(data)
