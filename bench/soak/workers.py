"""Clients that do at random what clients do, and hold the server to its word."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from .catalogue import SoakPrompt, SoakRequest
from .client import Reply, SoakClient, leave_early
from .findings import Findings
from .ledger import LedgerEntry, PromptLedger, id_of
from .server import SoakServer

_BURST = 64
_TTL = (4, 15)
# How long a client waits that met a server on its way out.
_RETRY_SECONDS = 1.0


@dataclass
class Load:
    """What the workers share.

    answers: the right answer of every request. gate: set while load is wanted.
    """

    client: SoakClient
    server: SoakServer
    ledger: PromptLedger
    findings: Findings
    prompts: list[SoakPrompt]
    answers: dict[SoakRequest, str]
    rng: random.Random
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    busy: int = 0
    _locks: dict[int, asyncio.Lock] = field(default_factory=dict)

    async def work(self) -> None:
        """One worker; cancelled from outside."""
        acts = [self.ask, self.ask, self.ask, self.ask, self.leave, self.leave, self.change]
        while True:
            await self.gate.wait()
            self.busy += 1
            try:
                await self.rng.choice(acts)()
            finally:
                self.busy -= 1
            if self.server.ending:
                await asyncio.sleep(_RETRY_SECONDS)

    async def idle(self) -> None:
        """Returns when no worker is in the middle of something."""
        while self.busy:
            await asyncio.sleep(0.05)

    async def ask(self) -> None:
        """One request, streamed or not, read to its end."""
        request, entry = self._choose()
        body = request.body(id_of(entry), stream=self.rng.random() < 0.5)
        life = self.server.life
        reply = await self.client.chat(body)
        self.judge(request, entry, reply, life)

    async def leave(self) -> None:
        """A client that goes away in the middle."""
        request, entry = self._choose()
        life = self.server.life
        if self.rng.random() < 0.5:
            body = request.body(id_of(entry), stream=True)
            reply = await self.client.chat(body, leave_after=self.rng.randint(1, 20))
        else:
            body = request.body(id_of(entry), stream=self.rng.random() < 0.5)
            reply = await leave_early(self.client, body, self.rng.uniform(0.005, 0.5))
        self.judge(request, entry, reply, life)

    async def burst(self) -> None:
        """More requests at once than the queue holds; some must be refused."""
        life = self.server.life
        chosen = [self._choose() for _ in range(_BURST)]
        replies = await asyncio.gather(
            *(self.client.chat(r.body(id_of(e), stream=False)) for r, e in chosen)
        )
        for (request, entry), reply in zip(chosen, replies, strict=True):
            self.judge(request, entry, reply, life)
        self.findings.count("bursts")
        if self._steady(life) and not any(reply.status == 429 for reply in replies):
            self.findings.violate("an overload was not refused")

    async def change(self) -> None:
        """Registers a prompt that expires, or deletes one."""
        prompt = self.rng.choice([p for p in self.prompts if p.expires])
        async with self._locks.setdefault(prompt.index, asyncio.Lock()):
            entry = self.ledger.find(prompt.index)
            if entry is not None and self.rng.random() < 0.2:
                await self._delete(entry)
            else:
                await self.register(prompt, self.rng.randint(*_TTL))

    async def register(self, prompt: SoakPrompt, ttl: int | None) -> None:
        life = self.server.life
        status, resource = await self.client.call("POST", "/v1/prompts", prompt.body(ttl))
        if status in (200, 201):
            self.ledger.acknowledged(prompt.index, resource, ttl)
            self.findings.count("registered")
            return
        self.ledger.doubt(prompt.index)
        code = resource.get("error", {}).get("code")
        self._judge_refusal(Reply(status, error=code), life, "registering")

    async def _delete(self, entry: LedgerEntry) -> None:
        life = self.server.life
        gone_is_wrong = self.ledger.must_exist(entry)
        entry.deleting = True
        status, body = await self.client.call("DELETE", f"/v1/prompts/{entry.prompt_id}")
        if status in (200, 404):
            entry.deleted = True
            self.findings.count("deleted")
            if status == 404 and gone_is_wrong:
                self.findings.violate("a prompt was lost", prompt=entry.prompt, at="deleting")
            return
        self._judge_refusal(Reply(status, error=str(body)[:200]), life, "deleting")

    def judge(
        self, request: SoakRequest, entry: LedgerEntry | None, reply: Reply, life: int
    ) -> None:
        """Holds a reply against what it must be."""
        if entry is not None:
            self.ledger.touch(entry)
        if reply.text is not None:
            self.findings.count("answered")
            if reply.text != self.answers[request]:
                self.findings.violate(
                    "an answer is not the quiet server's",
                    request=str(request),
                    answer=reply.text,
                    expected=self.answers[request],
                )
        elif reply.status == 404 and entry is not None:
            self.findings.count("prompt expired")
            if self.ledger.must_exist(entry):
                self.findings.violate("a prompt was lost", prompt=entry.prompt, at="asking")
        elif reply.error == "left":
            self.findings.count("left")
        elif reply.status == 429:
            self.findings.count("refused: queue full")
            if not (reply.retry_after or "").isdigit():
                self.findings.violate("a 429 without Retry-After")
        else:
            self._judge_refusal(reply, life, "asking")

    def _judge_refusal(self, reply: Reply, life: int, doing: str) -> None:
        """Whether an end without an answer is explained by the end of the server."""
        steady = self._steady(life)
        if reply.error == "shutting_down" and not steady:
            self.findings.count("ended by shutdown")
        elif steady or (reply.cut and self.server.ending == "SIGTERM"):
            self.findings.violate(
                "a request failed",
                doing=doing,
                status=reply.status,
                error=reply.error,
                cut=reply.cut,
                ending=self.server.ending,
            )
        else:
            self.findings.count("lost with the server")

    def _steady(self, life: int) -> bool:
        """Whether the server has been up, and the same, since `life` was noted."""
        return self.server.ending is None and self.server.life == life

    def _choose(self) -> tuple[SoakRequest, LedgerEntry | None]:
        """A request whose prompt, if it has one, was registered some time."""
        while True:
            request = self.rng.choice(list(self.answers))
            if request.prompt is None:
                return request, None
            entry = self.ledger.find(request.prompt)
            if entry is not None and not entry.deleted:
                return request, entry
