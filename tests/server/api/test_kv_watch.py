"""Pressure on a key/value cache is told, and not more often than can be read."""

import logging
from types import SimpleNamespace

import pytest
from gistserve.server.api.kv_watch import KVWatch
from gistserve.server.api.served_models import ServedModels

from .conftest import Loaded, Sites, until


class Preempting:
    """An engine that preempts as many as it is told."""

    total = 0

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(
            num_preemptions=self.total, num_running=2, num_waiting=3, kv_cache_usage=0.98765
        )


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [
        (record.fields["model"], record.fields["repeated"])
        for record in caplog.records
        if record.name.endswith("kv_watch")
    ]


def test_each_model_is_told_of_once_in_a_while(caplog) -> None:
    busy, idle = Preempting(), Preempting()
    watch = KVWatch({"busy": busy, "idle": idle}, seconds=3600)
    watch.look()
    assert told(caplog) == []
    for busy.total in (3, 3, 10):
        watch.look()
    assert told(caplog) == [("busy", 3)]
    idle.total = 1
    watch.look()
    assert told(caplog) == [("busy", 3), ("idle", 1)]
    fields = caplog.records[0].fields
    assert (fields["running"], fields["waiting"], fields["kv_cache_usage"]) == (2, 3, 0.988)


@pytest.mark.anyio
async def test_a_server_tells_of_a_cache_that_is_too_small(
    sites: Sites, gist_loaded: Loaded, caplog
) -> None:
    model = gist_loaded.serve(num_blocks=8)  # 128 tokens for four answers of 60
    caplog.set_level(logging.WARNING, "gistserve")
    try:
        async with sites.open(ServedModels([model])) as site:
            await site.chat("Hello", n=4, max_tokens=60, ignore_eos=True)
            await until(lambda: told(caplog))
    finally:
        model.engine.shutdown()
    assert told(caplog)[0][0] == gist_loaded.name
    assert "Hello" not in caplog.text
