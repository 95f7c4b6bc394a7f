from pathlib import Path

import pytest
from gistserve.server.demo.process import ServerProcess, ServerProcessError


def test_a_server_that_cannot_start_is_told_with_its_own_message(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server = ServerProcess(["--model", "/no/such/folder"], log, start_seconds=60)
    with pytest.raises(ServerProcessError, match="/no/such/folder does not exist"), server:
        server.wait_until_ready()
    assert not server.is_alive()


def test_a_server_that_is_too_slow_is_stopped(tmp_path: Path) -> None:
    server = ServerProcess([], tmp_path / "server.log", start_seconds=0.05, stop_seconds=30)
    with pytest.raises(ServerProcessError, match="not ready"), server:
        server.wait_until_ready()
    assert not server.is_alive()
