"""Answers as the OpenAPI document describes them. (They are written as plain dicts, for speed.)"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    error: ErrorDetail


class PromptTokensDetails(Answer):
    cached_tokens: int = Field(description="Prompt tokens that were not computed again.")
    gist_tokens: int = Field(description="Cache slots that stood for the registered prompt.")


class Usage(Answer):
    prompt_tokens: int = Field(description="Tokens of the prompt, uncompressed.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]


class CalledFunction(Answer):
    name: str
    arguments: str = Field(description="JSON.")


class ToolCall(Answer):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Answer):
    role: Literal["assistant"]
    content: str | None = Field(description="null where the answer is only calls of tools.")
    refusal: str | None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Answer):
    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: ChatFinishReason


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    prompt_id: str | None = Field(None, description="The registered prompt used, if any.")
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class Completion(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    prompt_id: str | None = Field(None, description="The registered prompt used, if any.")
    choices: list[CompletionChoice]
    usage: Usage


class ResponseInputDetails(PromptTokensDetails):
    cache_write_tokens: int


class ResponseOutputDetails(Answer):
    reasoning_tokens: int


class ResponseUsage(Answer):
    input_tokens: int = Field(description="Tokens of the prompt, uncompressed.")
    input_tokens_details: ResponseInputDetails
    output_tokens: int
    output_tokens_details: ResponseOutputDetails
    total_tokens: int


class IncompleteDetails(Answer):
    reason: Literal["max_output_tokens"]


class ResponseObject(Answer):
    """What is repeated of the request is left out here."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    incomplete_details: IncompleteDetails | None
    model: str
    prompt_id: str | None = Field(None, description="The registered prompt used, if any.")
    output: list[dict[str, Any]] = Field(description="Messages and calls of functions.")
    usage: ResponseUsage


class EmbeddingUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class Embedding(Answer):
    index: int
    object: Literal["embedding"]
    embedding: list[float] | str = Field(description="Of length 1; base64: float32, little-endian.")


class EmbeddingList(Answer):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None = Field(description="The model itself, where this is a prompt's model.")
    max_model_len: int
    prompt_id: str | None = None


class ModelList(Answer):
    object: Literal["list"]
    data: list[ModelCard]


class Health(Answer):
    status: Literal["ok", "shutting_down", "engine_stopped", "engine_hung"]
    models: list[str] | None = Field(None, description="The models whose engine is meant.")


class ServedModelInfo(Answer):
    name: str
    root: str = Field(description="Where the weights came from.")
    gist_tokens: int | None = Field(description="What the gist adapter makes; null without one.")
    prompt_bytes: int = Field(description="Of the key/value cache, for registered prompts.")
    weight_bytes: int = Field(description="Weights as they lie on the device.")
    kv_bytes_per_token: int
    block_size: int
    num_blocks: int
    kv_cache_bytes: int = Field(description="Keys and values of all blocks: this model's part.")
    max_model_len: int
    max_num_seqs: int
    dtype: str
    device: str


class ProcessInfo(Answer):
    rss_bytes: int | None = Field(description="Resident memory; null where it is not known.")
    processor_seconds: float = Field(description="Time on processors since the start.")


class PromptMemoryInfo(Answer):
    host_bytes: int = Field(description="Of main memory, for copies of prompts' caches.")
    disk_bytes: int | None = Field(description="For the store; null: as the disk allows.")


class ServerInfo(Answer):
    version: str
    models: list[ServedModelInfo]
    prompt_memory: PromptMemoryInfo
    process: ProcessInfo


class TokenizedText(Answer):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedText(Answer):
    prompt: str


class PromptCompression(Answer):
    method: Literal["gist", "prefix"]
    prompt_tokens: int
    gist_tokens: int
    slots: int = Field(description="Places in the key/value cache that stand for the prompt.")
    ratio: float = Field(description="prompt_tokens / slots.")
    cache_bytes: int
    uncompressed_bytes: int = Field(description="What the whole prompt's keys and values take.")


class PromptStorage(Answer):
    tier: Literal["device", "host", "disk"] = Field(
        description="Where a request finds the cache: on the model's device, as a copy in main "
        "memory, or in the store alone."
    )
    device_bytes: int = Field(description="Whole blocks of the key/value cache; shared.")
    host_bytes: int
    disk_bytes: int


class PromptUsage(Answer):
    requests: int
    tokens_saved: int = Field(description="Prompt tokens that requests did not compute again.")
    last_used_at: int | None


class Prompt(Answer):
    id: str
    object: Literal["prompt"]
    name: str | None
    model: str
    created_at: int
    expires_at: int | None
    ttl: str | None = Field(description="Each use moves expires_at to this long after it.")
    status: Literal["ready", "failed"]
    error: str | None = Field(None, description="Why the prompt cannot be used, where it failed.")
    compression: PromptCompression
    storage: PromptStorage
    tool_names: list[str] = Field(description="Functions that chats with it may call.")
    variables: list[str] = Field(description="Names of values that each request gives.")
    usage: PromptUsage
    metadata: dict[str, Any]


class PromptList(Answer):
    object: Literal["list"]
    data: list[Prompt]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PromptDeleted(Answer):
    id: str
    object: Literal["prompt.deleted"]
    deleted: Literal[True]
