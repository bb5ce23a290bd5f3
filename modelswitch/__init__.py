"""ModelSwitch: a model version from an MLflow registry to TorchServe and back again.

What the registry says, what is pinned and what every server answers are one thing, provable
at any moment. The facade is `ModelSwitch` (one method a verb); everything heavy is imported
where it is used, so that importing this package costs nothing.
"""

__version__ = "0.1.0"
