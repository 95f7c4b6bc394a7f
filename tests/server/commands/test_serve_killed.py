"""A real server killed with -9 while a client registers, changes and deletes prompts.

One instant in twenty of `--kills`; tests/server/api/test_prompt_crash.py tries the others without
HTTP.
"""

import random
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from gistserve.server.demo.process import ServerProcess

Prompts = dict[str, dict[str, Any]]
LASTING = ("id", "name", "metadata", "expires_at", "ttl", "status", "compression")


def lasting(prompt: dict[str, Any]) -> dict[str, Any]:
    return {name: prompt[name] for name in LASTING}


def listed(client: httpx.Client) -> Prompts:
    page = client.get("/v1/prompts", params={"limit": 100}).json()
    assert page["has_more"] is False
    return {prompt["id"]: lasting(prompt) for prompt in page["data"]}


class Client:
    """Changes prompts until the server is gone, and knows what it was told."""

    def __init__(self, seed: int) -> None:
        self._choose = random.Random(seed)
        self._number = 0
        self.prompts: Prompts = {}
        self.num_acknowledged = 0
        self.pending: tuple[str, str, Any] = ("", "", None)

    def work(self, client: httpx.Client) -> None:
        while True:
            try:
                self._change(client)
            except httpx.TransportError:
                return
            self.num_acknowledged += 1

    def _change(self, client: httpx.Client) -> None:
        kinds = ["register", "patch", "delete"] if len(self.prompts) > 2 else ["register"]
        kind = self._choose.choice(kinds)
        if kind == "register":
            self._number += 1
            name = f"n{self._number}"
            self.pending = (kind, name, None)
            body = {"text": f"text {name}", "name": name, "compression": "prefix", "ttl": "9999s"}
            made = client.post("/v1/prompts", json=body)
            assert made.status_code == 201, made.text
            self.prompts[made.json()["id"]] = lasting(made.json())
            return
        prompt_id = self._choose.choice(sorted(self.prompts))
        if kind == "patch":
            metadata = {"value": self._choose.random()}
            self.pending = (kind, prompt_id, metadata)
            changed = client.patch(f"/v1/prompts/{prompt_id}", json={"metadata": metadata})
            assert changed.status_code == 200, changed.text
            self.prompts[prompt_id] = lasting(changed.json())
        else:
            self.pending = (kind, prompt_id, None)
            assert client.delete(f"/v1/prompts/{prompt_id}").status_code == 200
            del self.prompts[prompt_id]

    def check(self, found: Prompts) -> None:
        """All that was acknowledged is there; the change under way is whole or not at all."""
        if found != self.prompts:
            kind, what, value = self.pending
            after = {k: v for k, v in found.items() if k in self.prompts}
            if kind == "register":
                assert [p["name"] for k, p in found.items() if k not in after] == [what]
                assert after == self.prompts
            elif kind == "patch":
                changed = self.prompts[what] | {"metadata": value}
                assert found == self.prompts | {what: changed}
            else:
                assert found == {k: v for k, v in self.prompts.items() if k != what}
        self.prompts = found


def test_a_killed_server_comes_back_with_all_that_it_acknowledged(
    chat_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    choose = random.Random(3)
    at_work = Client(seed=7)
    arguments = ["--model", f"tiny={chat_model}", "--store", str(tmp_path / "store")]
    kills = max(1, request.config.getoption("--kills") // 20)
    for number in range(kills + 1):
        with ServerProcess(arguments, tmp_path / f"log{number}") as process:
            process.wait_until_ready()
            with httpx.Client(base_url=process.url, timeout=120) as client:
                at_work.check(listed(client))
                for prompt_id in at_work.prompts:  # each is used from the disk
                    body = {"prompt": "x", "prompt_id": prompt_id, "max_tokens": 1}
                    assert client.post("/v1/completions", json=body).status_code == 200
                if number < kills:
                    timer = threading.Timer(choose.uniform(0.5, 1.5), process.kill)
                    timer.start()
                    at_work.work(client)
                    timer.join()
    assert at_work.num_acknowledged > kills
