"""A user's own load test of one version on one server: how fast, how many at once, what for.

`sweep` asks with more and more clients (`load`) and reads the server's own times beside
(`metrics`); `advice` judges and suggests, and is pure; `picture` draws. It knows an address and a
label; nothing is moved or changed.
"""

from modelswitch.bench.report import Plan, Point, Report, Subject
from modelswitch.bench.sweep import sweep

__all__ = ["Plan", "Point", "Report", "Subject", "sweep"]
