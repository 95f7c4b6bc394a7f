"""A trained sparse model behind the server: the trainer's answers, in the bytes of the format."""

import json
from pathlib import Path

import pytest
from gistserve.compress import weights_hash as weights_module
from gistserve.compress.sparse import sparse_modules
from gistserve.server.engine.loader import load_model
from gistserve.training.pst import train_pst
from gistserve.training.pst.data import read_data_texts
from gistserve.training.pst.evaluation import score_texts
from gistserve.training.text_ids import PROMPT
from safetensors.torch import load_file

from ..over_http import completions
from .tiny_models import save_model, settings

pytest.importorskip("accelerate")
pytest.importorskip("sacrebleu")

TEST = "example:weather:test"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder at 90%, trained until most of its answers are right."""
    folder = tmp_path_factory.mktemp("served")
    base = save_model("llama", folder / "base")
    config = settings(
        base, "llama", folder, method="movement", sparsity=0.9, max_steps=100, eval_steps=100,
        save_steps=100, test_data=TEST, select_by="loss", learning_rate=1e-2, warmup=10,
    )  # fmt: skip
    return train_pst(config)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "user_cache_path", lambda _: tmp_path / "cache")


def test_it_answers_as_the_trainer_measured(trained: Path, tmp_path: Path) -> None:
    texts = read_data_texts(TEST)
    sources = [text.source for text in texts]
    model, _ = load_model(trained, device="cpu")
    assert len(sparse_modules(model)) == 14
    prompts = [PROMPT.format(source) for source in sources]
    answers = completions(trained, tmp_path / "store", prompts, max_tokens=24)
    measured = json.loads((trained.parent / "results.json").read_text())["measures"]["test"]
    assert score_texts(answers, texts) == pytest.approx(measured)
    assert len(set(answers)) > 10  # not one answer for all


def test_it_lies_in_the_bytes_of_the_format(trained: Path) -> None:
    file = trained / "model.safetensors"
    tensors = load_file(file)
    bitmaps = [name for name in tensors if name.endswith("weight_bitmap")]
    # Two layers of query, key, value, output 32 x 32, gate, up 64 x 32 and down 32 x 64.
    shapes = 2 * [(32, 32)] * 4 + 2 * [(64, 32)] * 2 + 2 * [(32, 64)]
    assert len(bitmaps) == len(shapes)
    promised = sum(rows * -(-columns // 8) + 4 * round(rows * columns * 0.1)
                   for rows, columns in shapes)  # fmt: skip
    sparse = sum(
        tensor.nbytes
        for name, tensor in tensors.items()
        if name.endswith(("weight_bitmap", "weight_values"))
    )
    assert sparse == promised
    dense = sum(tensor.nbytes for tensor in tensors.values()) - sparse
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == promised + dense + 8 + header
    facts = json.loads((trained / "sparsity.json").read_text())
    assert sum(module["bytes"] for module in facts["modules"].values()) == promised
    assert facts["training"]["measures"]["test"]["bleu"] > 0
