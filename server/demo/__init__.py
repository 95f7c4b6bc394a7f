"""The embedded model, and what `gistserve demo` does with it."""

from pathlib import Path

EMBEDDED_MODEL = Path(__file__).parent / "model"
"""Folder of the model that comes with the package; its gist adapter lies in `gist_adapter`."""

EMBEDDED_MODEL_NAME = "gistserve-demo"
"""The name it is served under."""
