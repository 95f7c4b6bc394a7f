"""What opening a store does: clear up after a crash and set broken entries aside."""

import logging

from .errors import GistCacheError, PromptNameTakenError, PromptRecordError
from .record_index import RecordIndex
from .store_files import StoreFiles, fault

logger = logging.getLogger(__name__)


def recover(files: StoreFiles, *, verify_content: bool) -> RecordIndex:
    """Index every sound record of a store; move broken ones, and broken caches, to quarantine.

    `verify_content`: read every cache to the last byte, not only its header. Raises OSError for a
    disk that refuses, or where memory or file handles ran out.
    """
    files.remove_temporaries()
    index = _read_records(files)
    # A record that cannot be read may need any of the caches that now seem unused.
    keep_unused = bool(files.quarantined)
    for cache_hash in {record.cache_hash for record in index}:
        try:
            if verify_content:
                files.read_cache(cache_hash)
            else:
                files.check_cache_header(cache_hash)
        except (OSError, GistCacheError) as error:
            quarantine_cache(files, index, cache_hash, fault(error))
    _clear_unused_caches(files, index, keep_unused)
    return index


def quarantine_cache(files: StoreFiles, index: RecordIndex, cache_hash: str, reason: str) -> None:
    """Set a broken cache aside, with every record that uses it."""
    for record in [record for record in index if record.cache_hash == cache_hash]:
        files.quarantine_record(record.id, f"its cache: {reason}")
        index.discard(record.id)
    files.quarantine_cache(cache_hash, reason)


def _read_records(files: StoreFiles) -> RecordIndex:
    index = RecordIndex()
    for prompt_id in files.record_ids():
        try:
            index.add(files.read_record(prompt_id))
        except (OSError, PromptRecordError, PromptNameTakenError) as error:
            files.quarantine_record(prompt_id, fault(error))
    return index


def _clear_unused_caches(files: StoreFiles, index: RecordIndex, keep: bool) -> None:
    for cache_hash in files.cache_hashes():
        if index.uses_cache(cache_hash):
            continue
        if keep:
            files.quarantine_cache(cache_hash, "no readable record uses it")
        else:
            logger.info("removing the cache %s, which no record uses", cache_hash)
            files.remove_cache(cache_hash)
