"""Result files: figures together with what made them."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("gistserve", "torch", "triton", "transformers", "numpy")
# A list of numbers as indented JSON has it. No string of JSON holds a raw line break.
_NUMBERS = re.compile(r"\[\n[^\[\]{}\"]*\]")


def write_result(path: Path, figures: dict[str, Any]) -> None:
    """Write ``figures`` with command line, commit, versions, hardware and time as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"made_by": provenance()} | figures, indent=2)
    path.write_text(_NUMBERS.sub(_on_one_line, text) + "\n", encoding="utf-8")


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` wrote.

    Raises:
        ValueError: there is no such file, or it is none.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no figures to report: {error}") from error
    return result


def _on_one_line(numbers: re.Match[str]) -> str:
    return " ".join(numbers[0].split()).replace("[ ", "[").replace(" ]", "]")


def provenance() -> dict[str, Any]:
    """Command line, commit, versions and hardware of this process."""
    return {
        "command": f"{_program()} {shlex.join(sys.argv[1:])}".strip(),
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _program() -> str:
    """What runs: a module under ``python -m``, or a script by its name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"


def _commit() -> str | None:
    """The commit of the checkout this package runs from; ends in "+" with uncommitted changes.

    None outside a checkout, as in an installed wheel or a copied tree.
    """
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        return (head + ("+" if git("status", "--porcelain") else "")) or None
    except FileNotFoundError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
