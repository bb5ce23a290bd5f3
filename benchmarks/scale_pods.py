"""Hundreds of pods in one async process: each with its agent, its own watch and its own limits.

Started by the benchmark `scale`: `python -m benchmarks.scale_pods FILE`. The file is JSON
(namespace, config_map, deployment, store, pods as name → kubeconfig). A line on stdin
asks for what was counted so far, as one JSON line on stdout; the end of stdin ends it all.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.fleet.pod import PodFleet
from modelswitch.fleet.pod_api import PodApi
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Fleet, Timeouts
from modelswitch.store import FsspecStore


async def main(file: Path) -> None:
    wanted = json.loads(file.read_text(encoding="utf-8"))
    store = FsspecStore(wanted["store"])
    feeds: list[PodFleet] = []
    tasks = []
    for name, kubeconfig in wanted["pods"].items():
        own = file.parent / "pods" / name
        settings = Fleet(
            kind="kubernetes", kubeconfig=Path(kubeconfig), namespace=wanted["namespace"]
        )
        api = PodApi(settings)
        feed = PodFleet(api, config_map=wanted["config_map"], mount=own / "mount", pod=name)
        (own / "models").mkdir(parents=True)
        slots = Slots(
            TwinServer(own / "models"), store, own / "models", Timeouts(load_s=300, prove_s=60)
        )
        agent = Agent(
            name=name,
            deployment=wanted["deployment"],
            fleet=feed,
            slots=slots,
            state_dir=own / "state",
        )
        feeds.append(feed)
        tasks.append(asyncio.create_task(agent.run(), name=name))
        await asyncio.sleep(0)
    say({"started": len(tasks)})
    ended = asyncio.Event()
    threading.Thread(
        target=answer, args=(feeds, asyncio.get_running_loop(), ended), daemon=True
    ).start()
    gone = asyncio.create_task(ended.wait())
    done, _ = await asyncio.wait([gone, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {gone}:
        task.result()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def answer(feeds: list[PodFleet], loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    for _ in sys.stdin:
        say(
            {
                "requests": [feed.calls.requests for feed in feeds],
                "errors": sum(feed.calls.errors for feed in feeds),
            }
        )
    loop.call_soon_threadsafe(ended.set)


def say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
