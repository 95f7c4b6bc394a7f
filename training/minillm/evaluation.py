"""What a student is measured by: its loss on given responses, and the responses it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from ..generate import GenerateTexts, SamplingSettings, TransformersGenerate
from ..metrics import exact_match
from ..samples import Sample, print_samples
from ..text_ids import IGNORED
from .config import MiniLLMConfig
from .data import Pair
from .measures import distinct_n, mean_rouge_l
from .models import Models
from .split_model import SplitModel
from .spread import SpreadGenerate, spread
from .supervised import collate
from .template import PromptTemplate
from .token_measures import compare_tokens, token_log_probs

Measures = dict[str, float]


@dataclass(frozen=True)
class _Written:
    """A student's responses to pairs' prompts, as token ids and as text."""

    ids: list[list[int]]
    texts: list[str]


class Evaluation:
    """Measures the student of `models` on pairs of prompts and responses.

    generate: what writes the student's responses; transformers' own generate by default. All
    processes work on each measure and get the same result.
    """

    def __init__(
        self,
        models: Models,
        template: PromptTemplate,
        config: MiniLLMConfig,
        generate: GenerateTexts | None = None,
    ) -> None:
        self._models = models
        self._template = template
        self._config = config
        self._split = SplitModel(models.student)
        self._teacher = None if models.teacher is None else SplitModel(models.teacher)
        self._generate = SpreadGenerate(
            generate
            or TransformersGenerate(
                models.student, models.end_ids, models.pad_id, config.generation_batch_size
            )
        )

    def loss(self, pairs: Sequence[Pair]) -> Measures:
        """`loss`: mean cross-entropy of the pairs' response tokens, in nats."""
        log_probs = self._spread_losses(pairs)
        return {"loss": -sum(map(sum, log_probs)) / sum(map(len, log_probs))}

    def validation(self, pairs: Sequence[Pair]) -> Measures:
        """`loss`, and the measures of one sample a prompt, of at most `validation_prompts`.

        The samples are drawn with the run's seed: evaluations of one run compare the same draws.
        """
        asked = pairs[: self._config.validation_prompts]
        written = self._write(asked, self._config.temperature, self._config.seed)
        shown = zip(asked[: self._config.printed_samples], written.texts, strict=False)
        print_samples(
            "validation", [Sample(pair.prompt, text, pair.response) for pair, text in shown]
        )
        return self.loss(pairs) | self._measure(asked, written)

    def test(self, pairs: Sequence[Pair]) -> Measures:
        """Measures of `test_samples` samples a prompt, and of greedy responses (`greedy_...`).

        `rouge_l_sd`: standard deviation over the samplings of the mean over prompts.
        """
        config = self._config
        rounds = []
        for number in range(config.test_samples):
            written = self._write(pairs, config.temperature, config.seed + 1 + number)
            rounds.append(self._measure(pairs, written))
        greedy = self._write(pairs, 0, config.seed)
        sampled = {name: mean(values[name] for values in rounds) for name in rounds[0]}
        spread_of = torch.tensor([values["rouge_l"] for values in rounds], dtype=torch.float64)
        if len(rounds) > 1:
            sampled["rouge_l_sd"] = float(spread_of.std())
        text = self._text_measures(pairs, greedy)
        return self.loss(pairs) | sampled | {f"greedy_{name}": v for name, v in text.items()}

    def _write(self, pairs: Sequence[Pair], temperature: float, seed: int) -> _Written:
        prompts = [pair.prompt_ids for pair in pairs]
        settings = SamplingSettings(self._config.max_new_tokens, temperature, seed)
        ids = self._generate(prompts, settings)
        decode = self._template.decode
        return _Written(ids, [decode(p, new) for p, new in zip(prompts, ids, strict=True)])

    def _measure(self, pairs: Sequence[Pair], written: _Written) -> Measures:
        measures = self._text_measures(pairs, written)
        if self._teacher is not None:
            measures |= self._reverse_kl(pairs, written)
        return measures

    def _text_measures(self, pairs: Sequence[Pair], written: _Written) -> Measures:
        references = [pair.response for pair in pairs]
        ends = self._models.end_ids
        matches = [exact_match(*both) for both in zip(written.texts, references, strict=True)]
        return {
            "rouge_l": mean_rouge_l(written.texts, references),
            "exact_match": mean(matches),
            "tokens": mean(map(len, written.ids)),
            "ended": mean(bool(ids) and ids[-1] in ends for ids in written.ids),
            "distinct_4": distinct_n(written.texts),
        }

    def _reverse_kl(self, pairs: Sequence[Pair], written: _Written) -> Measures:
        """KL[q || p] of student q and teacher p over whole responses, and by token, in nats.

        Responses are the student's own at temperature 1; the divergence of each step is summed
        exactly over the vocabulary, which estimates the whole with less variance than the
        log-ratio of the tokens drawn.
        """
        rows = [
            Pair(pair.prompt, text, pair.prompt_ids, ids)
            for pair, text, ids in zip(pairs, written.texts, written.ids, strict=True)
        ]
        distances = spread(rows, lambda share: self._token_rows(share, compare=True))
        total = sum(map(sum, distances))
        tokens = sum(map(len, distances))
        return {"reverse_kl": total / len(rows), "reverse_kl_per_token": total / tokens}

    def _spread_losses(self, pairs: Sequence[Pair]) -> list[list[float]]:
        return spread(list(pairs), lambda share: self._token_rows(share, compare=False))

    @torch.no_grad()
    def _token_rows(self, pairs: list[Pair], *, compare: bool) -> list[list[float]]:
        """For each pair a number for each token of its response: log q, or the reverse KL."""
        student = self._models.student
        was_training = student.training
        student.eval()
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids))
        rows: list[list[float]] = [[] for _ in pairs]
        for start in range(0, len(order), self._config.eval_batch_size):
            places = order[start : start + self._config.eval_batch_size]
            batch = [pairs[place] for place in places]
            values = iter(self._token_values(batch, compare=compare))
            for place, pair in zip(places, batch, strict=True):
                rows[place] = [next(values) for _ in pair.response_ids]
        student.train(was_training)
        return rows

    def _token_values(self, batch: Sequence[Pair], *, compare: bool) -> list[float]:
        inputs = collate(batch, self._models.pad_id)
        ids = inputs["input_ids"].to(self._models.student.device)
        labels = inputs["labels"].to(ids.device)[:, 1:]
        asked = labels != IGNORED
        states = self._split.states(ids)[:, :-1][asked]
        if not compare:
            return token_log_probs(self._split, states, labels[asked]).tolist()
        assert self._teacher is not None
        theirs = self._teacher.states(ids)[:, :-1][asked]
        _, distance = compare_tokens(
            self._split, states, self._teacher, theirs, labels[asked], divergence="reverse"
        )
        return distance.tolist()
