"""What the routes of one application share."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakSet

import anyio
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from ..engine.grammar import Grammar
from ..engine.pinned import PinnedCache
from .admission import Admission
from .arrival import Arrival
from .authentication import request_owner
from .device_tier import RequestSize
from .errors import ApiError, bad_value, request_timeout, shutting_down
from .generation import AnswerSettings, Generation, PreparedPrompt, TimeLimits, plan_generation
from .grammars import Grammars
from .logprobs import TokenTexts
from .prompt_entry import PromptEntry
from .prompt_registry import PromptRegistry
from .rendering import Renderer
from .request_meter import Latencies, ModelMeter, RequestMeter
from .schemas import ResponseFormat
from .served_models import ServedModel, ServedModels
from .settings import ServerSettings
from .step_watch import StepWatch
from .streaming import disconnected

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class ModelDesk:
    """One served model with what the interface keeps for it.

    admission: of requests; registrations: of prompts to compress, one of which runs at a time.
    """

    model: ServedModel
    renderer: Renderer
    admission: Admission
    registrations: Admission
    token_texts: TokenTexts
    meter: ModelMeter
    grammars: Grammars

    @classmethod
    def open(
        cls, model: ServedModel, settings: ServerSettings, latencies: Latencies
    ) -> "ModelDesk":
        return cls(
            model=model,
            renderer=Renderer(model, settings.threaded_text_chars),
            admission=_admission(model.engine.max_num_seqs, settings),
            registrations=_admission(1, settings),
            token_texts=TokenTexts(model.tokenizer),
            meter=ModelMeter(model.name, latencies),
            grammars=Grammars(model),
        )

    async def grammar_of(
        self, response_format: ResponseFormat | None, param: str = "response_format"
    ) -> Grammar | None:
        """What keeps an answer to this format. Raises ApiError (400) for a schema that cannot."""
        schema = response_format.schema_wanted if response_format else None
        if schema is None:
            return None
        return await self.grammars.json_schema(schema, param)

    def meter_request(self, arrival: Arrival) -> RequestMeter:
        """A meter for the request that arrived so; its log line reads it."""
        arrival.meter = RequestMeter(self.meter, arrival.time)
        return arrival.meter


@dataclass(slots=True, eq=False)
class ApiContext:
    """Everything that a route needs; lives as long as the application."""

    models: ServedModels
    settings: ServerSettings
    desks: dict[str, ModelDesk]
    prompts: PromptRegistry
    metrics: CollectorRegistry
    steps: StepWatch
    stopping: bool = field(default=False)
    _generations: WeakSet[Generation] = field(default_factory=WeakSet)
    _scopes: set[anyio.CancelScope] = field(default_factory=set)

    def begin_shutdown(self) -> None:
        """From now on new work is refused with 503; what runs goes on."""
        self.stopping = True

    def end_running(self) -> None:
        """Ends what runs: answers and streams end with the error that the server shuts down."""
        self.begin_shutdown()
        for generation in list(self._generations):
            generation.end(shutting_down())
        for scope in self._scopes:
            scope.cancel()

    async def limited(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits work that is no generation, within the same limits.

        Raises:
            ApiError: 504 if it takes longer than a request may, 503 if the server ends it.
        """
        seconds = self.settings.request_timeout
        scope = anyio.CancelScope() if seconds is None else anyio.move_on_after(seconds)
        self._scopes.add(scope)
        try:
            with scope:
                return await work
        finally:
            self._scopes.discard(scope)
        raise shutting_down() if self.stopping else request_timeout()

    async def limited_while_connected(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """The same, and the work is cancelled when the client goes away.

        What `work` does in threads, and up to its next await, it still does.

        Raises:
            ApiError: as `limited`; 499 if the client went away (nobody is left to read it).
        """
        with anyio.CancelScope() as scope:
            watcher = asyncio.ensure_future(_cancel_on_disconnect(request, scope))
            try:
                return await self.limited(work)
            finally:
                watcher.cancel()
        raise ApiError(499, "The client closed the request.")

    def check_open(self) -> None:
        if self.stopping:
            raise shutting_down()

    def choose(
        self, owner: str, model_field: str | None, prompt_id: str | None
    ) -> tuple[ModelDesk, PromptEntry | None]:
        """The model and the registered prompt that a request asks to answer.

        Raises:
            ApiError: 404 for an unknown model or prompt, 400 where the two do not belong together
                or the model makes embeddings only.
        """
        desk, entry = self.find(owner, model_field, prompt_id)
        desk.model.check_generates()
        return desk, entry

    def find(
        self, owner: str, model_field: str | None, prompt_id: str | None
    ) -> tuple[ModelDesk, PromptEntry | None]:
        """The same, of a model that may make embeddings only."""
        if prompt_id is None:
            model, name = self.models.resolve(model_field)
            entry = self.prompts.named(owner, model, name) if name is not None else None
            if entry is not None:
                entry.check_usable()
            return self.desks[model.name], entry
        entry = self.prompts.get(owner, prompt_id)
        entry.check_usable()
        if model_field is not None:
            model, name = self.models.resolve(model_field)
            if name is not None and self.prompts.named(owner, model, name) is not entry:
                raise bad_value("prompt_id", f"prompt_id and model `{model_field}` differ.")
            if model.name != entry.record.model:
                raise bad_value(
                    "prompt_id",
                    f"The prompt `{prompt_id}` is bound to model `{entry.record.model}`, not to "
                    f"`{model.name}`.",
                )
        return self.desks[entry.record.model], entry

    async def start(
        self,
        desk: ModelDesk,
        prompts: Sequence[PreparedPrompt],
        settings: AnswerSettings,
        entry: PromptEntry | None,
        meter: RequestMeter,
    ) -> Generation:
        """Starts the choices of each prompt and counts the registered prompt's use.

        Waits until the registered prompt's cache lies on the device, and other prompts have made
        room there where it takes that.
        """
        size = _size_of(prompts, settings)
        if entry is None and self.prompts.tiers.has_room(desk.model, size):
            return self._start(desk, prompts, None, settings, meter)
        return await self.limited(
            self._start_on_device(desk, prompts, size, entry, settings, meter)
        )

    async def _start_on_device(
        self,
        desk: ModelDesk,
        prompts: Sequence[PreparedPrompt],
        size: RequestSize,
        entry: PromptEntry | None,
        settings: AnswerSettings,
        meter: RequestMeter,
    ) -> Generation:
        num_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        with ExitStack() as place:
            place.enter_context(desk.admission.place(num_tokens))
            async with self.prompts.tiers.on_device(desk.model, entry, size) as pinned:
                place.close()
                generation = self._start(desk, prompts, pinned, settings, meter)
                if entry is not None:
                    self.prompts.note_use(entry, len(prompts))
                return generation

    def _start(
        self,
        desk: ModelDesk,
        prompts: Sequence[PreparedPrompt],
        pinned: PinnedCache | None,
        settings: AnswerSettings,
        meter: RequestMeter,
    ) -> Generation:
        self.check_open()
        limits = TimeLimits(self.settings.queue_timeout, self.settings.request_timeout)
        generation = plan_generation(
            desk.model, prompts, pinned, settings, desk.admission, meter, limits
        )
        generation.start()
        self._generations.add(generation)
        return generation


def _size_of(prompts: Sequence[PreparedPrompt], settings: AnswerSettings) -> RequestSize:
    longest = max(len(prompt.token_ids) for prompt in prompts)
    return RequestSize(longest, 0 if settings.embed else settings.sampling.max_tokens or 1)


def _admission(max_running: int, settings: ServerSettings) -> Admission:
    return Admission(
        max_running, settings.max_queue, settings.max_queue_tokens, settings.retry_after_seconds
    )


async def _cancel_on_disconnect(request: Request, scope: anyio.CancelScope) -> None:
    await disconnected(request.receive)
    scope.cancel()


async def api_context(request: Request) -> ApiContext:
    """FastAPI dependency. Not awaiting anything, but FastAPI runs others in threads."""
    context = request.app.state.context
    assert isinstance(context, ApiContext)
    return context


async def owner(request: Request) -> str:
    """FastAPI dependency: who makes this request."""
    return request_owner(request)
