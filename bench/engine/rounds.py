"""Rounds over all cases, each beside what the machine reached then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from ..gpu.floor import Ceilings
from .case import EngineCase
from .costs import ModelCosts
from .driver import DecodeTimes, EngineDriver, PrefillTimes
from .machine import Machine


class EngineRounds:
    """Measures cases in turns, so that a busy time of the machine falls on all of them.

    Args:
        driver: of the engine.
        costs: of its model.
        machine: whose ceilings are measured in every round.
        vocab_size: prompts are random tokens below it.
        steps: decode steps of a case in a round.
        on_step: called with a line before every measurement.
    """

    def __init__(
        self,
        driver: EngineDriver,
        costs: ModelCosts,
        machine: Machine,
        *,
        vocab_size: int,
        steps: int,
        on_step: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._costs = costs
        self._machine = machine
        self._vocab_size = vocab_size
        self._steps = steps
        self._on_step = on_step

    def run(self, cases: Sequence[EngineCase], rounds: int, seed: int) -> list[dict[str, Any]]:
        """Ceilings and rows of every round; a first round of the smallest case warms up.

        Raises:
            RuntimeError: a request failed.
        """
        self._on_step("warm-up")
        smallest = min(cases, key=lambda case: case.prompt_tokens)
        self._rows(smallest, Ceilings(None, None), np.random.default_rng((seed, 0)))
        found = []
        for number in range(1, rounds + 1):
            title = f"round {number} of {rounds}"
            self._on_step(f"{title}: the machine")
            ceilings = self._machine.ceilings()
            rows = []
            for index, case in enumerate(cases):
                self._on_step(f"{title}: {case}")
                rows += self._rows(case, ceilings, np.random.default_rng((seed, number, index)))
            found.append(
                {
                    "bandwidth": ceilings.bandwidth,
                    "matmul_rate": ceilings.matmul_rate,
                    "rows": rows,
                }
            )
        return found

    def _rows(
        self, case: EngineCase, ceilings: Ceilings, rng: np.random.Generator
    ) -> list[dict[str, Any]]:
        drawn = rng.integers(0, self._vocab_size, (case.batch, case.context))
        prompts = drawn.tolist()
        prefill = self._driver.prefill(prompts)
        behind = [
            [*prompt, token] for prompt, token in zip(prompts, prefill.first_tokens, strict=True)
        ]
        decode = self._driver.decode(behind, self._steps)
        facts = {"batch": case.batch, "context": case.context}
        return [
            {"phase": "prefill"} | facts | self._prefill_row(case, prefill, ceilings),
            {"phase": "decode"} | facts | self._decode_row(case, decode, ceilings),
        ]

    def _prefill_row(
        self, case: EngineCase, times: PrefillTimes, ceilings: Ceilings
    ) -> dict[str, Any]:
        """The bytes are the weights once a step."""
        return {
            "steps": times.steps,
            "seconds": times.seconds,
            "tokens_per_second": case.prompt_tokens / times.seconds,
            **_shares(
                times.steps * float(self._costs.weight_bytes),
                self._costs.prefill_flops(case.batch, case.context),
                times.seconds,
                ceilings,
            ),
        }

    def _decode_row(
        self, case: EngineCase, times: DecodeTimes, ceilings: Ceilings
    ) -> dict[str, Any]:
        """Of the median step; bytes and operations are the mean of the steps'."""
        seconds = median(times.step_ms) / 1e3
        lengths = [[length] * case.batch for length in times.seq_lens]
        return {
            "step_ms": [round(ms, 4) for ms in times.step_ms],
            "seconds": seconds,
            "tokens_per_second": case.batch / seconds,
            **_shares(
                mean(map(self._costs.decode_bytes, lengths)),
                mean(map(self._costs.decode_flops, lengths)),
                seconds,
                ceilings,
            ),
        }


def _shares(
    num_bytes: float, flops: float, seconds: float, ceilings: Ceilings
) -> dict[str, float | None]:
    """The least that is needed, and the shares of the time that it takes at the machine's rates."""
    return {
        "bytes": num_bytes,
        "flops": flops,
        "share_of_bandwidth": _share(num_bytes, ceilings.bandwidth, seconds),
        "share_of_matmul": _share(flops, ceilings.matmul_rate, seconds),
    }


def _share(amount: float, rate: float | None, seconds: float) -> float | None:
    return None if rate is None else amount / rate / seconds
