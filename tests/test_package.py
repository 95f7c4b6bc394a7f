"""The package as users install it: namespace, files, and what its imports cost."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kernels", "compress", "server", "training", "bench")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Runs in the new environment: reports where the package came from and what it brought along.
PROBE = """
import importlib.util, json, sys
from importlib.resources import files
import gistserve
torch_free = "torch" not in sys.modules
import gistserve.kernels.attention, gistserve.server.cli
data = files("gistserve.server.demo")
print(json.dumps({
    "file": gistserve.__file__,
    "torch_free": torch_free,
    "typed": files("gistserve").joinpath("py.typed").is_file(),
    "model": [name for name in MODEL_FILES if data.joinpath(name).is_file()],
    "top_level": [name for name in PARTS if importlib.util.find_spec(name)],
}))
"""


def run_python(code: str, *, cwd: Path, python: str | Path = sys.executable) -> str:
    """Standard output of the code in a fresh interpreter that sees no source tree but cwd."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def data_files() -> list[str]:
    """What the tree ships beside code under server/demo, relative to that folder."""
    demo = ROOT / "server/demo"
    files = [path for path in demo.rglob("*") if path.is_file() and path.suffix != ".py"]
    return [str(path.relative_to(demo)) for path in files if "__pycache__" not in path.parts]


def build(kind: str, source: Path, output: Path) -> Path:
    """Build a wheel, "wheel" or "editable", by setuptools' own hook; nothing is downloaded."""
    output.mkdir()
    hook = f"import setuptools.build_meta as b; b.build_{kind}({str(output)!r})"
    run_python(hook, cwd=source)
    (built,) = output.glob("*.whl")
    return built


def new_environment(folder: Path) -> Path:
    """A virtual environment without gistserve that borrows this one's other packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    outer = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # Folders named in a .pth file are searched, but their own .pth files (this tree's editable
    # install among them) are not run.
    (site / "outer.pth").write_text("\n".join(outer) + "\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, so that building leaves nothing in it and finds nothing stale there."""
    copy = tmp_path_factory.mktemp("source") / "any-name"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "py.typed"):
        shutil.copy(ROOT / name, copy / name)
    for part in PARTS:
        ignore = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / part, copy / part, ignore=ignore)
    return copy


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_install_works_from_another_directory(kind: str, source: Path, tmp_path: Path) -> None:
    wheel = build(kind, source, tmp_path / "dist")
    python = new_environment(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    names = f"MODEL_FILES = {data_files()!r}\nPARTS = {PARTS!r}\n"
    found = json.loads(run_python(names + PROBE, cwd=elsewhere, python=python))
    home = source if kind == "editable" else tmp_path / "venv"
    assert Path(found["file"]).resolve().is_relative_to(home.resolve())
    assert found["torch_free"]
    assert found["typed"]
    assert found["model"] == data_files()
    assert found["top_level"] == []

    command = [str(python.parent / "gistserve"), "--version"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=60)
    version = PYPROJECT["project"]["version"]
    assert (done.returncode, done.stdout.strip()) == (0, f"gistserve {version}")


def test_the_package_list_names_every_folder_of_code() -> None:
    folders = {
        path.parent.relative_to(ROOT) for part in PARTS for path in (ROOT / part).rglob("*.py")
    }
    expected = {".".join(["gistserve", *folder.parts]) for folder in folders} | {"gistserve"}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == expected


def test_every_recipe_is_shipped() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    assert set(ROOT.glob("training/**/*.yaml")) <= shipped


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for part in PARTS for path in (ROOT / part).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_versions_agree() -> None:
    out = run_python("import gistserve; print(gistserve.__version__)", cwd=ROOT)
    assert out.strip() == PYPROJECT["project"]["version"]


def test_import_costs_no_torch(tmp_path: Path) -> None:
    code = "import sys, gistserve; assert 'torch' not in sys.modules"
    run_python(code, cwd=tmp_path)


def test_engine_imports_without_the_web(tmp_path: Path) -> None:
    run_python(
        """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fastapi", "starlette", "uvicorn", "pydantic", "typer"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import gistserve.server.engine
""",
        cwd=tmp_path,
    )


def test_our_kernels_folder_does_not_pass_for_the_kernels_library() -> None:
    """From the repository's root `import kernels` finds our folder; transformers must not mind."""
    run_python(
        """
from importlib.util import find_spec
assert find_spec("kernels") is not None, "not run from the root"
from transformers.utils import is_kernels_available
assert not is_kernels_available()
from transformers import LlamaConfig, LlamaForCausalLM
LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8,
                             num_hidden_layers=1, num_attention_heads=1))
""",
        cwd=ROOT,
    )
