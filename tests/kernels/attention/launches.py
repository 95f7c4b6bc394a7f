"""What the Triton path would launch, told from tensors without contents."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from gistserve.kernels.attention import AttentionMetadata
from gistserve.kernels.attention.options import AttentionOptions
from gistserve.kernels.attention.tiles import Target

from ..compiled import CompiledKernel, compile_kernel

TARGETS = {
    80: Target(capability=80, num_multiprocessors=108, shared_memory=166912),
    90: Target(capability=90, num_multiprocessors=132, shared_memory=232448),
}
_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    int: "i32",
    float: "fp32",
}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel; ``arguments`` are by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]

    def compile(self, capability: int) -> CompiledKernel:
        """What Triton's launcher would compile it to."""
        params = [p for p in self.kernel.params if p.name in self.arguments]
        values = {p.name: self.arguments[p.name] for p in params}
        constexprs = {p.name: values[p.name] for p in params if p.is_constexpr}
        constexprs |= {name: None for name, value in values.items() if value is None}
        typed = {name: value for name, value in values.items() if name not in constexprs}
        return compile_kernel(
            self.kernel.fn.__module__,
            self.kernel.fn.__name__,
            {
                name: _TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)]
                for name, value in typed.items()
            },
            constexprs,
            capability=capability,
            num_warps=self.arguments.get("num_warps", 4),
            num_stages=self.arguments.get("num_stages", 3),
            divisible_by_16=[p.name for p in params if p.name in typed and _divisible(p, values)],
        )


def _divisible(param: Any, values: dict[str, Any]) -> bool:
    """Whether the launcher tells the compiler that an argument is a multiple of 16."""
    value = values[param.name]
    if param.do_not_specialize or param.do_not_specialize_on_alignment:
        return False
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def launches(
    heads: tuple[int, int, int, int],
    target: Target,
    *,
    tokens: int = 8,
    num_seqs: int = 8,
    max_query_len: int = 1,
    max_seq_len: int = 32768,
    dtype: torch.dtype = torch.bfloat16,
    block_size: int = 16,
    **options: Any,
) -> list[Launch]:
    """The launches of one call, in order. Anything that looked into a tensor would fail here."""
    from gistserve.kernels.attention import triton_path

    query_heads, kv_heads, dim, value_dim = heads

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    metadata = AttentionMetadata(
        empty(num_seqs + 1, dtype=torch.int32),
        empty(num_seqs, dtype=torch.int32),
        empty(num_seqs, max_seq_len // block_size, dtype=torch.int32),
        empty(tokens, dtype=torch.int64),
        max_query_len,
        max_seq_len,
    )
    if options.get("sinks"):
        options["sinks"] = empty(query_heads)
    recorded: list[Launch] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_kernel", "attention_kernel", "merge_kernel"):
            patch.setattr(triton_path, name, _Recorder(getattr(triton_path, name), recorded))
        triton_path.triton_paged_attention(
            empty(tokens, query_heads, dim),
            empty(tokens, kv_heads, dim),
            empty(tokens, kv_heads, value_dim),
            empty(64, block_size, kv_heads, dim),
            empty(64, block_size, kv_heads, value_dim),
            metadata,
            AttentionOptions(**{"scale": 0.1, **options}),
            target,
        )
    return recorded


@dataclass(frozen=True)
class _Recorder:
    kernel: Any
    recorded: list[Launch]

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            arguments = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
            self.recorded.append(Launch(self.kernel, grid, arguments))

        return launch
