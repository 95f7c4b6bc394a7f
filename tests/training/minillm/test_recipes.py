"""The configurations that are shipped."""

from importlib.resources import files

import pytest
from gistserve.training.config import load_config
from gistserve.training.minillm.config import MiniLLMConfig
from gistserve.training.minillm.data import read_pairs
from gistserve.training.minillm.template import PromptTemplate

from .tiny_run import make_tokenizer

RECIPES = {
    path.name: path
    for path in files("gistserve.training.minillm").joinpath("recipes").iterdir()
    if path.name.endswith(".yaml")
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_they_are_valid(name: str) -> None:
    assert load_config(RECIPES[name], MiniLLMConfig).train_data  # type: ignore[arg-type]


def test_the_paper_s_settings() -> None:
    config = load_config(RECIPES["paper_gpt2_dolly.yaml"], MiniLLMConfig)  # type: ignore[arg-type]
    teacher = load_config(RECIPES["paper_gpt2_dolly_teacher.yaml"], MiniLLMConfig)  # type: ignore[arg-type]
    assert config.teacher == f"{teacher.output_dir}/model"
    assert (config.rollouts, config.inner_epochs, config.minibatch) == (256, 4, 64)
    assert (config.learning_rate, config.max_steps, config.sft_epochs) == (5e-6, 5000, 3)
    assert (config.teacher_mix, config.clip, config.temperature) == (0.2, 0.2, 1.0)
    assert config.max_prompt_tokens + config.max_new_tokens == 512
    assert config.length_normalisation and config.single_step and config.lm_data is not None


def test_the_quick_start_needs_no_data() -> None:
    config = load_config(RECIPES["quick_start.yaml"], MiniLLMConfig)  # type: ignore[arg-type]
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    template = PromptTemplate(config.prompt_template, tokenizer)
    for place in (config.train_data, config.validation_data, config.test_data):
        assert place is not None
        assert len(read_pairs(place, config, template)) > 50
