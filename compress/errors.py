"""What can go wrong with compressed prompts and models; messages name the value and the remedy."""


class GistError(Exception):
    """Base of all errors raised by `gistserve.compress`."""


class GistCacheError(GistError, ValueError):
    """A gist cache is broken, of an unknown format, or does not belong to this model or prompt.

    `field` names the manifest field (or "file", "header", "content_hash") that is at fault.
    """

    def __init__(self, message: str, field: str = "file") -> None:
        super().__init__(message)
        self.field = field


class FingerprintError(GistError, ValueError):
    """A model, tokenizer or adapter cannot be fingerprinted."""


class GistStoreError(GistError):
    """The store cannot do what was asked; its state is as before."""


class StoreUnwritableError(GistStoreError, OSError):
    """The store's directory cannot be created or written to, or its disk is full."""


class StoreFullError(GistStoreError):
    """The store may not grow by what was to be put into it."""


class StoreLockedError(GistStoreError):
    """Another process has the store open."""


class PromptRecordError(GistStoreError, ValueError):
    """A prompt record is malformed or of an unknown format version."""


class PromptNotFoundError(GistStoreError, KeyError):
    """The store has no prompt of this id."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class PromptNameTakenError(GistStoreError, ValueError):
    """Another prompt of the same owner and model already has this name."""


class SparsityError(GistError, ValueError):
    """A model cannot be made sparse as asked; the message names the setting or the module."""


class SparseCheckpointError(GistError, ValueError):
    """A sparse checkpoint is broken, contradicts its config.json, or is of an unknown format."""
