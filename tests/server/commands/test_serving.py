"""`gistserve serve` in this process, up to where it would answer."""

import gc
from pathlib import Path

import pytest
from gistserve.server.commands import serving
from gistserve.server.commands.address import bind
from gistserve.server.commands.model_options import ModelOptions
from gistserve.server.commands.model_source import parse_source
from gistserve.server.commands.serve_options import ServeOptions


def test_garbage_collections_leave_out_what_was_loaded(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = []
    monkeypatch.setattr(
        serving, "run_server", lambda *_, **__: tracked.append(len(gc.get_objects()))
    )
    options = ServeOptions(store=tmp_path / "store")
    models = [ModelOptions(source=parse_source(str(chat_model)))]
    serving.run(options, models, bind("127.0.0.1", 0))
    # torch and transformers alone hold hundreds of thousands.
    assert tracked[0] < 10_000
    assert gc.get_freeze_count() == 0
