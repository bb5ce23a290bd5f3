"""The SDK: asks a served model over HTTP and says which version answered.

It knows a server's inference address and nothing else: no ledger, no registry, no settings. What
goes out and comes in (`bodies`, `answers`) is pure; `client` alone opens connections. NumPy,
pandas, torch and Pillow are used where the caller has them, and never imported for nothing.
"""

from modelswitch.client.answers import Prediction
from modelswitch.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Prediction"]
