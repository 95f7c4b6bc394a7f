"""A tiny random chat model on disk: Llama, one token a byte, a chat template, a gist adapter."""

import string
from pathlib import Path

import torch
from gistserve.compress.adapter import GistAdapter
from gistserve.compress.config import GistConfig
from gistserve.compress.fingerprint import model_fingerprint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MARKERS = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the chat markers."""
    words = [*MARKERS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=MARKERS[3:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_chat_model(folder: Path, *, seed: int = 0, adapter: bool = True, gists: int = 4) -> Path:
    """Write the model, its tokenizer and, under gist_adapter/, its adapter; returns the folder."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    # It answers in letters, so that there is text from the first token on.
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in string.ascii_letters]
    with torch.no_grad():
        others = torch.ones(len(tokenizer), dtype=torch.bool).index_fill(
            0, torch.tensor(letters), 0
        )
        model.lm_head.weight[others] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if adapter:
        save_adapter(folder, folder / "gist_adapter", gists=gists)
    return folder


def save_adapter(model_folder: Path, folder: Path, *, gists: int = 4) -> Path:
    """Write an untrained adapter of the model in model_folder; returns the adapter's folder."""
    model = LlamaForCausalLM.from_pretrained(model_folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder)
    fingerprint = model_fingerprint(model, tokenizer, source=model_folder)
    config = GistConfig(
        num_gist_tokens=gists, lora_rank=2, base_model="tiny", base_fingerprint=fingerprint
    )
    return GistAdapter.create(model, config).save(folder)
