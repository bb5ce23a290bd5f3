"""ModelSwitch: a model version from an MLflow registry to TorchServe and back again.

What the registry says, what is pinned and what every server answers are one thing, provable
at any moment. The facade is `ModelSwitch` (one method a verb); everything heavy is imported
where it is used, so that importing this package costs nothing.

    with modelswitch.Client("http://127.0.0.1:8080") as client:
        print(client.predict("digits", image).outputs)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelswitch.client import AsyncClient, Client, Prediction

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Prediction", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client", "Prediction"):
        from modelswitch import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
