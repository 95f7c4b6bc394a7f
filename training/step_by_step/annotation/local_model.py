"""A teacher that runs here."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...config import ConfigError
from ...end_tokens import end_tokens
from ...generate import GenerateTexts, MakeGenerate, SamplingSettings, TransformersGenerate
from .answers import Answer
from .config import AnnotationConfig
from .demonstrations import FewShot
from .errors import AnnotationError
from .teacher import OnAnswer


@contextmanager
def local_model(
    config: AnnotationConfig, few_shot: FewShot, make_generate: MakeGenerate | None
) -> Iterator["LocalModel"]:
    """The model that `config` names, loaded in its own dtype, run by `make_generate`.

    Without that by transformers. ConfigError where it cannot be loaded or asked.
    """
    tokenizer, model = _load(config)
    longest = getattr(model.config, "max_position_embeddings", None)
    ends = end_tokens(model, tokenizer)
    with nullcontext() if make_generate is None else make_generate(model) as made:
        generate = made or TransformersGenerate(
            model, ends, tokenizer.pad_token_id or 0, config.batch_size
        )
        yield LocalModel(config, few_shot, tokenizer, generate, ends, longest)


def _load(config: AnnotationConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    cuda = config.device == "auto" and torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model = AutoModelForCausalLM.from_pretrained(config.model, dtype="auto")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model: {config.model!r} cannot be loaded ({error}); if it is served elsewhere, set "
            "url"
        ) from error
    return tokenizer, model.eval().to("cuda" if cuda else "cpu")


class LocalModel:
    """A Teacher: `batch_size` questions at a time through `generate`.

    end_ids: tokens that end a text. longest: positions that the model has, None for any number; a
    question that leaves no room for an answer is refused. ConfigError for api `chat` where the
    tokenizer has no chat template.
    """

    def __init__(
        self,
        config: AnnotationConfig,
        few_shot: FewShot,
        tokenizer: PreTrainedTokenizerBase,
        generate: GenerateTexts,
        end_ids: Collection[int],
        longest: int | None = None,
    ) -> None:
        if config.api == "chat" and tokenizer.chat_template is None:
            raise ConfigError(f"api: {config.model} has no chat template; set api: completions")
        self._config = config
        self._few_shot = few_shot
        self._tokenizer = tokenizer
        self._generate = generate
        self._end_ids = frozenset(end_ids)
        self._longest = longest

    def ask(self, questions: Sequence[tuple[int, str]], on_answer: OnAnswer) -> None:
        """See Teacher."""
        for start in range(0, len(questions), self._config.batch_size):
            prompts: dict[int, list[int]] = {}
            for index, question in questions[start : start + self._config.batch_size]:
                ids = self._prompt(question)
                if refusal := self._refusal(ids):
                    on_answer(index, refusal)
                else:
                    prompts[index] = ids
            for index, ids in zip(prompts, self._written(prompts), strict=True):
                on_answer(index, self._answer(ids))

    def _written(self, prompts: dict[int, list[int]]) -> list[list[int]]:
        if not prompts:
            return []
        config = self._config
        seed = config.seed + min(prompts)  # another one for each batch
        settings = SamplingSettings(config.max_tokens, config.temperature, seed)
        try:
            return self._generate(list(prompts.values()), settings)
        except ValueError as error:
            raise AnnotationError(f"{config.model} cannot be asked: {error}") from error

    def _prompt(self, question: str) -> list[int]:
        """Token ids of the prompt."""
        text, chat = self._few_shot.text(question), self._config.api == "chat"
        if chat:
            text = self._tokenizer.apply_chat_template(
                self._few_shot.messages(question), tokenize=False, add_generation_prompt=True
            )
        ids: list[int] = self._tokenizer(text, add_special_tokens=not chat).input_ids
        return ids

    def _refusal(self, prompt: list[int]) -> Answer | None:
        wanted = len(prompt) + self._config.max_tokens
        if self._longest is None or wanted <= self._longest:
            return None
        return Answer(
            "",
            refused=f"{len(prompt)} tokens of prompt and {self._config.max_tokens} of answer are "
            f"more than the {self._longest} positions of {self._config.model}",
        )

    def _answer(self, ids: list[int]) -> Answer:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Answer(text, cut_off=not ids or ids[-1] not in self._end_ids)
