"""Kills at every boundary, on twins: what the instrumentation in effects.py finds, no list.

Commands run in processes of their own, on a ledger and a fleet that outlive them; the agents
and the twin servers live in the test's process. `nursery` runs and kills commands, `story`
checks that pins, servers and history tell one story afterwards.
"""
