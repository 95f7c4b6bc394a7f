"""Does a gist answer as its full prompt does? The embedded model on policies it never saw.

Every arm answers the same messages through the engine that serves them, greedily:

    full        the whole policy in the prompt
    gist        the policy compressed by the adapter, its cache pinned in the engine
    untrained   the same with a fresh adapter of the same shape
    truncated   the policy cut to as many tokens as the gist has slots: equal bytes
    none        the message alone
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..compress.adapter import GistAdapter
from ..compress.fingerprint import model_fingerprint, with_adapter
from ..compress.weights_hash import weights_hash
from ..server.engine.config import EngineConfig
from ..server.engine.engine import Engine
from ..server.engine.loader import load_model
from ..server.engine.pinned import PinnedCache
from ..server.engine.request import Request, RequestOutput
from ..server.engine.sampling_params import SamplingParams
from ..training.demo.policy import Policy, PolicyMix, Turn, chat, sample_policy, sample_turn
from ..training.demo.policy_file import write_policies
from ..training.gist.data import Limits, load_examples
from ..training.gist.evaluation import evaluate_gist

Arm = Literal["full", "gist", "untrained", "truncated", "none"]
ARMS: tuple[Arm, ...] = ("full", "gist", "untrained", "truncated", "none")

SPLITS = {
    "main": PolicyMix(min_rules=3, max_rules=6, max_fillers=8),
    "long": PolicyMix(min_rules=3, max_rules=6, min_fillers=4, max_fillers=8),
    "more_rules": PolicyMix(min_rules=7, max_rules=8, max_fillers=8),
    "unseen_wording": PolicyMix(min_rules=3, max_rules=6, max_fillers=8, wording="unseen"),
}

GROUP = 64
"""Policies whose caches are pinned at once."""


class Case(NamedTuple):
    """One policy and message as token ids: leading ``policy_ids``, then ``message_ids``."""

    policy_ids: list[int]
    message_ids: list[int]
    alone_ids: list[int]
    reply: str
    names_topic: bool


@dataclass
class Score:
    """Answers of one arm on one split."""

    answers: int = 0
    exact: int = 0
    named: int = 0
    named_exact: int = 0

    def add(self, case: Case, answer: str) -> None:
        right = answer == case.reply
        self.answers += 1
        self.exact += right
        self.named += case.names_topic
        self.named_exact += right and case.names_topic

    def to_json(self) -> dict[str, Any]:
        implied = self.answers - self.named
        return asdict(self) | {
            "exact_match": self.exact / self.answers,
            "exact_match_topic_named": self.named_exact / max(1, self.named),
            "exact_match_topic_implied": (self.exact - self.named_exact) / max(1, implied),
        }


class PolicyQuality:
    """Runs the arms of every split for one model folder with its adapter.

    Raises what loading the model or the adapter raises.
    """

    def __init__(self, model: Path, adapter: Path, *, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.tokenizer = load_model(str(model), dtype, "cpu")
        self.adapter = GistAdapter.load(adapter)
        self._folder = model

    def run(self, policies: int, seed: int, names: Sequence[str] = tuple(SPLITS)) -> dict[str, Any]:
        """Figures of some splits, ``policies`` each with one message, drawn by ``seed``."""
        before = weights_hash(self.model)
        splits = {name: self._split(name, SPLITS[name], policies, seed) for name in names}
        return {
            "slots": self.adapter.config.slots,
            "splits": splits,
            "fidelity": self._fidelity(policies, seed),
            "weights_hash_before": before,
            "weights_hash_after": weights_hash(self.model),
        }

    def _fidelity(self, policies: int, seed: int) -> dict[str, Any]:
        """Teacher-forced measures against the full prompt on policies of the main split."""
        limit = int(self.model.config.max_position_embeddings)
        limits = Limits(max_tokens=limit, gist_tokens=self.adapter.config.num_gist_tokens)
        with TemporaryDirectory() as folder:
            data = Path(folder) / "policies.jsonl"
            write_policies(data, SPLITS["main"], f"{seed}/bench/fidelity", policies, 1)
            examples = load_examples(data, self.tokenizer, limits)
        report = evaluate_gist(
            self.model, self.tokenizer, self.adapter, examples, generate=False, progress=True
        )
        return {str(arm): measures for arm, measures in report.items()}

    def cases(self, mix: PolicyMix, policies: int, seed: str) -> list[Case]:
        """Policies of ``mix`` with one message each, drawn by ``seed``."""
        rng = random.Random(seed)
        drawn = []
        for _ in range(policies):
            policy = sample_policy(rng, mix)
            drawn.append(make_case(self.tokenizer, policy, sample_turn(rng, policy, mix)))
        return drawn

    def _split(self, name: str, mix: PolicyMix, policies: int, seed: int) -> dict[str, Any]:
        cases = self.cases(mix, policies, f"{seed}/bench/{name}")
        slots = self.adapter.config.slots
        lengths = [len(case.policy_ids) for case in cases]
        scores = {arm: self.score(arm, cases, f"{name}: {arm}") for arm in ARMS}
        return {
            "policies": policies,
            "policy_tokens_mean": sum(lengths) / policies,
            "policy_tokens_min": min(lengths),
            "policy_tokens_max": max(lengths),
            "compression_mean": sum(lengths) / policies / slots,
            "compression_min": min(lengths) / slots,
            "arms": {arm: score.to_json() for arm, score in scores.items()},
        }

    def score(self, arm: Arm, cases: Sequence[Case], label: str = "") -> Score:
        """Answer every case in one arm, through an engine of its own."""
        adapter = self.adapter
        if arm == "untrained":
            adapter = GistAdapter.create(self.model, self.adapter.config)
        base = model_fingerprint(self.model, self.tokenizer, source=self._folder)
        engine = Engine(
            self.model, EngineConfig(), adapter, fingerprint=with_adapter(base, adapter)
        )
        engine.start()
        try:
            return self._answers(engine, arm, cases, label)
        finally:
            engine.shutdown()

    def _answers(self, engine: Engine, arm: Arm, cases: Sequence[Case], label: str) -> Score:
        score = Score()
        slots = self.adapter.config.slots
        bar = tqdm(total=len(cases), desc=label, leave=False)
        for start in range(0, len(cases), GROUP):
            group = cases[start : start + GROUP]
            pins = _pin(engine, group) if arm in ("gist", "untrained") else None
            requests = [
                _request(arm, case, slots, f"{arm}-{start + i}", pins[i] if pins else None)
                for i, case in enumerate(group)
            ]
            outputs = generate_all(engine, requests)
            for pin in pins or ():
                engine.unpin(pin).result()
            for case, ids in zip(group, outputs, strict=True):
                score.add(case, self.tokenizer.decode(ids, skip_special_tokens=True))
            bar.update(len(group))
        bar.close()
        return score


def make_case(tokenizer: PreTrainedTokenizerBase, policy: Policy, turn: Turn) -> Case:
    """Token ids of one policy and turn, by the tokenizer's chat template."""
    system, user, _ = chat(policy, turn)

    def ids(messages: list[dict[str, str]], prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    head, whole = ids([system], False), ids([system, user], True)
    assert whole[: len(head)] == head
    return Case(head, whole[len(head) :], ids([user], True), turn.reply, turn.names_topic)


def _request(
    arm: Arm, case: Case, slots: int, request_id: str, pinned: PinnedCache | None
) -> Request:
    ids = {
        "full": [*case.policy_ids, *case.message_ids],
        "truncated": [*case.policy_ids[:slots], *case.message_ids],
        "none": case.alone_ids,
    }.get(arm, case.message_ids)
    return Request(request_id, ids, SamplingParams(max_tokens=48, temperature=0.0), pinned)


def _pin(engine: Engine, cases: Sequence[Case]) -> list[PinnedCache]:
    caches = [engine.compress(case.policy_ids, "gist") for case in cases]
    return [engine.pin(cache.result()).result() for cache in caches]


def generate_all(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """Generated ids of every request, in order. RuntimeError if one of them fails."""
    ids: dict[str, list[int]] = {request.request_id: [] for request in requests}
    failures: list[str] = []
    left = threading.Semaphore(0)

    def collect(output: RequestOutput) -> None:
        ids[output.request_id].extend(output.new_token_ids)
        if output.finish_reason is not None:
            if output.error:
                failures.append(output.error)
            left.release()

    for request in requests:
        engine.submit(request, collect)
    for _ in requests:
        left.acquire()
    if failures:
        raise RuntimeError(failures[0])
    return list(ids.values())
