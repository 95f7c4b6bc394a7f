"""What the compiler makes of the attention kernels that count, for GPUs that are not here.

The limits are what Triton 3.6 and 3.9 reach, with a little room: a change that costs more should be
seen, and be worth it.
"""

import pytest

pytest.importorskip("triton")

from gistserve.kernels.attention.tiles import Heads, Tiles, shared_bytes

from .launches import TARGETS, launches

WARP_GROUP = {80: "HMMA", 90: "HGMMA"}
SHAPES = [(80, 128), (90, 64), (90, 128), (90, 256)]


def find(recorded, kernel):
    return next(launch for launch in recorded if launch.kernel.fn.__name__ == kernel)


def attention(capability, dim, **step):
    return find(launches((32, 8, dim, dim), TARGETS[capability], **step), "attention_kernel")


def matrix_loops(kernel):
    """Loops that multiply matrices, the shortest first: tiles that need no mask."""
    loops = [loop for loop in kernel.loops if kernel.count("HMMA", "HGMMA", within=loop)]
    return sorted(loops, key=len)


def check_resources(kernel, launch, capability):
    arguments = launch.arguments
    assert kernel.num_spills == kernel.stack_bytes == 0
    names = ("block_m", "block_n", "min_tiles", "num_warps", "num_stages")
    tiles = Tiles(*(arguments.get(name.upper(), arguments.get(name)) for name in names))
    dims = (arguments[name] for name in ("KV_HEADS", "GROUP", "KEY_DIM", "VALUE_DIM"))
    estimate = shared_bytes(tiles, Heads(*dims, itemsize=2), TARGETS[capability])
    assert kernel.shared_bytes <= estimate <= TARGETS[capability].shared_memory
    assert estimate <= 1.4 * kernel.shared_bytes


@pytest.mark.parametrize(("capability", "dim"), SHAPES)
def test_decode(capability, dim):
    """Waits for memory: what counts is bytes in flight, and few instructions a byte."""
    launch = attention(capability, dim, max_query_len=1)
    kernel = launch.compile(capability)
    check_resources(kernel, launch, capability)
    block_n, num_warps = launch.arguments["BLOCK_N"], launch.arguments["num_warps"]
    elements = block_n * 2 * dim
    (loop,) = matrix_loops(kernel)

    # Keys and values come in 16 bytes a time, past the registers, each of them once ...
    copies = kernel.count("LDGSTS.E.BYPASS.128", within=loop)
    assert copies * num_warps * 32 * 16 == elements * 2
    # ... and but for page numbers nothing else is read from memory.
    assert kernel.count("LDG", within=loop) <= copies // 2
    assert kernel.count("LDGSTS", within=loop) == copies
    # Two buffers, so that one tile is on its way while another is used; two programs a
    # multiprocessor at least.
    assert 2 * elements * 2 <= kernel.shared_bytes <= TARGETS[capability].shared_memory // 2 - 1024
    assert kernel.registers * num_warps * 32 * 3 <= 65536
    # 16 x 8 x 16 a product: no row of the tile is multiplied twice.
    assert kernel.count("HMMA", within=loop) == 16 * elements // (16 * 8 * 16) // num_warps
    assert kernel.count("BAR", within=loop) <= 6
    per_element = len(loop) * num_warps * 32 / elements
    assert per_element < {64: 4.2, 128: 2.7, 256: 2.7}[dim]


@pytest.mark.parametrize(("capability", "dim"), SHAPES)
def test_prefill(capability, dim):
    """Waits for the tensor cores: what counts is instructions beside their products."""
    launch = attention(capability, dim, max_query_len=1024, tokens=8192)
    kernel = launch.compile(capability)
    check_resources(kernel, launch, capability)
    assert launch.arguments["BLOCK_M"] == 128
    block_n, num_warps = launch.arguments["BLOCK_N"], launch.arguments["num_warps"]
    plain, masked = matrix_loops(kernel)

    assert kernel.count(WARP_GROUP[capability], within=plain) > 0
    if capability == 90:
        assert kernel.count("HMMA") == 0
    copies = kernel.count("LDGSTS.E.BYPASS.128", within=plain)
    assert copies * num_warps * 32 * 16 == block_n * 2 * dim * 2
    scores = 128 * block_n / (num_warps * 32)
    # One exponential a score, one for each of a thread's two rows.
    assert kernel.count("MUFU", within=plain) == scores + 2
    per_score = {(80, 128): 22, (90, 64): 8, (90, 128): 10, (90, 256): 27}[capability, dim]
    assert len(plain) / scores < per_score
    assert len(masked) < 1.9 * len(plain)


def test_options_fit_the_registers():
    for step in ({"max_query_len": 1}, {"max_query_len": 512}):
        options = {"sliding_window": 4096, "softcap": 50.0, "sinks": True}
        launch = attention(90, 128, **step, **options)
        check_resources(launch.compile(90), launch, 90)


def test_merge():
    kernel = find(launches((32, 8, 128, 128), TARGETS[90]), "merge_kernel").compile(90)
    assert kernel.num_spills == 0 and kernel.registers <= 64
    assert kernel.count("LDG.E.128", within=kernel.hot_loop) == 4


def test_write():
    kernel = find(launches((32, 8, 128, 128), TARGETS[90]), "write_kernel").compile(90)
    assert kernel.num_spills == 0 and kernel.registers <= 32
    # Eight heads of 128 in 16 bytes a thread; else only the slot is read.
    assert kernel.count("LDG") == kernel.count("LDG.E.128") + 1 <= 3
    assert 1 <= kernel.count("STG") == kernel.count("STG.E.128") <= 2
    assert kernel.num_instructions <= 60
