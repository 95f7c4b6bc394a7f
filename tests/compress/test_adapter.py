"""The gist adapter's files and hooks, with the real peft as the oracle."""

import json
from pathlib import Path

import pytest
import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.config import GistAdapterError, GistConfig
from gistserve.compress.lora import find_sites

from .tiny_models import randomise, tiny_model

IDS = torch.tensor([[3, 17, 9, 41, 22, 8]])


def make(family: str = "llama", **settings) -> tuple:
    model = tiny_model(family)
    config = GistConfig(**({"num_gist_tokens": 3, "lora_rank": 4} | settings))
    return model, randomise(GistAdapter.create(model, config))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox", "opt"])
def test_peft_reads_what_we_write(family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, adapter = make(family)
    adapter.save(tmp_path)
    with adapter.applied(model):
        ours = model(IDS).logits
    assert not torch.allclose(ours, model(IDS).logits, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path)(IDS).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_what_peft_writes(family: str, rslora: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=rslora,
        target_modules="all-linear",
        alpha_pattern={"c_attn": 3, "layers.1.mlp.up_proj": 3},
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(tiny_model(family), settings)
    theirs = wrapped(IDS).logits
    _, adapter = make(family)
    adapter.save(tmp_path)
    wrapped.save_pretrained(tmp_path)
    loaded, model = GistAdapter.load(tmp_path), tiny_model(family)
    with loaded.applied(model):
        torch.testing.assert_close(model(IDS).logits, theirs, atol=1e-5, rtol=1e-5)


def test_round_trip_and_base_untouched(tmp_path: Path) -> None:
    model, adapter = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = model(IDS).logits
    loaded = GistAdapter.load(adapter.save(tmp_path))
    assert loaded.config == adapter.config
    assert torch.equal(loaded.gist_embeddings, adapter.gist_embeddings)
    with adapter.applied(model):
        ours = model(IDS).logits
    with loaded.applied(model):
        assert torch.equal(model(IDS).logits, ours)
    assert torch.equal(model(IDS).logits, plain)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.pt"))


def test_copy_values_goes_by_name(tmp_path: Path) -> None:
    model, adapter = make()
    fresh = GistAdapter.create(model, adapter.config)
    parameters = list(fresh.parameters())
    fresh.copy_values(GistAdapter.load(adapter.save(tmp_path)))
    with adapter.applied(model):
        ours = model(IDS).logits
    with fresh.applied(model):
        assert torch.equal(model(IDS).logits, ours)
    assert all(old is new for old, new in zip(parameters, fresh.parameters(), strict=True))
    _, other = make(target_modules=["q_proj"])
    with pytest.raises(GistAdapterError, match=r"differ in model\.layers"):
        fresh.copy_values(other)


def test_hooks_go_when_the_pass_fails() -> None:
    model, adapter = make()
    plain = model(IDS).logits
    with pytest.raises(ZeroDivisionError), adapter.applied(model):
        raise ZeroDivisionError
    assert torch.equal(model(IDS).logits, plain)
    with adapter.applied(model), pytest.raises(RuntimeError, match="already"):
        adapter.applied(model).__enter__()


@pytest.mark.parametrize(
    ("family", "fused", "parts"),
    [
        ("phi3", "self_attn.qkv_proj", ["q_proj", "k_proj", "v_proj"]),
        ("phi3", "mlp.gate_up_proj", ["gate_proj", "up_proj"]),
        ("gpt2", "attn.c_attn", ["q_proj", "k_proj", "v_proj"]),
        ("gpt_neox", "attention.query_key_value", ["q_proj", "k_proj", "v_proj"]),
    ],
)
def test_fused_projections_split_into_all_their_rows(
    family: str, fused: str, parts: list[str]
) -> None:
    model = tiny_model(family)
    whole = find_sites(model, [fused])[0]
    sites = [find_sites(model, [part])[0] for part in parts]
    assert all(site.module is whole.module for site in sites)
    rows = torch.cat([site.rows for site in sites])
    assert sorted(rows.tolist()) == list(range(whole.out_features))


def test_fused_slices_are_the_right_ones() -> None:
    """A key-only LoRA on GPT-NeoX leaves queries and values of layer 0 as they are."""
    for family in ("phi3", "gpt2", "gpt_neox"):
        for part, changed in (("k_proj", "keys"), ("v_proj", "values"), ("q_proj", None)):
            model, adapter = make(family, target_modules=[part])
            plain = model(IDS, use_cache=True).past_key_values.layers[0]
            with adapter.applied(model):
                ours = model(IDS, use_cache=True).past_key_values.layers[0]
            for side in ("keys", "values"):
                same = torch.equal(getattr(ours, side), getattr(plain, side))
                assert same == (side != changed), (family, part, side)


def test_an_unfused_adapter_works_on_the_fused_model(tmp_path: Path) -> None:
    """Merging the update into the fused weight's rows gives the same logits."""
    model, adapter = make("phi3", target_modules=["v_proj"])
    loaded = GistAdapter.load(adapter.save(tmp_path))
    with loaded.applied(model):
        ours = model(IDS).logits
    for lora in loaded.loras:
        module = model.get_submodule(lora.site.replace("v_proj", "qkv_proj"))
        rows = lora.b.shape[0]
        with torch.no_grad():
            module.weight[-rows:] += lora.scale * lora.b @ lora.a
    torch.testing.assert_close(model(IDS).logits, ours, atol=1e-5, rtol=1e-5)


def test_model_card_shows_facts_and_arms(tmp_path: Path) -> None:
    _, adapter = make()
    adapter.config.training = {"data": "a|b.jsonl", "steps": 3}
    adapter.config.metrics = {"full": {"nll": 1.0}, "gist": {"nll": 1.23456, "kl_mean": 0.5}}
    adapter.save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| data | a\\|b.jsonl |\n| steps | 3 |" in card
    table = "| measure | full | gist |\n|---|---|---|\n| nll | 1 | 1.235 |\n| kl_mean |  | 0.5 |"
    assert table in card
    assert GistAdapter.load(tmp_path).config == adapter.config


def test_adapter_without_lora(tmp_path: Path) -> None:
    model, adapter = make(lora_rank=0)
    loaded = GistAdapter.load(adapter.save(tmp_path))
    with loaded.applied(model):
        assert model(IDS).logits.shape[1] == 6


def test_wrong_models_and_targets_are_named() -> None:
    _, adapter = make("llama")
    with pytest.raises(GistAdapterError, match=r"layers\.0\.mlp\.down_proj.*another arch"):
        adapter.check_model(tiny_model("gpt2"))
    _, narrow = make("qwen3")
    with pytest.raises(GistAdapterError, match=r"\[64, 32\].*\[40, 32\].*another model"):
        wide = tiny_model("qwen3")
        wide.model.layers[0].self_attn.q_proj = torch.nn.Linear(32, 40)
        narrow.check_model(wide)
    with pytest.raises(GistAdapterError, match=r"'nonsense' matches no.*q_proj"):
        make(target_modules=["nonsense"])


def test_layers_behind_the_cache_are_left_out() -> None:
    """deepseek_v3 expands its cached latents by kv_b_proj again in each forward."""
    model, adapter = make("deepseek_v3")
    endings = {lora.site.rsplit(".", 1)[-1] for lora in adapter.loras}
    assert "kv_a_proj_with_mqa" in endings and "kv_b_proj" not in endings
    assert "kv_b_proj" not in adapter.peft_config["target_modules"]
    cache = model(IDS, use_cache=True).past_key_values
    behind = set()

    def note(module: torch.nn.Linear, args: tuple, output: torch.Tensor) -> None:
        if args[0].numel() > module.in_features:  # more than the one new token
            behind.add(module)

    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for module in linears.values():
        module.register_forward_hook(note)
    model(IDS[:, :1], past_key_values=cache)
    assert behind == {m for n, m in linears.items() if n.endswith("kv_b_proj")} != set()


def test_a_target_behind_the_cache_is_refused(tmp_path: Path) -> None:
    reason = r"kv_b_proj.*behind its key/value cache"
    for target in ("kv_b_proj", "self_attn.kv_b_proj"):
        with pytest.raises(GistAdapterError, match=reason):
            make("deepseek_v3", target_modules=["q_a_proj", target])
    model, adapter = make("deepseek_v3", target_modules=["q_a_proj"])
    layer = model.model.layers[0].self_attn.kv_b_proj
    adapter.loras[0].site = "model.layers.0.self_attn.kv_b_proj"
    adapter.loras[0].a = torch.nn.Parameter(torch.zeros(4, layer.in_features))
    adapter.loras[0].b = torch.nn.Parameter(torch.zeros(layer.out_features, 4))
    with pytest.raises(GistAdapterError, match=reason):
        GistAdapter.load(adapter.save(tmp_path)).check_model(model)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("gist_config.json", None, "gist_config.json cannot be read"),
        ("gist_config.json", {"num_gist_tokens": 4}, "num_gist_tokens is 4"),
        ("gist_config.json", {"num_gist_tokens": 0}, "num_gist_tokens must be"),
        ("gist_config.json", {"format_version": 9}, "format_version 9"),
        ("gist_config.json", {"colour": 1}, "unknown fields: colour"),
        ("adapter_config.json", {"peft_type": "LOHA"}, "LOHA"),
        ("adapter_config.json", {"use_dora": True}, "use_dora"),
        ("adapter_config.json", None, "adapter_config.json cannot be read"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors is missing"),
        ("gist_embeddings.safetensors", None, "gist_embeddings.safetensors is missing"),
    ],
)
def test_broken_folders_are_refused(
    name: str, edit: dict | None, message: str, tmp_path: Path
) -> None:
    make()[1].save(tmp_path)
    path = tmp_path / name
    if edit is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(GistAdapterError, match=message):
        GistAdapter.load(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    make()[1].save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(GistAdapterError, match="cannot be read"):
        GistAdapter.load(tmp_path)
