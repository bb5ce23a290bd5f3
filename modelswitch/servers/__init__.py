"""The model server as the rest sees it: one protocol, TorchServe's client, an in-memory twin.

Everything that knows TorchServe's HTTP interface, its odd answers and its log stands here, so
that a second server can stand beside it. Async; every call has a timeout; what a server answers
is turned into our errors. Imports neither torch nor mlflow, decides nothing: that is the agent's.
"""
