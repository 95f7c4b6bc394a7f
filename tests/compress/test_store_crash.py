"""GistStore after damage: kills at any instant, cut-off and flipped bytes, files out of place."""

import contextlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from gistserve.compress.errors import GistStoreError, PromptNameTakenError
from gistserve.compress.record import PromptRecord
from gistserve.compress.store import GistStore
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from .store_samples import cache_of, files, record_of

Contents = dict[str, PromptRecord]


def contents(store: GistStore) -> Contents:
    """Every record, each with a cache that loads."""
    for record in store.list():
        assert store.load_cache(record.id).content_hash == record.cache_hash
    return {record.id: record for record in store.list()}


def assert_tidy(store: GistStore) -> None:
    """No file but those that the records need."""
    records = store.list()
    assert files(store.directory, "records") == sorted(f"{r.id}.json" for r in records)
    caches = sorted({f"{r.cache_hash}.safetensors" for r in records})
    assert files(store.directory, "caches") == caches


class StoreAgainstDict(RuleBasedStateMachine):
    """Random operations on a store and on a dict; they agree, also after reopening."""

    records = Bundle("records")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(os.environ["GISTSERVE_TEST_STORE"])
        shutil.rmtree(self.directory, ignore_errors=True)
        self.store = GistStore(self.directory)
        self.model: Contents = {}

    def name_is_free(self, record: PromptRecord) -> bool:
        others = (r for r in self.model.values() if r.id != record.id)
        return all(
            (r.owner, r.model, r.name) != (record.owner, record.model, record.name)
            for r in others
            if r.name is not None
        )

    @rule(
        target=records,
        tokens=st.lists(st.integers(0, 3), min_size=1, max_size=2),
        seed=st.integers(0, 1),
        name=st.sampled_from([None, "a", "b"]),
        owner=st.sampled_from(["", "me"]),
    )
    def put(self, tokens, seed, name, owner):
        record = record_of(tokens, name=name, owner=owner)
        cache = cache_of(tokens, seed=seed)
        if self.name_is_free(record):
            self.model[record.id] = self.store.put(record, cache)
        else:
            with pytest.raises(PromptNameTakenError):
                self.store.put(record, cache)
        return record.id

    @rule(prompt_id=records, seed=st.integers(0, 2))
    def replace_cache(self, prompt_id, seed):
        if prompt_id in self.model:
            record = self.model[prompt_id]
            stored = self.store.put(record, cache_of(record.prompt_token_ids, seed=seed))
            self.model[prompt_id] = stored

    @rule(prompt_id=records, name=st.sampled_from([None, "a", "c"]))
    def rename(self, prompt_id, name):
        if prompt_id not in self.model:
            return
        renamed = replace(self.model[prompt_id], name=name)
        if self.name_is_free(renamed):
            assert self.store.update(renamed) == renamed
            self.model[prompt_id] = renamed
        else:
            with pytest.raises(PromptNameTakenError):
                self.store.update(renamed)

    @rule(prompt_id=records, durable=st.booleans(), value=st.integers(0, 9))
    def edit(self, prompt_id, durable, value):
        if prompt_id in self.model:
            self.store.edit(prompt_id, durable=durable, metadata={"value": value})
            self.model[prompt_id] = replace(self.model[prompt_id], metadata={"value": value})

    @rule(prompt_id=records)
    def use(self, prompt_id):
        self.store.count_use(prompt_id, tokens_saved=3, at=5.0)
        if prompt_id in self.model:
            old = self.model[prompt_id]
            self.model[prompt_id] = replace(
                old, requests=old.requests + 1, tokens_saved=old.tokens_saved + 3, last_used_at=5.0
            )

    @rule(prompt_id=consumes(records))
    def delete(self, prompt_id):
        if prompt_id in self.model:
            self.store.delete(prompt_id)
            del self.model[prompt_id]

    @rule()
    def reopen(self):
        self.store.close()
        self.store = GistStore(self.directory)
        assert self.store.quarantined == []

    @invariant()
    def agree(self):
        assert contents(self.store) == self.model
        for record in self.model.values():
            assert record in self.store.find_by_prompt_hash(record.prompt_hash)
            if record.name is not None:
                found = self.store.find_by_name(record.owner, record.model, record.name)
                assert found == record
        assert_tidy(self.store)

    def teardown(self):
        self.store.close()


def test_random_operations_agree_with_a_dict(tmp_path, monkeypatch):
    monkeypatch.setenv("GISTSERVE_TEST_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk's patience, not its logic
    slow = [HealthCheck.too_slow]
    profile = settings(
        max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=slow
    )
    run_state_machine_as_test(StoreAgainstDict, settings=profile)


class KilledError(BaseException):
    """Stands for the end of the process: no clean-up code gets anything done after it."""


@contextlib.contextmanager
def killed_at(step: int, monkeypatch):
    """Let the process die at its `step`-th change of the file system. Yields whether it did."""
    count = 0
    died = []

    def dying(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count >= step:
                died.append(True)
                raise KilledError
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "write", "fsync", "replace", "unlink"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with contextlib.suppress(KilledError):
            yield died


def operations(store: GistStore) -> dict:
    """One of each kind; the contents that the store may have afterwards are before or after."""
    old = store.get("pmpt_00000000")
    return {
        "put": lambda: store.put(record_of([9], id="pmpt_99999999"), cache_of([9])),
        "put a shared cache": lambda: store.put(
            record_of([1], id="pmpt_99999999", owner="me"), cache_of([1])
        ),
        "replace": lambda: store.put(old, cache_of([1], seed=5)),
        "edit": lambda: store.edit(old.id, name="new"),
        "delete": lambda: store.delete(old.id),
    }


@pytest.mark.parametrize("operation", ["put", "put a shared cache", "replace", "edit", "delete"])
def test_a_kill_at_any_step_leaves_the_state_before_or_after(tmp_path, monkeypatch, operation):
    def fresh(directory: Path) -> GistStore:
        store = GistStore(directory)
        store.put(record_of([1], id="pmpt_00000000", name="old"), cache_of([1]))
        store.put(record_of([2], id="pmpt_11111111"), cache_of([2]))
        return store

    with fresh(tmp_path / "reference") as reference:
        before = contents(reference)
        operations(reference)[operation]()
        after = contents(reference)
    outcomes = []
    for step in range(1, 60):
        store = fresh(tmp_path / str(step))
        run = operations(store)[operation]
        with killed_at(step, monkeypatch) as died:
            run()
        store._files.close()  # as the end of the process does
        with GistStore(tmp_path / str(step)) as reopened:
            outcomes.append(contents(reopened))
            assert outcomes[-1] in (before, after)
            assert reopened.quarantined == []
            assert_tidy(reopened)
        if not died:
            break
    assert outcomes[0] == before
    assert outcomes[-1] == after
    assert len(outcomes) > 3


def _work(directory: str, seed: int, connection) -> None:
    """Random changes for ever; each is announced, carried out, and acknowledged with its result."""
    choose = random.Random(seed)
    with GistStore(directory) as store:
        while True:
            ids = [record.id for record in store.list()]
            kind = choose.choice(["put", "put", "edit", "delete"]) if ids else "put"
            if kind == "put":
                tokens = [choose.randrange(4)]
                record, cache = record_of(tokens), cache_of(tokens)
                connection.send(("put", record.for_cache(cache)))
                store.put(record, cache)
            elif kind == "edit":
                changed = replace(store.get(choose.choice(ids)), metadata={"x": choose.random()})
                connection.send(("put", changed))
                store.update(changed)
            else:
                victim = choose.choice(ids)
                connection.send(("delete", victim))
                store.delete(victim)
            connection.send(("done", None))


def _apply(state: Contents, kind: str, what) -> Contents:
    if kind == "put":
        return {**state, what.id: what}
    return {prompt_id: record for prompt_id, record in state.items() if prompt_id != what}


def _receive(connection) -> tuple:
    assert connection.poll(60)
    return connection.recv()


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    context = multiprocessing.get_context("fork")
    choose = random.Random(0)
    state: Contents = {}
    changes = 0
    for seed in range(8):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(str(tmp_path), seed, theirs))
        process.start()
        theirs.close()
        received = [_receive(ours) for _ in range(choose.randrange(3, 12))]
        time.sleep(choose.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                received.append(ours.recv())
        pending = None
        for kind, what in received:
            if kind == "done":
                state, pending = _apply(state, *pending), None
                changes += 1
            else:
                pending = (kind, what)
        with GistStore(tmp_path) as store:
            found = contents(store)
            assert found == state or (pending and found == _apply(state, *pending))
            assert store.quarantined == []
            assert_tidy(store)
        state = found
    assert changes > 10


@pytest.fixture
def three(tmp_path) -> tuple[Path, list[PromptRecord]]:
    """A closed store with three prompts: two that share a cache, and one of its own."""
    with GistStore(tmp_path) as store:
        stored = [
            store.put(record_of([1], id="pmpt_00000000"), cache_of([1])),
            store.put(record_of([1], id="pmpt_11111111", owner="me"), cache_of([1])),
            store.put(record_of([2], id="pmpt_22222222"), cache_of([2], seed=1)),
        ]
    return tmp_path, stored


def test_a_kill_ends_no_prompt_early_that_a_use_had_kept_alive(tmp_path):
    cache = cache_of([1, 2, 3])
    with GistStore(tmp_path, flush_seconds=30) as store:
        kept = store.put(record_of([1, 2, 3], ttl=60.0, expires_at=160.0), cache)
        fixed = store.put(record_of([1, 2, 3], name="fixed", expires_at=500.0), cache)
    for life in range(2):  # the second is killed before it has written anything
        store = GistStore(tmp_path, flush_seconds=30)
        if life == 0:
            store.count_use(kept.id, tokens_saved=1, at=125.0)
            store.count_use(fixed.id, tokens_saved=1, at=125.0)
        store._files.close()  # as the end of the process does
    with GistStore(tmp_path, flush_seconds=30) as store:
        assert 185.0 <= store.get(kept.id).expires_at <= 185.0 + 30
        assert store.get(fixed.id).expires_at == 500.0
        store.count_use(kept.id, tokens_saved=1, at=150.0)
    with GistStore(tmp_path, flush_seconds=30) as store:
        assert store.get(kept.id).expires_at == 210.0


def reopened_contents(directory: Path, **options) -> Contents:
    with GistStore(directory, **options) as store:
        return contents(store)


def damages(content: bytes) -> list[bytes]:
    """Cut-off and bit-flipped versions of a file."""
    cuts = [content[:length] for length in range(0, len(content), max(1, len(content) // 12))]
    flips = []
    for place in range(3, len(content), max(1, len(content) // 12)):
        changed = bytearray(content)
        changed[place] ^= 0x04
        flips.append(bytes(changed))
    return [*cuts, *flips]


def test_a_damaged_record_costs_that_prompt_alone(three, tmp_path_factory, caplog):
    directory, (first, second, third) = three
    whole = (directory / "records" / f"{third.id}.json").read_bytes()
    for number, damaged in enumerate(damages(whole)):
        copy = tmp_path_factory.mktemp("copy") / str(number)
        shutil.copytree(directory, copy)
        (copy / "records" / f"{third.id}.json").write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING), GistStore(copy) as store:
            assert contents(store) == {first.id: first, second.id: second}
            assert_tidy(store)
        assert f"{third.id}.json" in caplog.text
        aside = copy / "quarantine"
        assert (aside / f"{third.id}.json").read_bytes() == damaged
        assert (aside / f"{third.cache_hash}.safetensors").exists()
        assert reopened_contents(copy) == {first.id: first, second.id: second}


def test_a_damaged_cache_costs_the_prompts_that_use_it(three, tmp_path_factory):
    directory, (first, second, third) = three
    name = f"{first.cache_hash}.safetensors"
    whole = (directory / "caches" / name).read_bytes()
    for number, damaged in enumerate(damages(whole)):
        copy = tmp_path_factory.mktemp("copy") / str(number)
        shutil.copytree(directory, copy)
        (copy / "caches" / name).write_bytes(damaged)
        with GistStore(copy) as store:
            assert contents(store) == {third.id: third}
            assert_tidy(store)
            moved = {path.name for path, _ in store.quarantined}
            assert moved == {name, f"{first.id}.json", f"{second.id}.json"}
            assert store.put(first, cache_of([1])) == first
        assert reopened_contents(copy) == {first.id: first, third.id: third}


def test_without_verification_a_short_cache_is_noticed_at_once_and_a_changed_one_on_use(three):
    directory, (first, _, third) = three
    short = directory / "caches" / f"{third.cache_hash}.safetensors"
    short.write_bytes(short.read_bytes()[:-1])
    changed = directory / "caches" / f"{first.cache_hash}.safetensors"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    with GistStore(directory, verify_content=False) as store:
        assert {record.id for record in store.list()} == {"pmpt_00000000", "pmpt_11111111"}
        with pytest.raises(ValueError, match="is broken"):
            store.load_cache(first.id)
        assert store.list() == []


def test_a_missing_cache(three):
    directory, (first, second, third) = three
    (directory / "caches" / f"{first.cache_hash}.safetensors").unlink()
    with GistStore(directory) as store:
        assert contents(store) == {third.id: third}
        assert {reason for _, reason in store.quarantined} == {"its cache: the file is missing"}
    assert files(directory, "quarantine") == [f"{first.id}.json", f"{second.id}.json"]


def test_swapped_files_are_noticed(three):
    directory, (first, _, third) = three
    caches = directory / "caches"
    shutil.copy(
        caches / f"{first.cache_hash}.safetensors", caches / f"{third.cache_hash}.safetensors"
    )
    records = directory / "records"
    shutil.copy(records / f"{first.id}.json", records / "pmpt_33333333.json")
    with GistStore(directory) as store:
        assert {record.id for record in store.list()} == {"pmpt_00000000", "pmpt_11111111"}
        reasons = " ".join(reason for _, reason in store.quarantined)
        assert "holds the prompt pmpt_00000000" in reasons
        assert f"holds the cache {first.cache_hash}" in reasons


def test_a_record_of_a_newer_version_is_kept_with_its_cache(three):
    directory, (_, _, third) = three
    path = directory / "records" / f"{third.id}.json"
    newer = {**json.loads(path.read_text()), "format_version": 2}
    path.write_text(json.dumps(newer))
    with GistStore(directory) as store:
        assert third.id not in contents(store)
        assert any("format_version 2" in reason for _, reason in store.quarantined)
    for folder, name in (
        ("records", f"{third.id}.json"),
        ("caches", f"{third.cache_hash}.safetensors"),
    ):
        shutil.move(directory / "quarantine" / name, directory / folder / name)
    path.write_text(json.dumps({**newer, "format_version": 1}))
    assert reopened_contents(directory)[third.id] == third


def test_leftovers_are_removed_and_foreign_files_are_not(three):
    directory, stored = three
    orphan = cache_of([7])
    orphan.save(directory / "caches" / f"{orphan.content_hash}.safetensors")
    (directory / "caches" / ".abc.safetensors.0f.tmp").write_bytes(b"half")
    (directory / "records" / ".pmpt_x.json.0f.tmp").write_bytes(b"half")
    (directory / "quarantine" / ".probe.tmp").write_bytes(b"")
    foreign = [directory / "notes.txt", directory / "caches" / "notes.txt"]
    for path in foreign:
        path.write_text("mine")
    with GistStore(directory) as store:
        assert contents(store) == {record.id: record for record in stored}
    assert [path.read_text() for path in foreign] == ["mine", "mine"]
    assert files(directory, "quarantine") == []
    foreign[1].unlink()
    with GistStore(directory) as store:
        assert_tidy(store)


def test_two_records_of_one_name_keep_the_first(three):
    directory, (first, _, third) = three
    for record in (first, third):
        named = replace(record, name="a")
        (directory / "records" / f"{record.id}.json").write_bytes(named.to_bytes())
    with GistStore(directory) as store:
        assert store.find_by_name("", "tiny", "a").id == first.id
        moved = [path.name for path, _ in store.quarantined]
        assert moved == [f"{third.id}.json", f"{third.cache_hash}.safetensors"]


def test_a_quarantine_keeps_every_version(three):
    directory, (_, _, third) = three
    for content in (b"one", b"two"):
        (directory / "records" / f"{third.id}.json").write_bytes(content)
        GistStore(directory).close()
    kept = sorted((directory / "quarantine").glob(f"{third.id}.json*"))
    assert [path.read_bytes() for path in kept] == [b"one", b"two"]


def test_a_failed_opening_leaves_no_lock(three, monkeypatch):
    directory, stored = three

    def out_of_memory(*_args, **_kwargs):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", out_of_memory)
        with pytest.raises(GistStoreError, match="Cannot allocate memory"):
            GistStore(directory)
    assert reopened_contents(directory) == {record.id: record for record in stored}
