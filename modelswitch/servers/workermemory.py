"""What a TorchServe worker takes of this machine's memory.

TorchServe says so itself only while it collects system metrics, for which it starts a Python
process again and again: its configuration here turns that off.
"""

from __future__ import annotations

_PROGRAM = "model_service_worker"


def worker_memory(pid: int) -> int:
    """Resident bytes of a worker; 0 where it cannot be seen, from a container of its own, say.

    Pages that workers share (torch's libraries) count for each of them.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        # In another PID namespace this number is somebody else's.
        if not any(_PROGRAM in part for part in process.cmdline()):
            return 0
        return int(process.memory_info().rss)
    except (psutil.Error, ValueError):
        return 0
