"""Pre-training of the embedded model: a small Qwen3 that learns to read policies."""

from __future__ import annotations

import json
import logging
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from .attention import NAME as POLICY_ATTENTION
from .attention import SharedPrefix
from .batches import IGNORED, POOL, PolicyBatch, policy_batches
from .look_back import look_back
from .policy import PolicyMix

log = logging.getLogger(__name__)

STATE_NAME = "training_state.pt"
LIFT_STEPS = 600


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: left for the next once ``exact_match`` is reached in training."""

    mix: PolicyMix
    exact_match: float


CURRICULUM = (
    Stage(PolicyMix(1, 3, "list", max_fillers=0, named_share=1.0), exact_match=0.9),
    Stage(PolicyMix(3, 4, "plain", max_fillers=0, named_share=1.0), exact_match=0.9),
    Stage(PolicyMix(3, 5, max_fillers=2, named_share=0.7), exact_match=0.9),
    Stage(PolicyMix(3, 6, max_fillers=8, named_share=0.5, dialogue_share=0.15), exact_match=2.0),
)


@dataclass(frozen=True)
class BaseConfig:
    """Shape and optimisation of the embedded model.

    Muon moves the matrices inside the blocks, AdamW embeddings and norms; the learning rate rises
    over ``warmup_steps`` and falls linearly to zero over the last ``decay_share`` of ``steps``.

    In ``upper_share`` of the steps only the ``upper_layers`` last layers see the policy. A prompt
    is then looked up in layers that lie above those in which a compressor can gather it: keys and
    values that stand for several tokens can only exist a few layers up.
    """

    seed: int = 0
    steps: int = 1500
    policies: int = 16
    turns: int = 8
    hidden_size: int = 128
    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    intermediate_size: int = 320
    max_position_embeddings: int = 1024
    embedding_std: float = 0.3
    head_std: float = 0.02
    initializer_range: float = 0.06
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    decay_share: float = 0.4
    weight_decay: float = 0.01
    clip: float = 1.0
    upper_share: float = 0.0
    upper_layers: int = 3
    save_every: int = 100
    curriculum: tuple[Stage, ...] = field(default=CURRICULUM)


def lift_config(seed: int) -> BaseConfig:
    """Settings of the second run, which starts from the first one's weights."""
    return BaseConfig(seed=seed + 1, steps=LIFT_STEPS, curriculum=CURRICULUM[-1:], upper_share=0.75)


class BaseTrainer:
    """Trains the embedded model, from scratch or from ``start_from``.

    ``run`` continues from a saved state if there is one.

    The batches are a function of seed, stage and step alone, so that a run that was stopped goes
    on exactly where its last saved state stood.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        config: BaseConfig,
        directory: Path,
        start_from: Qwen3ForCausalLM | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.tokenizer = tokenizer
        self.config = config
        self.directory = directory
        self.model = build_model(config, tokenizer) if start_from is None else start_from.train()
        self.optimizers = _optimizers(self.model, config)
        self.step = 0
        self.stage = 0
        self.stage_start = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=25)

    def run(self) -> Qwen3ForCausalLM:
        """Train to ``config.steps`` and return the model, in eval mode with sdpa attention."""
        self.run_until(self.config.steps)
        self.model.set_attn_implementation("sdpa")
        return self.model.eval()

    def run_until(self, step: int) -> None:
        """Train from the last saved state, if there is one, to ``step``, and save."""
        self._restore()
        self.model.set_attn_implementation(POLICY_ATTENTION)
        bar = tqdm(total=step, initial=self.step, desc="base model", mininterval=1)
        batches = self._batches()
        while self.step < step:
            loss, exact = self._train_step(next(batches))
            self.step += 1
            bar.update()
            self._recent.append((loss, exact))
            bar.set_postfix(loss=f"{loss:.4f}", exact=f"{self._exact():.3f}", stage=self.stage)
            if self._advance():
                batches = self._batches()
            if self.step % self.config.save_every == 0:
                self._log()
                self._save()
        bar.close()
        self._save()

    def _batches(self) -> Iterator[PolicyBatch]:
        config, done = self.config, self.step - self.stage_start
        pool = done // POOL
        skip = done % POOL
        while True:
            rng = random.Random(f"{config.seed}/{self.stage}/{pool}")
            mix = config.curriculum[self.stage].mix
            drawn = policy_batches(
                self.tokenizer, rng, mix, policies=config.policies, turns=config.turns
            )
            for index, batch in enumerate(drawn):
                if index >= skip:
                    yield batch
            pool, skip = pool + 1, 0

    def _train_step(self, batch: PolicyBatch) -> tuple[float, float]:
        scale = _learning_rate_scale(self.step, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * scale
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, targets, rows = policy_logits(self.model, batch, self._hidden_below())
        loss = nn.functional.cross_entropy(logits, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item(), exact_match(logits, targets, rows).mean().item()

    def _hidden_below(self) -> int:
        draw = random.Random(f"{self.config.seed}/upper/{self.step}").random()
        return (
            self.config.layers - self.config.upper_layers if draw < self.config.upper_share else 0
        )

    def _exact(self) -> float:
        return sum(exact for _, exact in self._recent) / max(1, len(self._recent))

    def _advance(self) -> bool:
        full = len(self._recent) == self._recent.maxlen
        if not full or self._exact() < self.config.curriculum[self.stage].exact_match:
            return False
        log.info("step %d: stage %d reached %.3f", self.step, self.stage, self._exact())
        self.stage, self.stage_start = self.stage + 1, self.step
        self._recent.clear()
        return True

    def _log(self) -> None:
        loss = sum(loss for loss, _ in self._recent) / max(1, len(self._recent))
        row = {"step": self.step, "stage": self.stage, "loss": loss, "exact_match": self._exact()}
        with (self.directory / "training_log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        state = {
            "config": json.dumps(asdict(self.config)),
            "step": self.step,
            "stage": self.stage,
            "stage_start": self.stage_start,
            "recent": list(self._recent),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.directory / f"{STATE_NAME}.partial"
        torch.save(state, partial)
        partial.replace(self.directory / STATE_NAME)

    def _restore(self) -> None:
        path = self.directory / STATE_NAME
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            return
        state = torch.load(path, weights_only=True)
        if state["config"] != json.dumps(asdict(self.config)):
            raise ValueError(
                f"{path} was saved by a run with other settings; choose another --output, or "
                "delete it to start again"
            )
        self.step, self.stage = state["step"], state["stage"]
        self.stage_start = state["stage_start"]
        self._recent.extend(tuple(pair) for pair in state["recent"])
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def build_model(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The untrained model, fp32.

    Embeddings start large and the head as their scaled copy, untied: with tied or small ones the
    names that a policy draws at random (its teams) are pulled onto one common direction before the
    model has learned to tell them apart, and it never does.
    """
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.head_dim,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=config.initializer_range,
        )
    )
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight.normal_(std=config.embedding_std)
        model.lm_head.weight.copy_(embeddings * (config.head_std / config.embedding_std))
    look_back(model)
    return model


def policy_logits(
    model: Qwen3ForCausalLM, batch: PolicyBatch, hidden_below: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Run policies, then turns on the policies' keys and values.

    Turns do not see the policies in layers under ``hidden_below``. The model must have the
    policy-turn attention set. Returns logits [M, V] float32 at the M reply positions, their targets
    [M] and the row of turns each belongs to [M].
    """
    width = batch.policy_ids.shape[1]
    columns = torch.arange(width)[None]
    padding = columns >= batch.policy_lengths[:, None]
    bias = torch.zeros(padding.shape).masked_fill(padding, float("-inf"))[:, None, None]
    prefix = SharedPrefix(bias, hidden_below)
    model.model(input_ids=batch.policy_ids, position_ids=columns, prefix=prefix, use_cache=False)
    starts = batch.policy_lengths.repeat_interleave(batch.turns_per_policy)
    positions = starts[:, None] + torch.arange(batch.turn_ids.shape[1])[None]
    hidden = model.model(
        input_ids=batch.turn_ids, position_ids=positions, prefix=prefix, use_cache=False
    ).last_hidden_state
    chosen = batch.labels != IGNORED
    rows = chosen.nonzero()[:, 0]
    return model.lm_head(hidden[chosen]).float(), batch.labels[chosen], rows


def exact_match(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """1.0 for each row whose every target is the most likely token, else 0.0 [rows].

    With true replies as input this is what greedy decoding would get exactly right.
    """
    wrong = (logits.argmax(-1) != targets).long()
    errors = torch.zeros(int(rows.max()) + 1, dtype=torch.long).index_add_(0, rows, wrong)
    return (errors == 0).float()


def _learning_rate_scale(step: int, config: BaseConfig) -> float:
    decay_steps = max(1, round(config.steps * config.decay_share))
    warm = (step + 1) / max(1, config.warmup_steps)
    return min(1.0, warm, (config.steps - step) / decay_steps)


def _optimizers(model: nn.Module, config: BaseConfig) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and name.startswith("model.layers")
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
