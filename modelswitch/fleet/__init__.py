"""How pins reach the agents and reports come back.

A fleet publishes one pins document for the whole deployment and reads one report a server. It
never decides what is pinned and never talks to a server. Publishing is atomic and never lowers
the generation that stands.
"""

from modelswitch.fleet.folder import FolderFleet
from modelswitch.fleet.protocol import Feed, Fleet, Published

__all__ = ["Feed", "Fleet", "FolderFleet", "Published"]
