"""A gist adapter: the trained part that turns a prompt into gist tokens for a frozen model."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .config import CONFIG_NAME, GistAdapterError, GistConfig
from .lora import (
    Lora,
    Site,
    apply_hook,
    find_sites,
    linear_modules,
    peft_targets,
    read_lora,
    read_tensors,
    site_by_name,
    write_lora,
)

EMBEDDINGS_NAME = "gist_embeddings.safetensors"
CARD_NAME = "README.md"


class GistAdapter(nn.Module):
    """Gist embeddings [k, H] and a LoRA that acts only inside `with adapter.applied(model)`.

    Its parameters are the trainable ones (fp32 when created here); the base model's weights are
    never touched. On disk it is a folder: the LoRA as PEFT writes it, `gist_embeddings.safetensors`
    (tensor `gist_embeddings`), `gist_config.json` and a model card.
    """

    def __init__(
        self,
        config: GistConfig,
        gist_embeddings: Tensor,
        loras: list[Lora],
        peft_config: dict[str, Any],
    ) -> None:
        super().__init__()
        if gist_embeddings.ndim != 2 or gist_embeddings.shape[0] != config.num_gist_tokens:
            raise GistAdapterError(
                f"gist embeddings have shape {list(gist_embeddings.shape)}, but num_gist_tokens "
                f"is {config.num_gist_tokens}"
            )
        self.config = config
        self.gist_embeddings = nn.Parameter(gist_embeddings)
        in_order: list[Lora] = sorted(loras, key=lambda lora: lora.site)
        self.loras = nn.ModuleList(in_order)
        self.peft_config = peft_config
        self._bound: tuple[weakref.ref[nn.Module], list[Site]] | None = None
        self._active = False

    @classmethod
    def create(
        cls, model: PreTrainedModel, config: GistConfig, *, seed: int = 0, noise: float = 0.1
    ) -> "GistAdapter":
        """An untrained adapter for `model`, on its device.

        Every gist embedding starts as the mean of the model's token embeddings plus normal noise
        of `noise` standard deviations of each component (0: all equal, as in the paper); the LoRA
        starts as no update. Raises GistAdapterError for targets the model does not have.
        """
        generator = torch.Generator().manual_seed(seed)
        table = model.get_input_embeddings().weight.detach().float().cpu()
        spread = torch.randn(config.num_gist_tokens, table.shape[1], generator=generator)
        gists = table.mean(0) + noise * table.std(0) * spread
        sites = find_sites(model, config.target_modules) if config.lora_rank else []
        loras = [Lora.create(s, config.lora_rank, config.lora_alpha, generator) for s in sites]
        adapter = cls(config, gists, loras, _peft_config(config, sites))
        return adapter.to(model.device)

    @classmethod
    def load(cls, directory: str | Path, device: torch.device | str = "cpu") -> "GistAdapter":
        """Read an adapter folder. Raises GistAdapterError naming what is missing or broken."""
        directory = Path(directory)
        config = GistConfig.load(directory)
        tensors = read_tensors(directory / EMBEDDINGS_NAME)
        if set(tensors) != {"gist_embeddings"}:
            raise GistAdapterError(
                f"{EMBEDDINGS_NAME} must hold the tensor gist_embeddings, it holds "
                f"{sorted(tensors)}"
            )
        loras, peft_config = read_lora(directory)
        return cls(config, tensors["gist_embeddings"], loras, peft_config).to(device)

    def save(self, directory: str | Path) -> Path:
        """Write the adapter folder (created where missing) and return its path."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        gists = self.gist_embeddings.detach().cpu().contiguous()
        save_file({"gist_embeddings": gists}, directory / EMBEDDINGS_NAME)
        loras = [lora for lora in self.loras if isinstance(lora, Lora)]
        write_lora(directory, loras, self.peft_config)
        self.config.save(directory)
        (directory / CARD_NAME).write_text(model_card(self.config), encoding="utf-8")
        return directory

    def copy_values(self, other: "GistAdapter") -> None:
        """Take over the parameters of an adapter of the same shape; GistAdapterError if it is not.

        The parameters stay the same objects, so an optimizer keeps hold of them.
        """
        ours, theirs = self._shapes(), other._shapes()
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        if differing:
            name = differing[0]
            raise GistAdapterError(
                f"the adapters differ in {name}: {theirs.get(name)} instead of {ours.get(name)}"
            )
        self.load_state_dict(other.state_dict())

    def _shapes(self) -> dict[str, list[list[int]]]:
        shapes = {"gist_embeddings": [list(self.gist_embeddings.shape)]}
        for lora in self.loras:
            assert isinstance(lora, Lora)
            shapes[lora.site] = [list(lora.a.shape), list(lora.b.shape)]
        return shapes

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Add the LoRA to `model`'s linear layers for the duration of the block.

        Raises GistAdapterError when the model's layers are not those the adapter was made for.
        """
        if self._active:
            raise RuntimeError("the gist adapter is already applied")
        sites = self._sites(model)
        handles: list[Any] = []
        self._active = True
        try:
            handles.extend(
                apply_hook(site, lora)  # type: ignore[arg-type]
                for site, lora in zip(sites, self.loras, strict=True)
            )
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._active = False

    def check_model(self, model: nn.Module) -> None:
        """Raise GistAdapterError unless the adapter's shapes fit `model`."""
        self._sites(model)

    def _sites(self, model: nn.Module) -> list[Site]:
        if self._bound is None or self._bound[0]() is not model:
            self._bound = (weakref.ref(model), self._resolve(model))
        return self._bound[1]

    def _resolve(self, model: Any) -> list[Site]:
        width = model.get_input_embeddings().weight.shape[1]
        if self.gist_embeddings.shape[1] != width:
            raise GistAdapterError(
                f"gist embeddings have width {self.gist_embeddings.shape[1]}, the model's token "
                f"embeddings {width}: the adapter was made for another model"
            )
        linears = linear_modules(model)
        sites = []
        for lora in self.loras:
            assert isinstance(lora, Lora)
            site = site_by_name(model, linears, lora.site)
            expected = (lora.b.shape[0], lora.a.shape[1])
            if (site.out_features, site.in_features) != expected:
                raise GistAdapterError(
                    f"LoRA of {lora.site} is for a {list(expected)} layer, the model's is "
                    f"{[site.out_features, site.in_features]}: the adapter was made for another "
                    "model"
                )
            sites.append(site)
        return sites


def _peft_config(config: GistConfig, sites: list[Site]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base_model or None,
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": peft_targets(sites, config.target_modules),
        "bias": "none",
        "fan_in_fan_out": any(isinstance(site.module, Conv1D) for site in sites),
        "inference_mode": True,
    }


def model_card(config: GistConfig) -> str:
    """README.md of an adapter folder."""
    base = config.base_model or "an unnamed model"
    lines = [
        "---",
        "library_name: gistserve",
        *([f"base_model: {config.base_model}"] if config.base_model else []),
        "---",
        "",
        f"# Gist adapter for {base}",
        "",
        f"Compresses a prompt into {config.num_gist_tokens} gist tokens"
        f" (plus {config.sink_tokens} raw first token(s)) of key/value cache."
        " The base model's weights are unchanged; the LoRA acts only while a prompt is compressed.",
        "",
        f"- Base model fingerprint: `{config.base_fingerprint or 'not recorded'}`",
        f"- LoRA: rank {config.lora_rank}, alpha {config.lora_alpha:g}, on {config.target_modules}",
        f"- Settings: `{CONFIG_NAME}`; serve with `gistserve serve --gist-adapter <this folder>`.",
        "",
        *_facts(config.training),
        *_measures(config.metrics),
        "Known failures: verbatim recall of numbers and names, long prompts, prompts unlike the"
        " training data.",
        "",
    ]
    return "\n".join(lines)


def _facts(training: dict[str, Any]) -> list[str]:
    if not training:
        return []
    return ["## Training", "", "| | |", "|---|---|", *_rows(training.items()), ""]


def _measures(metrics: dict[str, dict[str, float]]) -> list[str]:
    """A table with a row for each measure and a column for each arm."""
    if not metrics:
        return []
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    rows = ((name, *(values.get(name, "") for values in metrics.values())) for name in names)
    head = f"| measure | {' | '.join(metrics)} |"
    return ["## Held-out measures", "", head, "|---" * (len(metrics) + 1) + "|", *_rows(rows), ""]


def _rows(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    return [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
