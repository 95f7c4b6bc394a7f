"""The model in the package: small, whole, and able to do what the demo shows."""

import pytest
from gistserve.bench.policy_quality import SPLITS, PolicyQuality
from gistserve.compress.weights_hash import weights_hash
from gistserve.server.demo import EMBEDDED_MODEL
from gistserve.server.demo.example import load_example


@pytest.fixture(scope="module")
def quality() -> PolicyQuality:
    return PolicyQuality(EMBEDDED_MODEL, EMBEDDED_MODEL / "gist_adapter")


def test_it_takes_at_most_20_megabytes() -> None:
    files = [path for path in EMBEDDED_MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert not [path for path in files if path.suffix in {".pt", ".bin", ".pkl"}]


def test_it_reads_unseen_policies_in_full_and_as_gists(quality: PolicyQuality) -> None:
    cases = quality.cases(SPLITS["main"], 48, seed="test")
    before = weights_hash(quality.model)
    full, gist = (quality.score(arm, cases).exact for arm in ("full", "gist"))
    nothing = quality.score("none", cases).exact
    assert full >= 44
    assert gist >= 43
    assert nothing <= 4
    assert weights_hash(quality.model) == before


def test_the_example_of_the_demo_is_within_ten_times_its_gist(quality: PolicyQuality) -> None:
    prompt = [{"role": "system", "content": load_example().prompt}]
    text = quality.tokenizer.apply_chat_template(prompt, tokenize=False)
    tokens = len(quality.tokenizer(text, add_special_tokens=False).input_ids)
    assert tokens >= 10 * quality.adapter.config.slots
