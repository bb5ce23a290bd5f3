"""Archives: a model version and a recipe made into one `.mar` that TorchServe can serve.

For: building, writing, reading and verifying archives. Their identity is the SHA-256 of the
`modelswitch.json` inside. May read folders and write files. Never talks to the registry, the
store or a server. Only `build` imports MLflow and torch, and only when it is called; the agent
lives on `verify`, `golden` and `placeholder`, which need neither.
"""
