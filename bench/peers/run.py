"""The whole comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import torch
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ...server.signals import terminate_as_interrupt
from ..load.client import LoadClient, open_session
from ..load.endpoint import Endpoint
from ..load.errors import LoadError
from ..load.target import Target
from .contestant import Contestant
from .gguf_file import write_gguf
from .llama_server import find_llama
from .model_folder import SHAPES, link_without_end, write_random_model
from .our_server import OurServer
from .peer import Missing, Peer
from .plan import Plan, whole_pages
from .process import PeerProcess
from .progress import progress_of
from .rounds import Rounds
from .settings import PeersSettings
from .summary import summarise
from .transformers_server import find_transformers

Save = Callable[[dict[str, Any]], None]


def compare(settings: PeersSettings, console: Console, save: Save) -> dict[str, Any]:
    """Start our server and all peers that are found, and measure them by turns.

    `save` gets the result so far after every round. Stopped by a signal, the servers end too.

    Raises:
        LoadError: no peer takes part, the model cannot be used, or servers fail or count other
            tokens than were asked for.
    """
    with TemporaryDirectory(prefix="gistserve-") as work, terminate_as_interrupt():
        missing: dict[str, str] = {}
        with console.status("looking for peers"):
            peers = _found(settings, missing)
        disable_progress_bar()
        with console.status("writing the model"):
            plan = _plan(settings, Path(work))
            peers = _with_gguf(settings, plan, peers, missing)
        with _running(peers, plan, missing, console) as processes:
            if len(processes) < 2:
                reasons = "\n".join(f"{name} {reason}" for name, reason in missing.items())
                raise LoadError(f"There is no peer to compare with.\n{reasons}")
            comparison = _Comparison(settings, plan, processes, missing, console)
            return asyncio.run(comparison.run(save))


def _found(settings: PeersSettings, missing: dict[str, str]) -> list[Peer]:
    """Our server and the peers that are here; the others go to `missing`."""
    peers: list[Peer] = [OurServer()]
    for found in (find_transformers(settings.transformers), find_llama(settings.llama_server)):
        if isinstance(found, Missing):
            missing[found.name] = found.reason
        else:
            peers.append(found)
    return peers


def _plan(settings: PeersSettings, work: Path) -> Plan:
    """What the servers are started with; writes the model's folder."""
    folder = work / "model"
    if settings.model is None:
        write_random_model(SHAPES[settings.shape], getattr(torch, settings.dtype), folder)
    else:
        link_without_end(settings.model, folder)
    config = AutoConfig.from_pretrained(folder)
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    return Plan(
        folder=folder,
        gguf=settings.gguf or work / "model.gguf",
        work=work,
        dtype=settings.dtype,
        kv_bytes_per_token=numbers * getattr(torch, settings.dtype).itemsize,
        threads=settings.threads,
        slots=max(settings.concurrency),
        slot_tokens=whole_pages(settings.input_tokens + settings.output_tokens),
    )


def _with_gguf(
    settings: PeersSettings, plan: Plan, peers: list[Peer], missing: dict[str, str]
) -> list[Peer]:
    """The peers that have a file to load; writes it where one is needed and none was given."""
    readers = [peer for peer in peers if peer.reads_gguf]
    if not readers or settings.gguf is not None:
        return peers
    try:
        write_gguf(plan.folder, plan.gguf, getattr(torch, plan.dtype))
    except LoadError as error:
        missing |= {peer.name: str(error) for peer in readers}
        return [peer for peer in peers if peer not in readers]
    return peers


@contextmanager
def _running(
    peers: Sequence[Peer], plan: Plan, missing: dict[str, str], console: Console
) -> Iterator[list[tuple[Peer, PeerProcess]]]:
    """The servers, started and asleep; a peer that does not start goes to `missing`."""
    running: list[tuple[Peer, PeerProcess]] = []
    try:
        for peer in peers:
            process = _process(peer, plan)
            running.append((peer, process))
            try:
                with console.status(f"starting {peer.name}"):
                    process.start()
                process.sleep()
            except LoadError as error:
                if peer is peers[0]:
                    raise LoadError(f"{peer.name} {error}") from error
                missing[peer.name] = str(error)
                running.pop()
                process.stop()
        yield running
    finally:
        for _, process in running:
            process.stop()


def _process(peer: Peer, plan: Plan) -> PeerProcess:
    return PeerProcess(
        lambda port: [*peer.program, *peer.options(plan, port)],
        peer.ready_path,
        plan.work / f"{peer.name}.log",
        plan.threads,
    )


class _Comparison:
    """Servers that run, and what is told of them."""

    def __init__(
        self,
        settings: PeersSettings,
        plan: Plan,
        processes: Sequence[tuple[Peer, PeerProcess]],
        missing: dict[str, str],
        console: Console,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._processes = processes
        self._missing = missing
        self._console = console
        self._versions = {peer.name: peer.version() for peer, _ in processes}

    async def run(self, save: Save) -> dict[str, Any]:
        """Warm up, then measure every round; see `compare`."""
        first = self._target(*self._processes[0])
        # llama.cpp's server closes connections after streamed answers, though it promises not to.
        async with open_session(first, keep_alive=False) as session:
            contestants = [
                Contestant(peer, process, LoadClient(self._target(peer, process), session))
                for peer, process in self._processes
            ]
            return await self._measure(contestants, session, save)

    async def _measure(
        self, contestants: Sequence[Contestant], session: aiohttp.ClientSession, save: Save
    ) -> dict[str, Any]:
        tokenizer = AutoTokenizer.from_pretrained(self._plan.folder)
        settings = self._settings
        each = settings.rounds * sum(map(settings.requests_at, settings.concurrency))
        measurements: list[dict[str, Any]] = []
        with progress_of(len(contestants) * each, self._console) as step:
            rounds = Rounds(
                contestants, settings, lambda text: len(tokenizer(text).input_ids), step
            )
            await rounds.warm_up(session)
            async for found in rounds.run():
                measurements += found
                save(self._result(measurements))
        return self._result(measurements)

    def _result(self, measurements: list[dict[str, Any]]) -> dict[str, Any]:
        settings, plan = self._settings, self._plan
        ours = self._processes[0][0].name
        return {
            "model": {
                "name": settings.model.name if settings.model else f"{settings.shape}, random",
                "dtype": plan.dtype,
                "kv_bytes_per_token": plan.kv_bytes_per_token,
                "weight_bytes": sum(
                    file.stat().st_size for file in plan.folder.glob("*.safetensors")
                ),
            },
            "workload": {
                "input_tokens": settings.input_tokens,
                "output_tokens": settings.output_tokens,
                "slot_tokens": plan.slot_tokens,
                "slots": plan.slots,
                "seed": settings.seed,
            },
            "threads": plan.threads,
            "ours": ours,
            "servers": {peer.name: self._facts(peer, process) for peer, process in self._processes},
            "missing": self._missing,
            "summary": summarise(measurements, ours),
            "measurements": measurements,
        }

    def _facts(self, peer: Peer, process: PeerProcess) -> dict[str, Any]:
        """Version, options without the paths of this machine, and memory."""
        options = " ".join(peer.options(self._plan, 0)).replace(str(self._plan.work), "WORK")
        return {
            "version": self._versions[peer.name],
            "options": options.replace(str(self._plan.gguf), "GGUF"),
            "peak_rss_bytes": process.peak_rss_bytes(),
        }

    def _target(self, peer: Peer, process: PeerProcess) -> Target:
        return Target(
            process.url,
            peer.model(self._plan),
            Endpoint.completions,
            ignore_eos=peer.ignores_eos,
            timeout=self._settings.timeout,
        )
