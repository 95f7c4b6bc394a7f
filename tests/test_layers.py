"""The floors of the house: what each part may import, read from the source."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "kernels": {"kernels"},
    "compress": {"compress", "kernels"},
    "server": {"server", "compress", "kernels"},
    "training": {"training", "compress", "kernels"},
    "bench": {"bench", "server", "training", "compress", "kernels"},
}
SOURCES = sorted(path for part in MAY_IMPORT for path in (ROOT / part).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of all that the file imports, at any depth; ours begin with `gistserve`."""
    package = ["gistserve", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            prefix = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*prefix, alias.name]) for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    names = (module.split(".") for module in imported_modules(path))
    return {name[1] for name in names if name[0] == "gistserve" and name[1] in MAY_IMPORT}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_part_imports_only_the_floors_under_it(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    assert imported_parts(path) <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] != "gistserve"
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "gistserve" for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "server/engine").rglob("*.py")), ids=relative)
def test_the_engine_knows_no_http(path: Path) -> None:
    modules = set(imported_modules(path))
    foreign = {"fastapi", "starlette", "uvicorn", "httpx", "typer", "openai", "pydantic"}
    assert not {name.split(".")[0] for name in modules} & foreign
    above = ("gistserve.server.api", "gistserve.server.commands", "gistserve.server.cli")
    assert not [name for name in modules if name.startswith(above)]


DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "huggingface_hub": "huggingface-hub",
    "prometheus_client": "prometheus-client",
    "pydantic_core": "pydantic-core",
}
EXTRAS = {"training": ["train"], "bench": ["bench"]}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_every_foreign_import_is_declared(part: str) -> None:
    """What a part imports is a dependency of the project, or of the extra of that part."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra in EXTRAS.get(part, []):
        requirements += project["optional-dependencies"][extra]
    declared = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0] for requirement in requirements}
    imported = {
        name.split(".")[0]
        for path in (ROOT / part).rglob("*.py")
        for name in imported_modules(path)
    }
    foreign = imported - set(sys.stdlib_module_names) - {"gistserve"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared


def test_the_reader_of_imports_resolves_relative_names(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "server" / "engine" / "part.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "from ...training import gist\nfrom . import x\ndef f():\n    from ..api.app import y\n"
    )
    assert set(imported_modules(file)) == {
        "gistserve.training.gist",
        "gistserve.server.engine.x",
        "gistserve.server.api.app.y",
    }
    assert imported_parts(file) == {"training", "server"}
