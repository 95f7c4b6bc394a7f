"""The CPU's sparse bench, on a tiny grid."""

import json

import pytest
import torch
from gistserve.bench import sparse_cpu


@pytest.fixture
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("keep_threads")
def test_every_cell_is_measured_printed_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sparse_cpu, "SHAPES", ((8, 16), (16, 8)))
    monkeypatch.setattr(sparse_cpu, "SPARSITIES", (0.5,))
    monkeypatch.setattr(sparse_cpu, "BATCHES", (1, 16))
    monkeypatch.setattr(sparse_cpu, "_COPIES_BYTES", 4096)
    output = tmp_path / "new" / "figures.json"
    sparse_cpu.main(["--output", str(output), "--pairs", "3", "--threads", "1", "2"])

    figures = json.loads(output.read_text(encoding="utf-8"))
    assert figures["pairs"] == 3
    assert "versions" in figures["made_by"]
    cells = [
        (tuple(row["shape"]), row["dtype"], row["threads"], row["batch"]) for row in figures["rows"]
    ]
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 2
    for row in figures["rows"]:
        assert row["dense_us"] > 0
        assert row["csr_us"] > 0
        assert row["speedup"] > 0
        assert row["speedup_undisturbed"] > 0
    assert "16x8 50% bfloat16 2 threads  1:" in capsys.readouterr().out
