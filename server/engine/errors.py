"""What can go wrong in the engine, named for its callers."""

from __future__ import annotations


class EngineError(Exception):
    """Base of the engine's own errors."""


class PromptTooLongError(EngineError):
    """The prompt has more positions than the model can take."""


class CacheFullError(EngineError):
    """The key/value cache has too few blocks."""


class UnsupportedModelError(EngineError):
    """The model's class or configuration cannot be served."""


class EngineDeadError(EngineError):
    """The engine has stopped and takes no more requests."""


class ModelLoadError(EngineError):
    """A model or its tokenizer could not be loaded; the message says why and what helps."""
