"""The MLflow registry as the rest sees it: models, versions, aliases, stages, tags, files.

It may talk to one MLflow server, always over HTTP and with a timeout on every call, and write
files where it is told to. MLflow is imported with the first call (that takes about a second),
never with this package; its types and exceptions do not leave it. It decides nothing: what a
version's marks should be stands in `marks`.
"""

from modelswitch.registry.records import ABOUT_TAG, ModelVersion, RegisteredModel
from modelswitch.registry.registry import OUR_TAGS, RECIPE_TAG, Registry

__all__ = ["ABOUT_TAG", "OUR_TAGS", "RECIPE_TAG", "ModelVersion", "RegisteredModel", "Registry"]
