"""The moves of a model's line, and what they stand on.

A move writes its row, publishes, waits for what the servers prove, and settles. This room may
append to the ledger, publish into the fleet and read reports. It never talks to a server, to
MLflow or to the archive store; what a move demands beyond the line is refused before it begins.
"""

from modelswitch.moves.moves import Moves
from modelswitch.moves.publishing import Intent
from modelswitch.moves.work import Moved

__all__ = ["Intent", "Moved", "Moves"]
