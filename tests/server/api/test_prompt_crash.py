"""kill -9 while prompts are registered, changed and deleted: what was acknowledged is there.

`--kills 200` tries as many instants.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gistserve.compress.record import PromptRecord
from gistserve.compress.store import GistStore

Prompts = dict[str, dict[str, Any]]


class Workers:
    """Registries in processes of their own, one after the other; see prompt_crash_worker.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("prompt_crash_worker.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def run_and_kill(
        self, store: Path, seed: int, num_lines: int, seconds: float
    ) -> list[dict[str, Any]]:
        """Kills a registry so long after it has said so much; all that it had said then."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{store} {seed}\n".encode())
        self._process.stdin.flush()
        said: list[dict[str, Any]] = []
        process = None
        for line in self._process.stdout:
            said.append(json.loads(line))
            if said[-1]["kind"] == "started":
                process = said[-1]["process"]
            if said[-1]["kind"] == "ended":
                return said[:-1]
            if process is not None and len(said) >= num_lines:
                time.sleep(seconds)
                os.kill(process, signal.SIGKILL)
                process = None
        raise AssertionError("the worker has ended by itself")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers()
    yield started
    started.close()


def shown(record: PromptRecord) -> dict[str, Any]:
    """What the worker tells of a prompt."""
    return {
        "id": record.id,
        "name": record.name,
        "metadata": record.metadata.get("value", {}),
        "expires_at": record.expires_at,
        "ttl": f"{record.ttl:g}s",
    }


class Expected:
    """What must be in the store, from what clients were told; owners by their number."""

    def __init__(self) -> None:
        self.prompts: dict[int, Prompts] = {number: {} for number in range(3)}
        self.num_acknowledged = 0

    def check(self, said: list[dict[str, Any]], store: GistStore) -> None:
        """Every acknowledged change is there; of each client's last one, all or nothing."""
        for number, prompts in self.prompts.items():
            pending = None
            for one in said:
                if one.get("client") != number:
                    continue
                if one["kind"] == "done":
                    assert pending is not None
                    self.num_acknowledged += 1
                    if one["prompt"] is None:
                        del prompts[pending["id"]]
                    else:
                        prompts[one["prompt"]["id"]] = one["prompt"]
                    pending = None
                else:
                    pending = one
            found = {r.id: shown(r) for r in store.list(owner=f"client-{number}")}
            if found != prompts:
                assert pending is not None, "an acknowledged change is missing"
                assert _is_pending(prompts, found, pending), (prompts, found, pending)
            self.prompts[number] = found


def _is_pending(before: Prompts, after: Prompts, pending: dict[str, Any]) -> bool:
    """Whether nothing but this unacknowledged change lies between two states."""
    if pending["kind"] == "delete":
        return after == {k: v for k, v in before.items() if k != pending["id"]}
    if pending["kind"] == "patch":
        changed = before[pending["id"]] | {"metadata": pending["metadata"]}
        return after == before | {pending["id"]: changed}
    new = after.keys() - before.keys()
    if new:  # registered
        (prompt_id,) = new
        return after[prompt_id]["name"] == pending["name"] and after == before | {
            prompt_id: after[prompt_id]
        }
    # Registered before: what changed is the life of one prompt.
    different = [k for k in before if before[k] != after.get(k)]
    return before.keys() == after.keys() and len(different) == 1


def assert_whole(store: GistStore) -> None:
    """Every record has its cache, and nothing else lies there."""
    records = store.list()
    assert store.quarantined == []
    for record in records:
        assert store.load_cache(record.id).content_hash == record.cache_hash
    names = {f"{r.id}.json" for r in records} | {f"{r.cache_hash}.safetensors" for r in records}
    kept = [store.directory / folder for folder in ("records", "caches", "quarantine")]
    assert {path.name for folder in kept for path in folder.iterdir()} == names


def test_kill_9_loses_nothing_that_was_acknowledged(
    tmp_path: Path, workers: Workers, request: pytest.FixtureRequest
) -> None:
    choose = random.Random(5)
    expected = Expected()
    kills = request.config.getoption("--kills")
    for seed in range(kills):
        num_lines, seconds = choose.randrange(3, 20), choose.uniform(0, 0.03)
        said = workers.run_and_kill(tmp_path / "store", seed, num_lines, seconds)
        with GistStore(tmp_path / "store") as store:
            expected.check(said, store)
            assert_whole(store)
    assert expected.num_acknowledged > kills
