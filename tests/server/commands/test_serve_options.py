"""What is asked for on the command line reaches the engine."""

import pytest
from gistserve.server.cli import app
from gistserve.server.commands import serving
from typer.testing import CliRunner


@pytest.fixture
def config_of(monkeypatch):
    def parse(*arguments):
        seen = []

        def run(options, listener):
            listener.close()
            seen.append(options.engine_config())

        monkeypatch.setattr(serving, "run", run)
        result = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
        assert result.exit_code == 0, result.output
        return seen[0]

    return parse


def test_engine_settings(config_of):
    config = config_of(
        *("--max-num-seqs", "3", "--max-model-len", "100", "--max-num-batched-tokens", "50"),
        *("--kv-cache-memory", "2MiB", "--gpu-memory-utilization", "0.5", "--no-prefix-caching"),
        *("--enforce-eager", "--compile"),
    )
    assert (config.max_num_seqs, config.max_model_len, config.max_num_batched_tokens) == (
        3,
        100,
        50,
    )
    assert (config.kv_cache_memory, config.gpu_memory_utilization) == (2 * 2**20, 0.5)
    assert not config.enable_prefix_caching and config.enforce_eager and config.compile


def test_defaults_are_the_engine_s_own(config_of):
    assert config_of() == serving.EngineConfig()


def test_a_share_of_the_gpu_is_at_most_all_of_it():
    result = CliRunner().invoke(app, ["serve", "--gpu-memory-utilization", "1.5"])
    assert result.exit_code == 2 and "--gpu-memory-utilization" in result.output
