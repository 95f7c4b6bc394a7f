"""Students and teachers of a few thousand parameters, and all that one of four words can say."""

from collections.abc import Callable, Iterator

import torch
from gistserve.training.minillm.rollouts import ModelPair, RolloutSettings
from gistserve.training.minillm.split_model import SplitModel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCABULARY = 4
LENGTH = 3
END = 3
PROMPT = [0, 2]


def tiny_gpt2(seed: int, vocabulary: int = VOCABULARY, width: int = 8) -> PreTrainedModel:
    """In float64 throughout. Far from uniform, so that mistakes show; tied; with dropout."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=64,
        n_embd=width,
        n_layer=2,
        n_head=2,
        initializer_range=0.6,
    )
    return GPT2LMHeadModel(config).double().eval()


def tiny_llama(seed: int, vocabulary: int = VOCABULARY, width: int = 8) -> PreTrainedModel:
    """In float32: some of its operations know nothing else."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.6,
    )
    return LlamaForCausalLM(config).eval()


def tiny_pair(make: Callable[..., PreTrainedModel] = tiny_gpt2) -> ModelPair:
    student, teacher = make(0), make(1, width=12)
    return ModelPair(SplitModel(student), SplitModel(teacher.requires_grad_(False)))


def settings(alpha: float = 0.2, pad_id: int = 0, max_new_tokens: int = LENGTH) -> RolloutSettings:
    return RolloutSettings(alpha, max_new_tokens, frozenset({END}), pad_id)


def endings(said: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All ways in which a response that began with `said` can go on to its end."""
    if len(said) == LENGTH or (said and said[-1] == END):
        yield ()
        return
    for token in range(VOCABULARY):
        for rest in endings((*said, token)):
            yield (token, *rest)


def beginnings() -> list[tuple[int, ...]]:
    """All that can stand before a token of a response."""
    everything = list(endings())
    return sorted({response[:t] for response in everything for t in range(len(response))})


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The parameters' gradients, taken away from them."""
    found = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return found
