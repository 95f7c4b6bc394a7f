"""A checkpoint's files compared with its config.json before anything large is read."""

from collections.abc import Iterable, Mapping

from safetensors import SafetensorError, safe_open

from ..errors import SparseCheckpointError

_AGAIN = "copy or download it again, or make it again"


def check_headers(files: Iterable[str], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the shapes of those `expected` tensors, by name, that the safetensors files hold.

    Raises SparseCheckpointError for a file that is cut off or no safetensors file, and for a
    tensor of another shape; the message names it.
    """
    for file in files:
        for name, shape in _shapes(file, expected).items():
            if shape != expected[name]:
                raise SparseCheckpointError(
                    f"{name} has the shape {list(shape)} in {file}, but config.json promises "
                    f"{list(expected[name])}; {_AGAIN}"
                )


def _shapes(file: str, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as handle:
            return {
                name: tuple(handle.get_slice(name).get_shape())
                for name in set(handle.keys()) & set(names)
            }
    except (SafetensorError, OSError) as error:
        raise SparseCheckpointError(
            f"{file} is cut off or no safetensors file ({error}); {_AGAIN}"
        ) from error
