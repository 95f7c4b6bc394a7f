"""Packages that only training needs."""

from importlib.util import find_spec

from .config import ConfigError


def require_extras(*needed: str, tensorboard: bool) -> None:
    """Raise ConfigError naming what of accelerate, `needed` and tensorboard is not installed."""
    names = ["accelerate", *needed, *(["tensorboard"] if tensorboard else [])]
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"training needs {' and '.join(missing)}: pip install 'gistserve[train]'"
            + (" (or set tensorboard: false)" if missing == ["tensorboard"] else "")
        )
