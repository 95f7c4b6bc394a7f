"""What a server must show when nobody asks anything."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from .catalogue import SoakPrompt, SoakRequest
from .client import SoakClient
from .findings import Findings
from .ledger import PromptLedger, id_of
from .server import SoakServer
from .workers import Load

_SETTLE_SECONDS = 30.0
# Two tokens that are closer (natural logarithm) may change places in another batch.
_NEAR_TIE = 1e-3


class SoakFailed(RuntimeError):
    """The soak cannot go on; the message says why."""


async def quiet_answers(
    client: SoakClient, prompts: list[SoakPrompt], requests: list[SoakRequest]
) -> dict[SoakRequest, str]:
    """What a server that does nothing else answers; without requests that come near a tie.

    Registers the prompts and leaves only those that are kept.
    """
    ids: dict[int, str] = {}
    for prompt in prompts:
        status, made = await client.call("POST", "/v1/prompts", prompt.body(None))
        if status not in (200, 201):
            raise SoakFailed(f"prompt {prompt.index} is refused: {made}")
        ids[prompt.index] = made["id"]
    answers = {}
    for request in requests:
        prompt_id = None if request.prompt is None else ids[request.prompt]
        body = request.body(prompt_id, stream=False) | {"logprobs": True, "top_logprobs": 2}
        status, answer = await client.call("POST", "/v1/chat/completions", body)
        if status != 200:
            raise SoakFailed(f"the quiet server refuses a request: {answer}")
        (choice,) = answer["choices"]
        if _smallest_gap(choice["logprobs"]["content"]) > _NEAR_TIE:
            answers[request] = choice["message"]["content"]
    for prompt in prompts:
        if prompt.expires:
            await client.call("DELETE", f"/v1/prompts/{ids[prompt.index]}")
    return answers


def _smallest_gap(tokens: list[dict[str, Any]]) -> float:
    best = [sorted((top["logprob"] for top in t["top_logprobs"]), reverse=True) for t in tokens]
    return min(first - second for first, second in best)


async def check_quiet(load: Load, session: aiohttp.ClientSession) -> dict[str, Any]:
    """Waits until nothing runs, checks blocks, prompts and answers; returns a sample of sizes."""
    gauges = await _settled(load.server, session)
    if gauges["running"] or gauges["waiting"]:
        load.findings.violate("requests run that nobody waits for", **gauges)
    elif gauges["used_blocks"] != gauges["pinned_blocks"]:
        load.findings.violate("blocks are leaked", **gauges)
    await _check_prompts(load.client, load.ledger, load.findings)
    for request in list(load.answers)[:: max(1, len(load.answers) // 12)]:
        entry = None if request.prompt is None else load.ledger.find(request.prompt)
        if request.prompt is None or (entry is not None and load.ledger.must_exist(entry)):
            reply = await load.client.chat(request.body(id_of(entry), stream=False))
            load.judge(request, entry, reply, load.server.life)
    second = round(time.monotonic() - load.findings.began, 1)
    return {"second": second, "life": load.server.life, **gauges, **load.server.resources()}


async def _settled(server: SoakServer, session: aiohttp.ClientSession) -> dict[str, int]:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        gauges = await server.gauges(session)
        busy = gauges["running"] or gauges["waiting"]
        if not busy and gauges["used_blocks"] == gauges["pinned_blocks"]:
            return gauges
        if time.monotonic() > deadline:
            return gauges
        await asyncio.sleep(0.2)


async def _check_prompts(client: SoakClient, ledger: PromptLedger, findings: Findings) -> None:
    status, page = await client.call("GET", "/v1/prompts?limit=100")
    listed = {prompt["id"]: prompt for prompt in page.get("data", [])}
    if status != 200:
        findings.violate("the prompts are not listed", status=status)
        return
    for entry in ledger.entries():
        found = listed.get(entry.prompt_id)
        if found is None and ledger.must_exist(entry):
            findings.violate("a prompt was lost", prompt=entry.prompt, at="listing")
        if found is not None and ledger.must_be_gone(entry):
            findings.violate("a prompt came back", prompt=entry.prompt)
        if found is not None and found["status"] != "ready":
            findings.violate("a prompt is broken", prompt=entry.prompt, error=found["error"])
    for prompt_id in listed:
        if not ledger.may_hold(prompt_id):
            findings.violate("an unknown prompt is listed", prompt_id=prompt_id)
