"""The agent beside one server: it follows the published pins and reports what is served.

It alone drives its server. `plan` decides and is pure; `slots` does the slow work of loading
and unloading; `agent` is the loop. It needs neither MLflow, torch nor the database, and it
never chooses by itself what serves.
"""
