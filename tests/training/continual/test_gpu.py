"""A stage on a GPU."""

from pathlib import Path

import pytest
from gistserve.training.continual import train_continual
from gistserve.training.continual.objective import check_packing, make_objective
from gistserve.training.run_log import read_metrics
from transformers import AutoModelForCausalLM

from .texts import make_folder, stage_config, word_tokenizer

pytest.importorskip("accelerate")


@pytest.mark.gpu
def test_a_stage_in_bfloat16_learns_and_keeps_documents_apart(tmp_path: Path) -> None:
    config = stage_config(
        make_folder(tmp_path), tmp_path / "out", device="auto", bf16=True, max_steps=30
    )
    output = train_continual(config)
    losses = [row["loss"] for row in read_metrics(output) if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    model = AutoModelForCausalLM.from_pretrained(output).cuda()
    objective = make_objective(
        "causal", model, word_tokenizer(), length=16, share=0.15, mean_span=3.0
    )
    check_packing(objective, model, 16)
