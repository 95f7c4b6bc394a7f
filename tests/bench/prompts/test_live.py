"""The whole command on a tiny model."""

import json
from pathlib import Path

import pytest
from gistserve.bench.cli import app
from typer.testing import CliRunner


def test_all_that_is_compared_comes_from_one_command(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for module in ("matplotlib", "torchmetrics"):
        pytest.importorskip(module)
    inputs, output = tmp_path / "inputs.jsonl", tmp_path / "prompts.json"
    rows = [
        {"prompt": f"rules of number {n}" * 5, "input": f"question {n}", "expected": "abc"}
        for n in range(3)
    ]
    inputs.write_text("\n".join(map(json.dumps, rows)))
    words = ["prompts", "--model", str(model_folders["teacher"]), "--output", str(output)]
    words += ["--lengths", "100,300", "--inputs", str(inputs), "--max-tokens", "4"]
    words += ["--rounds", "2", "--requests", "2", "--concurrency", "2", "--budget", "1MiB"]
    words += ["--input-tokens", "10", "--output-tokens", "3", "--kv-cache-memory", "8MiB"]
    words += ["--shared-prompts", "3", "--shared-tokens", "200", "--shared-concurrency", "3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert output.with_suffix(".png").stat().st_size > 1000
    result = json.loads(output.read_text(encoding="utf-8"))
    slot = 2 * 2 * 8 * 2 * 4  # two layers, two heads of 8, keys and values in float32
    for prompt, wanted in zip(result["prompts"], (100, 300), strict=True):
        prefix, gist = prompt["arms"]["prefix"], prompt["arms"]["gist"]
        assert wanted * 0.7 < prompt["prompt_tokens"] < wanted * 1.3
        assert prefix["cache_bytes"] == prompt["prompt_tokens"] * slot
        assert gist["cache_bytes"] == 5 * slot
        assert gist["prompts_in_budget"] == 2**20 // (16 * slot)
        for arm in prompt["arms"].values():
            assert all(len(f["output_throughput"]["rounds"]) == 2 for f in arm["levels"].values())
    for raw in result["raw"]["prompts"]:
        for arms in raw.values():
            assert set(arms["none"]["cells"]["2"]["cached_tokens"]) == {0}
            # A chat is what the template makes of it, with and without a cache.
            assert arms["none"]["prompt_tokens"] == arms["gist"]["prompt_tokens"]
    assert result["shared"]["arms"]["gist"]["output_throughput_ratio"]["least"] > 0
    quality = result["quality"]
    assert quality["examples"] == 3
    assert quality["arms"]["prefix"]["same_as_full_prompt"] == 1.0
    assert quality["fidelity"]["full"]["kl_max"] == 0.0
    assert quality["fidelity"]["gist"]["kl_mean"] > 0.0
