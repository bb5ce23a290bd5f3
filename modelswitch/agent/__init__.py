"""The agent beside one server: it follows the published pins and reports what is served.

It alone drives its server. `agent` is the loop; `model` takes the steps that `plan`, which is
pure, decides on; `slots` and `cache` do the slow work; `reporter`, `readiness` and `health` say
how it stands. It needs neither MLflow, torch nor the database, and it never chooses by itself
what serves.
"""
