"""A sparse checkpoint against its dense masked twin: tokens, bytes, decoding through the engine.

    python -m gistserve.bench.sparse_model

makes a random model of SmolLM-135M's shape, prunes it by magnitude, writes the checkpoint, serves
it and its twin, and takes turns measuring them. Random weights decode as fast as trained ones.
Each step's time is taken by the clock and in processor time, which others' work disturbs less.
"""

import argparse
import os
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ..compress.sparse import save_sparse, sparse_modules, sparsify
from ..server.engine.config import EngineConfig
from ..server.engine.engine import Engine
from ..server.engine.request import Request, RequestOutput
from ..server.engine.sampling_params import SamplingParams
from .results import write_result

SHAPE_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)
PROMPT_LENGTHS = (1, 7, 32, 100)
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_BLOCK_SIZE = 16


def run(
    shape: LlamaConfig,
    *,
    sparsity: float,
    dtype: torch.dtype,
    batches: Sequence[int],
    rounds: int,
    tokens: int,
) -> dict[str, Any]:
    """Figures of one model shape and dtype; times in milliseconds."""
    with TemporaryDirectory(prefix="gistserve-") as folder:
        twin, facts = _make(shape, sparsity, dtype, Path(folder) / "sparse")
        sparse = AutoModelForCausalLM.from_pretrained(Path(folder) / "sparse", dtype=dtype)
    for module in sparse_modules(sparse).values():
        module.prepare()
    dense_engine, sparse_engine = _engine(twin, tokens), _engine(sparse, tokens)
    try:
        return {
            "dtype": str(dtype).removeprefix("torch."),
            "sparsity": sparsity,
            "bytes": facts,
            "same_tokens": _compare(dense_engine, sparse_engine, shape.vocab_size, tokens),
            "decode": [
                _interleaved(dense_engine, sparse_engine, shape.vocab_size, batch, rounds, tokens)
                for batch in batches
            ],
        }
    finally:
        dense_engine.shutdown()
        sparse_engine.shutdown()


def _make(
    shape: LlamaConfig, sparsity: float, dtype: torch.dtype, folder: Path
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The dense masked twin of the checkpoint that is written to `folder`, and its bytes."""
    torch.manual_seed(0)
    twin = LlamaForCausalLM(shape).to(dtype).eval().requires_grad_(False)
    facts = save_sparse(twin, folder, sparsify(twin, sparsity=sparsity))
    promised = facts["dense_bytes"]
    for name in facts["modules"]:
        rows, columns = twin.get_submodule(name).weight.shape
        kept = round(rows * columns * (1 - sparsity))
        promised += rows * -(-columns // 8) + (kept - rows * columns) * dtype.itemsize
    figures = {
        "dense": facts["dense_bytes"],
        "promised_by_the_format": promised,
        "weight_file": facts["weight_file_bytes"],
        "weight_file_over_promised": facts["weight_file_bytes"] / promised,
        "linear_layers_dense": sum(m["dense_bytes"] for m in facts["modules"].values()),
        "linear_layers_sparse": sum(m["bytes"] for m in facts["modules"].values()),
    }
    return twin, figures


def _engine(model: PreTrainedModel, tokens: int) -> Engine:
    blocks = 64 * (2 + (max(PROMPT_LENGTHS) + tokens) // _BLOCK_SIZE)
    # Without prefix caching every round computes the same.
    config = EngineConfig(num_blocks=blocks, block_size=_BLOCK_SIZE, enable_prefix_caching=False)
    engine = Engine(model, config)
    engine.start()
    return engine


def _prompt(length: int, vocab_size: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (length,), generator=generator).tolist()


def _generate(
    engine: Engine, prompts: Sequence[list[int]], tokens: int
) -> tuple[list[list[int]], dict[str, list[float]]]:
    """Greedy tokens of prompts that run together, and when the first one's came by each clock."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    answers: list[list[int]] = [[] for _ in prompts]
    times: dict[str, list[float]] = {name: [] for name in CLOCKS}
    done = threading.Semaphore(0)

    def take(output: RequestOutput) -> None:
        index = int(output.request_id)
        if index == 0:
            for name, clock in CLOCKS.items():
                times[name].append(clock())
        answers[index] += output.new_token_ids
        if output.finish_reason is not None:
            done.release()

    for index, prompt in enumerate(prompts):
        engine.submit(Request(str(index), prompt, sampling), take)
    for _ in prompts:
        done.acquire()
    return answers, times


def _compare(dense: Engine, sparse: Engine, vocab_size: int, tokens: int) -> dict[str, Any]:
    """Whether both engines give the same greedy tokens, one prompt at a time and together."""
    prompts = [_prompt(length, vocab_size, length) for length in PROMPT_LENGTHS]
    alone = [
        _generate(dense, [prompt], tokens)[0] == _generate(sparse, [prompt], tokens)[0]
        for prompt in prompts
    ]
    together = _generate(dense, prompts, tokens)[0] == _generate(sparse, prompts, tokens)[0]
    return {
        "prompt_lengths": PROMPT_LENGTHS,
        "tokens_each": tokens,
        "alone": alone,
        "in_one_batch": together,
    }


def _interleaved(
    dense: Engine, sparse: Engine, vocab_size: int, batch: int, rounds: int, tokens: int
) -> dict[str, Any]:
    """Decode steps of both engines in turns, the one that begins changing every round."""
    prompts = [_prompt(8, vocab_size, seed) for seed in range(batch)]
    arms = [("dense", dense), ("sparse", sparse)]
    for _, engine in arms:
        _generate(engine, prompts, tokens)  # warms up
    # clock -> arm -> the steps of each round, in milliseconds
    steps: dict[str, dict[str, list[list[float]]]] = {
        clock: {name: [] for name, _ in arms} for clock in CLOCKS
    }
    for number in range(rounds):
        for name, engine in arms if number % 2 else reversed(arms):
            _, times = _generate(engine, prompts, tokens)
            for clock, moments in times.items():
                # The first interval may hold the prefill of requests that came later.
                taken = [1e3 * (b - a) for a, b in pairwise(moments[1:])]
                steps[clock][name].append(taken)
    return {"batch": batch, "rounds": rounds} | {
        clock: _figures(by_arm["dense"], by_arm["sparse"]) for clock, by_arm in steps.items()
    }


def _figures(dense: list[list[float]], sparse: list[list[float]]) -> dict[str, Any]:
    ratios = [median(a) / median(b) for a, b in zip(dense, sparse, strict=True)]
    return {
        "dense_ms": _spread(dense),
        "sparse_ms": _spread(sparse),
        "dense_over_sparse": round(median(ratios), 3),
        "dense_over_sparse_by_round": [round(ratio, 3) for ratio in ratios],
    }


def _spread(rounds: list[list[float]]) -> dict[str, float]:
    ordered = sorted(step for steps in rounds for step in steps)
    quarter = len(ordered) // 4
    return {
        "steps": len(ordered),
        "median": round(median(ordered), 3),
        "quartile_1": round(ordered[quarter], 3),
        "quartile_3": round(ordered[-quarter - 1], 3),
    }


def main() -> None:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("bench/results/sparse_135m.json"))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, action="append", help="default: 1 and 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24, help="of every answer")
    options = parser.parse_args()
    figures = [
        run(
            SHAPE_135M,
            sparsity=options.sparsity,
            dtype=getattr(torch, name),
            batches=options.batch or (1, 8),
            rounds=options.rounds,
            tokens=options.tokens,
        )
        for name in options.dtype or ("float32", "bfloat16")
    ]
    load = [round(average, 1) for average in os.getloadavg()]
    write_result(
        options.output, {"load_averages": load, "shape": SHAPE_135M.to_diff_dict(), "runs": figures}
    )
    for result in figures:
        _report(result)
    print(f"written to {options.output}")


def _report(result: dict[str, Any]) -> None:
    sizes, same = result["bytes"], result["same_tokens"]
    print(
        f"{result['dtype']}, sparsity {result['sparsity']}: {sizes['dense']:,} bytes dense, "
        f"{sizes['weight_file']:,} on disk ({sizes['weight_file_over_promised']:.4f} of what the "
        f"format promises); same tokens: {all(same['alone']) and same['in_one_batch']}"
    )
    for row in result["decode"]:
        for clock in CLOCKS:
            dense, sparse = (row[clock][arm]["median"] for arm in ("dense_ms", "sparse_ms"))
            ratio = row[clock]["dense_over_sparse"]
            print(
                f"  batch {row['batch']}, {clock} time: {dense} ms dense, {sparse} ms sparse, "
                f"{ratio:.2f} times as fast"
            )


if __name__ == "__main__":
    main()
