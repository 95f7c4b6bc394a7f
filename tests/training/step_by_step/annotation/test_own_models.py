"""Teachers that run here, or behind our own server: their answers are transformers' own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from gistserve.compress.store import GistStore
from gistserve.server.api.application import create_app
from gistserve.server.api.served_models import ServedModel, ServedModels
from gistserve.server.api.settings import ServerSettings
from gistserve.server.engine.config import EngineConfig
from gistserve.server.engine.engine import Engine
from gistserve.server.engine.engine_generate import engine_generate
from gistserve.training.config import ConfigError
from gistserve.training.generate import GenerateTexts, SamplingSettings
from gistserve.training.step_by_step.annotation import AnnotationError, annotate
from gistserve.training.step_by_step.annotation.demonstrations import load_few_shot
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from ....chat_model import byte_tokenizer, save_chat_model
from .conftest import Configure, rows

NAMES = ["one", "Größe", "three", "four"]
TOKENS = 9


def save_teacher(folder: Path, seed: int) -> Path:
    """A model whose answers depend on all of the prompt, not its end alone."""
    save_chat_model(folder, seed=seed, adapter=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight *= 3
            layer.self_attn.o_proj.weight *= 3
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()  # with a token that begins each text, as many have
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher"), seed=3)


def greedy(folder: Path, api: str, shown: str) -> list[str]:
    """What transformers writes behind the prompts."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    few_shot = load_few_shot(shown)
    texts = []
    for name in NAMES:
        if api == "chat":
            ids = tokenizer.apply_chat_template(
                few_shot.messages(name), add_generation_prompt=True, return_dict=False
            )
        else:
            ids = tokenizer(few_shot.text(name)).input_ids
        out = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
        texts.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    return texts


@contextmanager
def served(folder: Path, store: Path) -> Iterator[str]:
    """The address of our own server of the model."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    engine = Engine(model, EngineConfig(num_blocks=256, max_model_len=1024))
    engine.start()
    entry = ServedModel(
        name="big",
        engine=engine,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        fingerprint="",
        max_model_len=engine.max_model_len,
        adapter=None,
    )
    with GistStore(store) as prompts:
        app = create_app(ServedModels([entry]), prompts, ServerSettings())
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            thread.join()
            engine.shutdown()


@pytest.mark.parametrize(("api", "seed"), [("chat", 3), ("completions", 9)])
def test_the_answers_are_those_of_transformers(
    configure: Configure, tmp_path: Path, api: str, seed: int
) -> None:
    folder = save_teacher(tmp_path / "teacher", seed)
    with served(folder, tmp_path / "store") as url:
        ways: dict[str, dict[str, Any]] = {
            "server": {"url": url, "model": "big"},
            "transformers": {"url": None, "model": str(folder), "batch_size": 3},
            "engine": {"url": None, "model": str(folder), "batch_size": 3},
        }
        for way, settings in ways.items():
            config = configure(
                NAMES,
                api=api,
                max_tokens=TOKENS,
                device="cpu",
                output=str(tmp_path / f"{way}.jsonl"),
                **settings,
            )
            outcome = annotate(config, engine_generate if way == "engine" else None)
            assert outcome.unparsable is not None and outcome.num_unparsable == len(NAMES)
            expected = greedy(folder, api, config.demonstrations)
            assert [row["text"] for row in rows(outcome.unparsable)] == expected, way
    assert len(set(expected)) > 1


def said(answers: dict[str, str]) -> Callable[[Any], Any]:
    """A MakeGenerate that answers what `answers` says to the question in the prompt."""
    tokenizer = byte_tokenizer()

    def generate(prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        texts = [tokenizer.decode(ids).removesuffix("\nA:").rpartition("Q: ")[2] for ids in prompts]
        return [tokenizer(answers[text], add_special_tokens=False).input_ids for text in texts]

    return lambda model: nullcontext(generate)


def test_a_local_teachers_answers_are_read(configure: Configure, folder: Path) -> None:
    """A plain model without stop words invents examples until its tokens are used up."""
    answers = {
        "one": "A. So the answer is b.\n\nQ: more\nA: C. So the ans",
        "Größe": "Groß. So the answer is ja.<|end|>",
        "three": "A. So the answer is cut o",
        "four": "A. The answer is Q: d",
    }
    config = configure(NAMES, url=None, api="completions", model=str(folder), batch_size=3)
    outcome = annotate(config, said(answers))
    found = [(row["llm_label"], row["rationale"]) for row in rows(outcome.output)]
    assert found == [("b", "A."), ("ja", "Groß.")]
    assert outcome.unparsable is not None
    reasons = [row["reason"] for row in rows(outcome.unparsable)]
    assert "cut off" in reasons[0] and "no label" in reasons[1]


def test_batches_are_kept_one_by_one_and_drawn_alike_after_a_break(
    configure: Configure, folder: Path
) -> None:
    seeds: list[int] = []

    def breaking(after: int) -> Callable[[Any], Any]:
        def generate(prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
            if len(seeds) == after:
                raise ValueError("out of blocks")
            seeds.append(settings.seed)
            assert (settings.max_new_tokens, settings.temperature) == (256, 0.5)
            return [[70, 2] for _ in prompts]

        return lambda model: nullcontext(generate)

    config = configure(
        NAMES, url=None, api="completions", model=str(folder), batch_size=2, temperature=0.5, seed=9
    )
    with pytest.raises(AnnotationError, match=r"cannot be asked: out of blocks\. 2 of 4 records"):
        annotate(config, breaking(after=1))
    annotate(config, breaking(after=9))
    assert seeds == [9, 11]


def test_models_that_cannot_be_asked(configure: Configure, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded .*; if it is served elsewhere"):
        annotate(configure(NAMES, url=None, model=str(tmp_path / "nothing")))
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    plain = tmp_path / "plain"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    with pytest.raises(ConfigError, match="no chat template; set api: completions"):
        annotate(configure(NAMES, url=None, model=str(plain)))


def test_a_question_without_room_for_an_answer_is_refused(
    configure: Configure, folder: Path
) -> None:
    def generate(prompts: list[list[int]], settings: SamplingSettings) -> list[list[int]]:
        assert len(prompts) == 1
        return [[70, 2]]

    made: GenerateTexts = generate
    config = configure(
        ["a" * 2000, "b"], url=None, api="completions", model=str(folder), max_tokens=100
    )
    outcome = annotate(config, lambda model: nullcontext(made))
    assert outcome.unparsable is not None
    reason = rows(outcome.unparsable)[0]["reason"]
    assert "refused: 20" in reason and "more than the 2048 positions" in reason
    with pytest.raises(AnnotationError, match="every question was refused: 20"):
        annotate(replace(config, output=config.output.replace("out", "other"), limit=1))
