"""LoRA in PEFT's file format, and the linear layers it addresses, without peft.

A *site* is one linear layer, addressed by its name in the causal language model (the name PEFT
writes). A model with fused projections can also be addressed by the logical names of the parts
(`self_attn.q_proj` where the module is `self_attn.qkv_proj`); the site then keeps the output
features that belong to that part.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..kernels.sparse import SparseLinear
from .config import GistAdapterError

PEFT_CONFIG_NAME = "adapter_config.json"
PEFT_WEIGHTS_NAME = "adapter_model.safetensors"

_KEY = re.compile(r"^base_model\.model\.(?P<site>.+)\.lora_(?P<side>[AB])\.weight$")
_FUSED = {
    "q_proj": ("qkv_proj", "c_attn", "query_key_value"),
    "k_proj": ("qkv_proj", "c_attn", "query_key_value"),
    "v_proj": ("qkv_proj", "c_attn", "query_key_value"),
    "gate_proj": ("gate_up_proj",),
    "up_proj": ("gate_up_proj",),
}
# Multi-head latent attention as transformers computes it caches latents, and this layer makes keys
# and values of all of them, new and cached, in each forward. An update of it would act on the sink
# and be lost once the adapter is off, whereas a cache that holds keys and values keeps it.
_BEHIND_CACHE = frozenset({"kv_b_proj"})


class Lora(nn.Module):
    """Low-rank update of one site: y += scale * B A x, with A [rank, in] and B [out, rank]."""

    def __init__(self, site: str, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise GistAdapterError(
                f"LoRA of {site}: A {list(a.shape)} and B {list(b.shape)} do not fit each other"
            )
        self.site = site
        self.scale = scale
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)

    @classmethod
    def create(
        cls, site: "Site", rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> "Lora":
        """A zero update (B = 0, A as in PEFT: uniform within 1/sqrt(in features)), in fp32."""
        bound = 1 / math.sqrt(site.in_features)
        a = torch.empty(rank, site.in_features).uniform_(-bound, bound, generator=generator)
        return cls(site.name, a, torch.zeros(site.out_features, rank), alpha / rank)

    def forward(self, x: Tensor) -> Tensor:
        """The update for inputs x [..., in], shape [..., out], in the LoRA's own dtype."""
        x = x.to(self.a.dtype)
        return nn.functional.linear(nn.functional.linear(x, self.a) * self.scale, self.b)


@dataclass(frozen=True)
class Site:
    """A linear layer (or those of its output features that belong to one fused part)."""

    name: str
    module: nn.Module
    rows: Tensor | None = None  # int64 indices into the output features; None: all of them

    @property
    def in_features(self) -> int:
        return _features(self.module)[0]

    @property
    def out_features(self) -> int:
        return _features(self.module)[1] if self.rows is None else len(self.rows)


def _features(module: nn.Module) -> tuple[int, int]:
    """Input and output features."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear | SparseLinear)
    return module.in_features, module.out_features


def linear_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Name -> module of every linear layer of `model` except its output head."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D | SparseLinear) and module is not head
    }


def find_sites(model: PreTrainedModel, targets: list[str] | str) -> list[Site]:
    """Sites that `targets` address: a list of name endings, or "all-linear".

    "all-linear" leaves out the output head and the layers that run behind the key/value cache.
    Raises GistAdapterError for an ending that addresses nothing, or a layer behind the cache.
    """
    linears = linear_modules(model)
    if targets == "all-linear":
        return [Site(n, module) for n, module in linears.items() if not _runs_behind_cache(n)]
    if isinstance(targets, str):
        targets = [targets]
    sites: dict[str, Site] = {}
    for target in targets:
        names = [name for name in linears if name == target or name.endswith("." + target)]
        found = [site_by_name(model, linears, name) for name in names] or _fused_sites(
            model, linears, target
        )
        if not found:
            endings = sorted({name.rsplit(".", 1)[-1] for name in linears})
            raise GistAdapterError(
                f"target_modules: {target!r} matches no linear layer of {type(model).__name__}; "
                f"its linear layers end in {', '.join(endings)}"
            )
        sites |= {site.name: site for site in found}
    return list(sites.values())


def site_by_name(model: PreTrainedModel, linears: dict[str, nn.Module], name: str) -> Site:
    """The site of one full name.

    Raises GistAdapterError when `model` has no such layer, or it runs behind the key/value cache.
    """
    if name in linears and _runs_behind_cache(name):
        raise GistAdapterError(
            f"a gist LoRA cannot address {name!r}: {type(model).__name__} runs that layer behind "
            "its key/value cache, on the cached states again in every forward, so that the update "
            "would not stay in the cache but end with the compression; leave it out of "
            'target_modules ("all-linear" does)'
        )
    if name in linears:
        return Site(name, linears[name])
    parent, _, part = name.rpartition(".")
    for fused in _FUSED.get(part, ()):
        module = linears.get(f"{parent}.{fused}")
        if module is not None:
            return Site(name, module, _part_rows(model, fused, part, _features(module)[1]))
    raise GistAdapterError(
        f"the adapter addresses {name!r}, which {type(model).__name__} does not have: it was made "
        "for another architecture"
    )


def _runs_behind_cache(name: str) -> bool:
    return name.rpartition(".")[2] in _BEHIND_CACHE


def _fused_sites(model: PreTrainedModel, linears: dict[str, nn.Module], target: str) -> list[Site]:
    prefix, _, part = target.rpartition(".")
    wanted = [f"{prefix}.{fused}" if prefix else fused for fused in _FUSED.get(part, ())]
    names = [n for n in linears for w in wanted if n == w or n.endswith("." + w)]
    return [site_by_name(model, linears, f"{n.rpartition('.')[0]}.{part}") for n in names]


def _part_rows(model: PreTrainedModel, fused: str, part: str, out_features: int) -> Tensor:
    if fused == "gate_up_proj":
        start = 0 if part == "gate_proj" else out_features // 2
        return torch.arange(start, start + out_features // 2)
    index = ("q_proj", "k_proj", "v_proj").index(part)
    if fused == "query_key_value":  # GPT-NeoX lays the three out head by head
        heads = model.config.num_attention_heads
        return torch.arange(out_features).view(heads, 3, -1)[:, index].flatten()
    if fused == "c_attn":  # GPT-2: three equal thirds
        sizes = [out_features // 3] * 3
    else:
        query_heads, kv_heads = (
            model.config.num_attention_heads,
            model.config.num_key_value_heads,
        )
        unit = out_features // (query_heads + 2 * kv_heads)
        sizes = [query_heads * unit, kv_heads * unit, kv_heads * unit]
    return torch.arange(sum(sizes[:index]), sum(sizes[: index + 1]))


def apply_hook(site: Site, lora: Lora) -> Any:
    """Register the forward hook that adds `lora` to the site's output; returns its handle."""

    def add_update(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        update = lora(args[0]).to(output.dtype)
        if site.rows is None:
            return output + update
        return output.index_add(-1, site.rows.to(output.device), update)

    return site.module.register_forward_hook(add_update)


def peft_targets(sites: list[Site], targets: list[str] | str) -> list[str]:
    """`target_modules` for adapter_config.json: a list of endings (PEFT's own convention)."""
    if targets == "all-linear":
        return sorted({site.name.rsplit(".", 1)[-1] for site in sites})
    return [targets] if isinstance(targets, str) else list(targets)


def write_lora(directory: Path, loras: list[Lora], config: dict[str, Any]) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, as PEFT reads them."""
    tensors = {}
    for lora in loras:
        tensors[f"base_model.model.{lora.site}.lora_A.weight"] = lora.a.detach().cpu().contiguous()
        tensors[f"base_model.model.{lora.site}.lora_B.weight"] = lora.b.detach().cpu().contiguous()
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / PEFT_CONFIG_NAME).write_text(text, encoding="utf-8")
    save_file(tensors, directory / PEFT_WEIGHTS_NAME, metadata={"format": "pt"})


def read_lora(directory: Path) -> tuple[list[Lora], dict[str, Any]]:
    """Read a LoRA folder written by PEFT or by `write_lora`: the updates and the raw config.

    Raises GistAdapterError for what is missing, broken, or no plain LoRA.
    """
    config = _read_peft_config(Path(directory) / PEFT_CONFIG_NAME)
    tensors = read_tensors(Path(directory) / PEFT_WEIGHTS_NAME)
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise GistAdapterError(f"{PEFT_WEIGHTS_NAME} holds {key!r}, which is no plain LoRA")
        sides.setdefault(match["site"], {})[match["side"]] = tensor
    loras = []
    for site, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise GistAdapterError(f"{PEFT_WEIGHTS_NAME} has only one of A and B for {site}")
        loras.append(Lora(site, pair["A"], pair["B"], _scale(config, site)))
    return loras, config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; GistAdapterError when it is missing or broken."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise GistAdapterError(f"{path} is missing") from error
    except (OSError, SafetensorError) as error:
        raise GistAdapterError(f"{path} cannot be read: {error}") from error


def _read_peft_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GistAdapterError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise GistAdapterError(f"{path} is not valid JSON: {error}") from error
    if config.get("peft_type") != "LORA":
        raise GistAdapterError(f"{path}: peft_type must be LORA, got {config.get('peft_type')!r}")
    for name, harmless in (("use_dora", (None, False)), ("bias", (None, "none"))):
        if config.get(name) not in harmless:
            raise GistAdapterError(f"{path}: {name}={config[name]!r} is not supported")
    return config


def _scale(config: dict[str, Any], site: str) -> float:
    rank = _by_pattern(config.get("rank_pattern"), site, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), site, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: dict[str, Any] | None, site: str, default: float) -> float:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", site):
            return value
    return default
