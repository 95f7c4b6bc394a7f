"""GistStore: everyday use, sharing of caches, counters, and what it refuses."""

import errno
import logging
import multiprocessing
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gistserve.compress import atomic
from gistserve.compress.cache import hash_tokens
from gistserve.compress.errors import (
    GistCacheError,
    GistStoreError,
    PromptNameTakenError,
    PromptNotFoundError,
    PromptRecordError,
    StoreFullError,
    StoreLockedError,
    StoreUnwritableError,
)
from gistserve.compress.store import GistStore, PromptRecord

from .store_samples import FINGERPRINT, cache_of, files, record_of


@pytest.fixture
def store(tmp_path):
    with GistStore(tmp_path / "store") as opened:
        yield opened


def test_put_fills_in_what_the_cache_tells(store):
    cache = cache_of([5, 6, 7, 8])
    stored = store.put(record_of([5, 6, 7, 8]), cache)
    assert stored.cache_hash == cache.content_hash
    assert stored.prompt_hash == hash_tokens([5, 6, 7, 8])
    assert (stored.slots, stored.sink_tokens, stored.next_position) == (3, 1, 6)
    assert stored.model_fingerprint == FINGERPRINT
    assert (stored.cache_bytes, stored.uncompressed_bytes) == (48, 64)
    assert stored.ratio == 4 / 3
    assert store.get(stored.id) == stored


def test_everything_survives_a_restart(tmp_path):
    turns = [{"role": "system", "content": "Grüße 😀 \ud83d \x00"}, {"role": "user"}]
    record = record_of(
        [1, 2, 3],
        text=None,
        messages=turns,
        name="rules.v-1",
        owner="abc",
        metadata={"team": "x"},
        auto_match=True,
        expires_at=1_800_000_000.5,
    )
    with GistStore(tmp_path) as store:
        stored = store.put(record, cache_of([1, 2, 3]))
    with GistStore(tmp_path) as store:
        assert store.list() == [stored]
        assert store.get(stored.id) == stored
        loaded = store.load_cache(stored.id)
        assert loaded.content_hash == stored.cache_hash
        assert torch.equal(loaded.keys[0], cache_of([1, 2, 3]).keys[0])
        assert store.quarantined == []


def test_lookups(store):
    first = store.put(record_of([1, 2], name="a", created_at=2), cache_of([1, 2]))
    second = store.put(record_of([1, 2], name="a", owner="me", created_at=1), cache_of([1, 2]))
    third = store.put(record_of([3], name="a", model="big", created_at=3), cache_of([3]))
    assert store.find_by_name("", "tiny", "a") == first
    assert store.find_by_name("me", "tiny", "a") == second
    assert store.find_by_name("me", "big", "a") is None
    assert store.find_by_prompt_hash(hash_tokens([1, 2])) == [second, first]
    assert store.find_by_prompt_hash(hash_tokens([9])) == []
    assert store.list() == [second, first, third]
    assert store.list(owner="") == [first, third]
    assert store.list(model="tiny") == [second, first]
    assert len(store) == 3
    with pytest.raises(PromptNotFoundError, match="no prompt 'pmpt_nothing00'"):
        store.get("pmpt_nothing00")


def test_names_are_unique_for_an_owner_and_model(store):
    first = store.put(record_of([1], name="a"), cache_of([1]))
    other = store.put(record_of([1], name="b"), cache_of([1]))
    with pytest.raises(PromptNameTakenError, match=first.id):
        store.put(record_of([2], name="a"), cache_of([2], seed=9))
    with pytest.raises(PromptNameTakenError):
        store.edit(other.id, name="a")
    assert store.find_by_name("", "tiny", "a") == first
    assert files(store.directory, "caches") == [f"{first.cache_hash}.safetensors"]
    store.delete(first.id)
    assert store.edit(other.id, name="a").name == "a"
    assert store.find_by_name("", "tiny", "b") is None


def test_equal_caches_are_stored_once_and_go_with_their_last_prompt(store):
    one = store.put(record_of([1, 2]), cache_of([1, 2]))
    two = store.put(record_of([1, 2], owner="me"), cache_of([1, 2]))
    assert one.cache_hash == two.cache_hash
    name = [f"{one.cache_hash}.safetensors"]
    assert files(store.directory, "caches") == name
    store.delete(one.id)
    assert files(store.directory, "caches") == name
    store.load_cache(two.id)
    store.delete(two.id)
    assert files(store.directory, "caches") == []
    assert files(store.directory, "records") == []
    with pytest.raises(PromptNotFoundError):
        store.delete(two.id)


def test_put_replaces_the_cache_of_the_same_id(store):
    old = store.put(record_of([1, 2]), cache_of([1, 2]))
    new = store.put(replace(old, created_at=5), cache_of([1, 2], seed=1))
    assert new.cache_hash != old.cache_hash
    assert store.list() == [new]
    assert files(store.directory, "caches") == [f"{new.cache_hash}.safetensors"]
    assert torch.equal(store.load_cache(new.id).keys[0], cache_of([1, 2], seed=1).keys[0])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt_token_ids": [9]}, "prompt_hash"),
        ({"gist_tokens": 3}, "gist_tokens"),
        ({"method": "prefix"}, "method"),
    ],
)
def test_a_record_must_belong_to_its_cache(store, changes, field):
    with pytest.raises(PromptRecordError, match=field):
        store.put(replace(record_of([1, 2]), **changes), cache_of([1, 2]))
    assert len(store) == 0
    assert files(store.directory, "caches") == []


def test_update_and_edit_change_the_record_alone(tmp_path):
    with GistStore(tmp_path) as store:
        stored = store.put(record_of([1]), cache_of([1]))
        store.update(replace(stored, metadata={"a": 1}))
        store.edit(stored.id, expires_at=9)
        expected = replace(stored, metadata={"a": 1}, expires_at=9)
        assert store.get(stored.id) == expected
        with pytest.raises(PromptRecordError, match="cache_hash"):
            store.edit(stored.id, cache_hash="0" * 64)
        with pytest.raises(PromptRecordError, match="name"):
            store.edit(stored.id, name="x", durable=False)
        with pytest.raises(PromptNotFoundError):
            store.update(record_of([2]))
    with GistStore(tmp_path) as store:
        assert store.list() == [expected]


def test_counters_do_not_touch_the_disk_until_flushed(tmp_path, monkeypatch):
    store = GistStore(tmp_path)
    stored = store.put(record_of([1]), cache_of([1]))
    path = tmp_path / "records" / f"{stored.id}.json"
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: pytest.fail("a counter was flushed at once"))
        for moment in range(5):
            store.count_use(stored.id, tokens_saved=10, at=float(moment))
        store.update(replace(store.get(stored.id), auto_match=True), durable=False)
    assert path.read_bytes() == before
    assert store.get(stored.id).requests == 5
    store.flush()
    found = PromptRecord.from_bytes(path.read_bytes())
    assert (found.requests, found.tokens_saved, found.last_used_at) == (5, 50, 4.0)
    assert found.auto_match
    store.count_use(stored.id, tokens_saved=1, at=9.0)
    store.close()
    with GistStore(tmp_path) as again:
        assert again.get(stored.id).tokens_saved == 51


def test_counters_are_written_after_a_while(tmp_path):
    with GistStore(tmp_path, flush_seconds=0.05) as store:
        stored = store.put(record_of([1]), cache_of([1]))
        path = tmp_path / "records" / f"{stored.id}.json"
        for round_number in (1, 2):
            store.count_use(stored.id, tokens_saved=1, at=1.0)
            for _ in range(3000):
                if PromptRecord.from_bytes(path.read_bytes()).requests == round_number:
                    break
                threading.Event().wait(0.02)
            assert PromptRecord.from_bytes(path.read_bytes()).requests == round_number


def test_counting_a_deleted_prompt_brings_nothing_back(tmp_path):
    with GistStore(tmp_path) as store:
        stored = store.put(record_of([1]), cache_of([1]))
        store.count_use(stored.id, tokens_saved=1, at=1.0)
        store.delete(stored.id)
        store.count_use(stored.id, tokens_saved=1, at=2.0)
    assert files(tmp_path, "records") == []


def test_counters_that_cannot_be_written_stay_in_memory(tmp_path, monkeypatch):
    with GistStore(tmp_path) as store:
        stored = store.put(record_of([1]), cache_of([1]))
        store.count_use(stored.id, tokens_saved=1, at=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _full)
            with pytest.raises(StoreUnwritableError):
                store.flush()
    with GistStore(tmp_path) as store:
        assert store.get(stored.id).requests == 1


def test_threads_lose_no_change(tmp_path):
    with GistStore(tmp_path) as store:
        shared = store.put(record_of([1]), cache_of([1]))

        def work(number: int) -> None:
            for step in range(10):
                mine = store.put(record_of([number]), cache_of([number], seed=number))
                store.count_use(shared.id, tokens_saved=1, at=float(step))
                store.edit(shared.id, metadata={"last": number})
                store.load_cache(mine.id)
                if step % 2:
                    store.delete(mine.id)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get(shared.id).requests == 40
        expected = store.list()
        assert len(expected) == 1 + 4 * 5
    with GistStore(tmp_path) as store:
        assert store.list() == expected
        assert store.quarantined == []


def size_of(store: GistStore) -> int:
    """Bytes of records and caches, as the file system tells."""
    folders = [store.directory / name for name in ("records", "caches")]
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir())


def test_the_size_is_that_of_the_files(tmp_path):
    with GistStore(tmp_path) as store:
        assert store.num_bytes == 0
        one = store.put(record_of([1]), cache_of([1]))
        twin = store.put(record_of([1], owner="me"), cache_of([1]))
        store.put(replace(one, created_at=9), cache_of([1], seed=5))
        store.edit(twin.id, metadata={"a": "x" * 100})
        store.count_use(twin.id, tokens_saved=10**9, at=5.0)
        store.flush()
        assert store.num_bytes == size_of(store)
        path = tmp_path / "caches" / f"{twin.cache_hash}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(GistCacheError):
            store.load_cache(twin.id)
        assert store.num_bytes == size_of(store) > 0
    with GistStore(tmp_path) as store:
        assert store.num_bytes == size_of(store) > 0
        store.delete(one.id)
        assert store.num_bytes == 0


def test_a_full_store_refuses_and_changes_nothing(tmp_path):
    with GistStore(tmp_path) as store:
        kept = store.put(record_of([1], name="a"), cache_of([1]))
        one_prompt = store.num_bytes
    limit = 2 * one_prompt
    with GistStore(tmp_path, max_bytes=limit) as store:
        twin = store.put(record_of([1], owner="me"), cache_of([1]))  # shares the cache
        before = store.list()
        with pytest.raises(StoreFullError, match=rf"of {limit} bytes.*delete.*--store-limit"):
            store.put(record_of([2]), cache_of([2], seed=1))
        assert store.list() == before
        assert store.num_bytes == size_of(store)
        assert files(tmp_path, "caches") == [f"{kept.cache_hash}.safetensors"]
        store.delete(twin.id)
        store.put(record_of([2], name="b"), cache_of([2], seed=1))
        assert store.num_bytes == size_of(store) == limit  # to the last byte
        before = store.get(kept.id)
        with pytest.raises(StoreFullError, match=rf"of {limit} bytes.*delete.*--store-limit"):
            store.edit(kept.id, metadata={"a": "b"})
        assert store.get(kept.id) == before
        store.edit(kept.id, name="c")  # no larger
        store.count_use(kept.id, tokens_saved=10**9, at=1e9)  # is never refused
        store.flush()
        assert store.num_bytes > limit
        store.edit(kept.id, created_at=1)  # smaller
        assert store.get(kept.id).tokens_saved == 10**9
        assert store.num_bytes == size_of(store)
    with GistStore(tmp_path, max_bytes=1) as store:
        assert len(store) == 2
        with pytest.raises(StoreFullError):
            store.check_room(0)


def test_expectations_of_a_model_do_not_harm_the_entry(store):
    stored = store.put(record_of([1]), cache_of([1]))
    with pytest.raises(GistCacheError, match="model_fingerprint") as caught:
        store.load_cache(stored.id, expect={"model_fingerprint": "model-b"})
    assert caught.value.field == "model_fingerprint"
    assert store.load_cache(stored.id, expect={"model_fingerprint": FINGERPRINT}).slots == 3


def test_one_process_at_a_time(tmp_path):
    with GistStore(tmp_path), pytest.raises(StoreLockedError, match=f"process {os.getpid()}.*--st"):
        GistStore(tmp_path)
    GistStore(tmp_path).close()


def _hold(directory: str, ready, done) -> None:
    GistStore(directory)
    ready.set()
    done.wait()


def test_a_killed_holder_lets_go(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    process.start()
    assert ready.wait(30)
    with pytest.raises(StoreLockedError, match=f"process {process.pid}"):
        GistStore(tmp_path)
    process.kill()
    process.join()
    GistStore(tmp_path).close()


def test_a_closed_store_refuses(tmp_path):
    store = GistStore(tmp_path)
    stored = store.put(record_of([1]), cache_of([1]))
    store.close()
    store.close()
    for change in (
        lambda: store.put(record_of([2]), cache_of([2])),
        lambda: store.edit(stored.id, auto_match=True),
        lambda: store.edit(stored.id, auto_match=True, durable=False),
        lambda: store.delete(stored.id),
    ):
        with pytest.raises(GistStoreError, match="is closed"):
            change()


def _full(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_directory_that_cannot_be_made_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritableError, match=r"file.*--store"):
        GistStore(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("folder", ["records", "caches", "quarantine"])
def test_a_directory_without_permission_is_refused(tmp_path, folder):
    GistStore(tmp_path).close()
    (tmp_path / folder).chmod(0o500)
    try:
        with pytest.raises(StoreUnwritableError, match=r"Permission denied.*writable"):
            GistStore(tmp_path)
        with pytest.raises(StoreUnwritableError, match=r"Permission denied.*--store"):
            GistStore(tmp_path / folder / "new")
    finally:
        (tmp_path / folder).chmod(0o700)


def test_a_read_only_file_system_is_refused(tmp_path, monkeypatch):
    GistStore(tmp_path).close()

    def read_only(*_args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic.os, "open", read_only)
    with pytest.raises(StoreUnwritableError, match=r"Read-only file system.*--store"):
        GistStore(tmp_path)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("operation", ["put", "replace", "edit"])
def test_a_full_disk_keeps_the_old_state(tmp_path, monkeypatch, operation, step):
    with GistStore(tmp_path) as store:
        old = store.put(record_of([1], name="a"), cache_of([1]))
        with monkeypatch.context() as patch:
            patch.setattr(os, step, _full)
            with pytest.raises(StoreUnwritableError, match=r"No space.*free some space"):
                if operation == "put":
                    store.put(record_of([2], name="b"), cache_of([2], seed=1))
                elif operation == "replace":
                    store.put(old, cache_of([1], seed=2))
                else:
                    store.edit(old.id, name="c")
        assert store.list() == [old]
        assert store.find_by_name("", "tiny", "a") == old
        assert files(tmp_path, "caches") == [f"{old.cache_hash}.safetensors"]
        assert files(tmp_path, "records") == [f"{old.id}.json"]
        store.load_cache(old.id)
        assert store.put(record_of([2], name="b"), cache_of([2])).name == "b"
    with GistStore(tmp_path) as store:
        assert store.get(old.id) == old
        assert len(store) == 2


@pytest.mark.parametrize("failing", range(1, 5))
def test_memory_follows_the_disk_when_flushing_fails(tmp_path, monkeypatch, failing):
    """put flushes cache, caches/, record and records/; after any failure a restart agrees."""
    real = os.fsync
    with GistStore(tmp_path) as store:
        old = store.put(record_of([1]), cache_of([1]))
        calls = []

        def fsync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == failing:
                _full()
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(StoreUnwritableError):
                store.put(replace(old, created_at=9), cache_of([1], seed=3))
        remembered = store.list()
        store.load_cache(old.id)
    with GistStore(tmp_path) as store:
        assert store.list() == remembered
        assert store.quarantined == []


def test_a_shortage_of_file_handles_breaks_no_entry(store, monkeypatch):
    stored = store.put(record_of([1]), cache_of([1]))
    real = Path.open

    def out_of_handles(path, *args, **kwargs):
        if path.suffix == ".safetensors":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", out_of_handles)
        with pytest.raises(OSError, match="Too many open files"):
            store.load_cache(stored.id)
    assert store.load_cache(stored.id).slots == 3
    assert store.quarantined == []


def test_a_cache_broken_while_the_store_is_open(store, caplog):
    broken = store.put(record_of([1]), cache_of([1]))
    twin = store.put(record_of([1], owner="me"), cache_of([1]))
    sound = store.put(record_of([2]), cache_of([2], seed=1))
    path = store.directory / "caches" / f"{broken.cache_hash}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), pytest.raises(GistCacheError, match="register the pro"):
        store.load_cache(broken.id)
    assert "content_hash" in caplog.text
    assert store.list() == [sound]
    for gone in (broken, twin):
        with pytest.raises(PromptNotFoundError):
            store.load_cache(gone.id)
    assert store.put(record_of([1]), cache_of([1])).cache_hash == broken.cache_hash
    assert len(files(store.directory, "quarantine")) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../etc/passwd"},
        {"id": "pmpt_ABCDEFGH"},
        {"name": "a b"},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a/b"},
        {"messages": [], "text": "both"},
        {"text": None},
        {"method": "zip"},
        {"created_at": 1.5},
        {"prompt_token_ids": (1, 2)},
        {"metadata": None},
        {"auto_match": 1},
    ],
)
def test_records_refuse_what_could_not_be_kept(changes):
    with pytest.raises(PromptRecordError, match=next(iter(changes))):
        record_of([1], **changes)


def test_what_json_cannot_hold_is_refused_before_anything_is_written(store):
    with pytest.raises(PromptRecordError, match="JSON"):
        store.put(record_of([1], metadata={"x": object()}), cache_of([1]))
    assert files(store.directory, "caches") == []


def test_file_names_come_from_hashes_and_ids_alone(store):
    stored = store.put(record_of([1], name="..", owner="../x", model="/a/b"), cache_of([1]))
    found = sorted(
        str(path.relative_to(store.directory))
        for path in store.directory.rglob("*")
        if path.is_file()
    )
    assert found == [
        f"caches/{stored.cache_hash}.safetensors",
        f"records/{stored.id}.json",
        "store.lock",
    ]
