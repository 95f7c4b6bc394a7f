"""What `--model` may say."""

from dataclasses import dataclass
from pathlib import Path

from ..demo import EMBEDDED_MODEL, EMBEDDED_MODEL_NAME

_ADAPTER_FOLDER = "gist_adapter"


@dataclass(frozen=True)
class ModelSource:
    """A model to serve: the name clients use, and the folder or hub name it is loaded from."""

    name: str
    location: str

    @property
    def own_adapter(self) -> Path | None:
        """The gist adapter inside the model's own folder, if there is one."""
        folder = Path(self.location).expanduser() / _ADAPTER_FOLDER
        return folder if folder.is_dir() else None


def parse_source(text: str) -> ModelSource:
    """`NAME=PATH`, a folder (served under its own name), or a name on the Hugging Face hub.

    Raises ValueError for an empty name or path, and for what looks like a path but is none.
    """
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return ModelSource(folder.resolve().name, str(folder))
    name, equals, location = text.partition("=")
    if not equals:
        name = location = text
    if not name or not location:
        raise ValueError(f"{text!r} names no model; write NAME=PATH, a folder or a hub name")
    _check_location(location)
    return ModelSource(name, location)


def embedded_source() -> ModelSource:
    """The model that comes with the package. Raises ValueError where it is missing."""
    if not (EMBEDDED_MODEL / "config.json").is_file():
        raise ValueError("this installation has no embedded model; name one with --model")
    return ModelSource(EMBEDDED_MODEL_NAME, str(EMBEDDED_MODEL))


def _check_location(location: str) -> None:
    looks_like_path = location.startswith((".", "/", "~")) or location.count("/") > 1
    if looks_like_path and not Path(location).expanduser().is_dir():
        raise ValueError(f"the model folder {location} does not exist")
