"""The stack on one machine: PostgreSQL, MLflow, and TorchServes each with its agent.

It starts them as detached processes on loopback, waits until each is healthy and is its own,
keeps them running, and stops exactly what it started. It touches the state folder and nothing
else; it decides nothing about models and never talks to a server's management interface.
`addresses` is cheap; everything else needs the `local` extra (psutil, the servers themselves).
"""
