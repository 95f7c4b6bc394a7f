"""What is asked for by flag, environment or file reaches the server and its engines."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from gistserve.server.api.prompt_memory import PromptMemory
from gistserve.server.api.settings import ServerSettings
from gistserve.server.cli import app
from gistserve.server.commands import serving
from gistserve.server.commands.model_loading import engine_config
from gistserve.server.commands.model_options import Dtype, ModelOptions, model_from_mapping
from gistserve.server.commands.model_source import ModelSource
from gistserve.server.commands.serve_options import Device, ServeOptions
from gistserve.server.engine.config import EngineConfig
from gistserve.server.logs import LogFormat, LogLevel
from typer.testing import CliRunner

MODEL = ModelOptions(source=ModelSource("m", "org/m"))

# For every option: a value as it is written, and what it means.
WRITTEN = {
    "models": ("m=org/m", [MODEL]),
    "gist_adapters": ("some/folder", [Path("some/folder")]),
    "host": ("localhost", "localhost"),
    "port": ("0", 0),
    "api_key": ("secret", "secret"),
    "cors_origins": ("https://a.example", ["https://a.example"]),
    "max_body_size": ("1MiB", 2**20),
    "max_total_body_size": ("100MiB", 100 * 2**20),
    "device": ("cpu", Device.cpu),
    "dtype": ("bfloat16", Dtype.bfloat16),
    "max_model_len": ("100", 100),
    "max_num_seqs": ("3", 3),
    "max_num_batched_tokens": ("50", 50),
    "max_queue": ("7", 7),
    "max_queue_tokens": ("900", 900),
    "queue_timeout": ("2.5", 2.5),
    "request_timeout": ("60", 60.0),
    "step_timeout": ("90", 90.0),
    "shutdown_timeout": ("5", 5.0),
    "kv_cache_memory": ("2MiB", 2 * 2**20),
    "prompt_memory": ("1MiB", 2**20),
    "prompt_host_memory": ("0", 0),
    "gpu_memory_utilization": ("0.5", 0.5),
    "enforce_eager": ("true", True),
    "compile": ("true", True),
    "decode_batch": ("2", 2),
    "prefix_caching": ("false", False),
    "embeddings": ("true", True),
    "log_level": ("debug", LogLevel.debug),
    "log_format": ("json", LogFormat.json),
    "store": ("some/store", Path("some/store")),
    "store_limit": ("3MB", 3 * 10**6),
}
FLAGS = {
    "models": "--model",
    "gist_adapters": "--gist-adapter",
    "cors_origins": "--cors-origin",
}


class Parser:
    """`gistserve serve` up to where it would load anything."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "serve.yaml"
        self.seen: list[tuple[ServeOptions, list[ModelOptions]]] = []
        monkeypatch.setattr(serving, "run", self._run)

    def _run(self, options, models, listener):
        listener.close()
        self.seen.append((options, models))

    def invoke(self, *arguments, environment=None, file=None):
        environment = {"COLUMNS": "300", "GISTSERVE_PORT": "0", **(environment or {})}
        if file is not None:
            self.file.write_text(file if isinstance(file, str) else yaml.safe_dump(file))
            environment["GISTSERVE_CONFIG"] = str(self.file)
        return CliRunner().invoke(app, ["serve", *arguments], env=environment)

    def options(self, *arguments, **given) -> ServeOptions:
        result = self.invoke(*arguments, **given)
        assert result.exit_code == 0, result.output
        return self.seen[-1][0]

    def refusal(self, *arguments, **given) -> str:
        """What is said to a value that is refused before anything is loaded."""
        result = self.invoke(*arguments, **given)
        assert result.exit_code == 2 and not self.seen, result.output
        assert "Traceback" not in result.output
        return " ".join(result.stderr.split())


@pytest.fixture
def serve(tmp_path, monkeypatch):
    return Parser(tmp_path, monkeypatch)


def test_every_option_is_tried_here():
    assert {field.name for field in fields(ServeOptions)} == {"config", *WRITTEN}


@pytest.mark.parametrize("name", WRITTEN)
def test_an_option_by_each_of_the_three_ways(serve, name):
    written, meaning = WRITTEN[name]
    flag = FLAGS.get(name, "--" + name.replace("_", "-"))
    if isinstance(meaning, bool):
        by_flag = [flag if meaning else flag.replace("--", "--no-")]
    else:
        by_flag = [flag, written]
    variable = {"GISTSERVE_" + name.upper(): written}
    key = {name: yaml.safe_load(written)}
    for given in (
        serve.options(*by_flag),
        serve.options(environment=variable),
        serve.options(file=key),
        serve.options(file={name.replace("_", "-"): [written] if name in FLAGS else written}),
    ):
        assert getattr(given, name) == meaning
        assert replace(given, **{name: None}, config=None) == replace(
            ServeOptions(port=0), **{name: None}
        )


def test_help_names_every_variable(serve):
    said = serve.invoke("--help").output
    for name in WRITTEN:
        assert f"GISTSERVE_{name.upper()}" in said


def test_flags_go_before_the_environment_and_that_before_the_file(serve):
    file = {"max_num_seqs": 1, "max_model_len": 10, "host": "localhost", "models": ["org/file"]}
    environment = {"GISTSERVE_MAX_NUM_SEQS": "2", "GISTSERVE_MAX_MODEL_LEN": "20"}
    given = serve.options(
        "--max-num-seqs", "3", "--model", "m=org/m", environment=environment, file=file
    )
    assert (given.max_num_seqs, given.max_model_len, given.host) == (3, 20, "localhost")
    assert given.models == [MODEL]  # the whole list, not added to the file's


def test_nothing_in_a_file_is_the_default(serve):
    for nothing in ("", "# nothing\n", "host:\nmodels:\n"):
        assert replace(serve.options(file=nothing), config=None) == ServeOptions(port=0)


def test_several_models_with_options_of_their_own(serve):
    file = """
    dtype: float32
    max_num_seqs: 8
    models:
      - {name: teacher, path: org/big, dtype: bfloat16, max_model_len: 4096}
      - {path: org/student, max_num_seqs: 2, gist_adapter: adapters/student}
      - third=org/third
    """
    teacher, student, third = serve.options(file=file).models
    assert teacher.source == ModelSource("teacher", "org/big")
    assert student.source == ModelSource("org/student", "org/student")
    assert student.gist_adapter == Path("adapters/student")
    assert third == ModelOptions(source=ModelSource("third", "org/third"))
    base = EngineConfig(dtype=torch.float32, max_num_seqs=8)
    own = replace(base, dtype=torch.bfloat16, max_model_len=4096)
    assert engine_config(base, teacher) == own
    assert engine_config(base, student) == replace(base, max_num_seqs=2)
    assert engine_config(base, third) == base
    as_stored = model_from_mapping({"path": "org/m", "dtype": "auto"})
    assert engine_config(base, as_stored) == replace(base, dtype=None)


def test_models_with_options_by_flag_and_by_environment(serve):
    values = {"name": "m", "path": "org/m", "max_model_len": 7}
    written = json.dumps(values, separators=(",", ":"))
    by_flag = serve.options("--model", json.dumps(values), "--model", "b=org/b").models
    by_environment = serve.options(environment={"GISTSERVE_MODELS": f"{written} b=org/b"}).models
    assert (
        by_flag
        == by_environment
        == [
            replace(MODEL, max_model_len=7),
            ModelOptions(source=ModelSource("b", "org/b")),
        ]
    )


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"prot": 1}, "no option 'prot'; did you mean port?"),
        ({"model": "org/m"}, "no option 'model'; did you mean models?"),
        ({"config": "other.yaml"}, "no option 'config'; known: models, gist_adapters, host"),
        ({"port": "many"}, "port cannot be 'many': "),
        ({"port": 99999}, "port cannot be 99999: "),
        ({"max_num_seqs": 2.5}, "max_num_seqs cannot be 2.5: "),
        ({"max_num_seqs": True}, "max_num_seqs cannot be True: "),
        ({"dtype": "int8"}, "dtype cannot be 'int8': "),
        ({"kv_cache_memory": "lots"}, "kv_cache_memory cannot be 'lots': 'lots' is no size"),
        ({"host": ["a", "b"]}, "host takes one value, not a list"),
        ({"models": ["a=org/a", {"name": "b"}]}, "the model {'name': 'b'} needs a path"),
        (
            {"models": [{"path": "org/a", "max_modellen": 3}]},
            "a model has no option 'max_modellen'; did you mean max_model_len?",
        ),
        (
            {"models": [{"path": "org/a", "max_model_len": 0}]},
            "max_model_len of model org/a must be a positive integer, not 0",
        ),
        (
            {"models": [{"path": "org/a", "dtype": "int8"}]},
            "dtype of model org/a must be one of auto, float32, bfloat16, float16, not 'int8'",
        ),
        ({"models": ["/no/such/model"]}, "the model folder /no/such/model does not exist"),
        ("port: [", "is not valid YAML"),
        ("- port", "holds no mapping of options"),
        ("port: 1\nhost: a\nport: 2\n", "`port` in line 3 is given already in line 1"),
        ("max-queue: 1\n\nmax_queue: 2\n", "`max_queue` in line 3 is given already in line 1"),
        (
            "models:\n  - path: org/a\n    dtype: auto\n    path: org/b\n",
            "`path` in line 4 is given already in line 2",
        ),
    ],
)
def test_what_a_file_cannot_say(serve, file, said):
    refused = serve.refusal(file=file)
    assert said in refused
    assert str(serve.file) in refused


def test_a_key_may_override_a_merged_one_and_stand_in_several_models(serve):
    given = serve.options(
        file="""
models:
  - &first {path: org/a, max_model_len: 10}
  - &second {<<: *first, path: org/b}
  - {<<: *second, path: org/c, max_model_len: 30}
"""
    )
    assert [(model.source.location, model.max_model_len) for model in given.models] == [
        ("org/a", 10),
        ("org/b", 10),
        ("org/c", 30),
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "tcp://1.2.3.4:80"), ("DTYPE", "int8"), ("KV_CACHE_MEMORY", "big")]
)
def test_a_wrong_variable_is_named(serve, name, value):
    assert f"GISTSERVE_{name}" in serve.refusal(environment={f"GISTSERVE_{name}": value})


def test_a_file_that_is_not_there(serve):
    assert "/no/such.yaml cannot be read" in serve.refusal("--config", "/no/such.yaml")


def test_engine_settings(serve):
    given = serve.options(
        *("--max-num-seqs", "3", "--max-model-len", "100", "--max-num-batched-tokens", "50"),
        *("--kv-cache-memory", "2MiB", "--gpu-memory-utilization", "0.5", "--no-prefix-caching"),
        *("--decode-batch", "4"),
        *("--enforce-eager", "--compile", "--dtype", "float16", "--device", "cpu"),
    )
    assert serving.base_config(given) == EngineConfig(
        max_num_seqs=3,
        max_model_len=100,
        max_num_batched_tokens=50,
        kv_cache_memory=2 * 2**20,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=False,
        enforce_eager=True,
        compile=True,
        decode_batch=4,
        dtype=torch.float16,
        device="cpu",
    )


def test_limits_of_the_http_interface(serve):
    given = serve.options(
        *("--max-queue", "7", "--max-queue-tokens", "900"),
        *("--queue-timeout", "2.5", "--request-timeout", "60", "--step-timeout", "90"),
        *("--cors-origin", "https://a", "--cors-origin", "https://b", "--max-body-size", "1MiB"),
        *("--prompt-memory", "1MiB", "--prompt-host-memory", "2GiB"),
        *("--max-total-body-size", "3MiB"),
    )
    assert serving.server_settings(given) == ServerSettings(
        max_queue=7,
        max_queue_tokens=900,
        queue_timeout=2.5,
        request_timeout=60.0,
        step_timeout=90.0,
        cors_origins=("https://a", "https://b"),
        max_body_bytes=2**20,
        max_total_body_bytes=3 * 2**20,
        prompt_memory=PromptMemory(device=2**20, host=2**31),
    )
    assert serving.server_settings(serve.options()) == ServerSettings()


def test_defaults_are_the_engine_s_own(serve):
    assert serving.base_config(serve.options()) == EngineConfig()


def test_a_share_of_the_gpu_is_at_most_all_of_it(serve):
    assert "--gpu-memory-utilization" in serve.refusal("--gpu-memory-utilization", "1.5")
