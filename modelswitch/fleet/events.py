"""Events on a pool's Deployment, so that `kubectl describe deployment` tells the story.

They are written with the user's own rights. The API server keeps them for an hour, unless its
`--event-ttl` says otherwise: for people who look now, not the record, which is the ledger.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelswitch.fleet.protocol import News
from modelswitch.fleet.roster import pool_of

if TYPE_CHECKING:
    from lightkube import Client
    from lightkube.resources.apps_v1 import Deployment
    from lightkube.resources.core_v1 import Event

COMPONENT = "modelswitch"
_MOST_BYTES = 1024  # of a message; what is longer, newer API servers refuse


def post(client: Client, labels: dict[str, Any], news: News) -> None:
    """An Event on the Deployment of the pool, of those that have `labels`.

    Raises what the client raises.
    """
    from lightkube.resources.apps_v1 import Deployment

    for deployment in client.list(Deployment, labels=labels):
        if pool_of(deployment) == news.pool:
            client.create(event(deployment, news, datetime.now(UTC)))


def event(deployment: Deployment, news: News, now: datetime) -> Event:
    """Of core/v1, which is what kubectl searches for an object's events."""
    from lightkube.models.core_v1 import EventSource, ObjectReference
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import Event

    metadata = deployment.metadata or ObjectMeta()
    return Event(
        metadata=ObjectMeta(name=f"{metadata.name}.{time.time_ns():x}"),
        involvedObject=ObjectReference(
            apiVersion="apps/v1",
            kind="Deployment",
            name=metadata.name,
            namespace=metadata.namespace,
            uid=metadata.uid,
        ),
        type="Warning" if news.is_bad else "Normal",
        reason=news.reason,
        message=_cut(news.text),
        source=EventSource(component=COMPONENT),
        reportingComponent=COMPONENT,
        firstTimestamp=now,
        lastTimestamp=now,
        count=1,
    )


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MOST_BYTES:
        return text
    return encoded[: _MOST_BYTES - 3].decode(errors="ignore") + "…"
