"""How much memory the caches of registered prompts may take."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..engine.engine_info import EngineInfo

# Of a model's key/value cache; the rest is always there for requests.
_DEVICE_SHARE = 0.5
_HOST_BYTES_BESIDE_A_GPU = 4 * 2**30


@dataclass(frozen=True, slots=True)
class PromptMemory:
    """Budgets in bytes; None takes the default.

    device: of each model's key/value cache, for prompts that are pinned there; by default half.
    host: of main memory, for copies of caches, all models together; by default 4 GiB where a
    model is on a GPU, else none: on a CPU the key/value cache itself is main memory.
    """

    device: int | None = None
    host: int | None = None

    def __post_init__(self) -> None:
        if self.device is not None and self.device < 1:
            raise ValueError(f"prompt_memory must be positive, got {self.device}")
        if self.host is not None and self.host < 0:
            raise ValueError(f"prompt_host_memory must be 0 or more, got {self.host}")

    def device_limit(self, name: str, info: EngineInfo) -> int:
        """Bytes for pinned prompts of one model. Raises ValueError where it has not so many."""
        whole = info.num_blocks * info.block_size * info.kv_bytes_per_token
        if self.device is None:
            return int(whole * _DEVICE_SHARE)
        if self.device > whole:
            raise ValueError(
                f"prompt_memory of {self.device} bytes is more than the whole key/value cache of "
                f"`{name}`, {whole} bytes; lower it, or raise --kv-cache-memory"
            )
        return self.device

    def host_limit(self, infos: Iterable[EngineInfo]) -> int:
        """Bytes for copies in main memory."""
        if self.host is not None:
            return self.host
        on_gpu = any(not info.device.startswith("cpu") for info in infos)
        return _HOST_BYTES_BESIDE_A_GPU if on_gpu else 0
