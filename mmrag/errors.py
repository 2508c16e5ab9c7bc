"""Every error that mmrag raises on purpose.

MmragError
├── InputError            what was given cannot be used (also a ValueError)
│   ├── QueryError        a query with nothing to say, or in the wrong shape
│   └── RecipeError       a TOML or JSON file with an unknown key or a wrong value
├── ItemError             one picture or text cannot be read; the run goes on without it
│   └── TooLargeError     it is beyond a limit, which another run may raise
├── ModelError            a model is unknown, incomplete or damaged
│   └── MissingExtraError a package of an optional extra is not installed
├── GenerationError       words could not be written: too much context, too slow, or a server that is gone
├── TrainingError         a training cannot go on
├── WatchError            a folder cannot be watched for changes
└── StoreError            an index on disk cannot be used as asked
    ├── IndexNotFoundError
    ├── IndexExistsError
    ├── IndexModelError   the index was written by another model
    ├── IndexFormatError  the index was written by another format of mmrag, or is damaged
    ├── IndexLockedError  another process is writing
    └── Interrupted       stopped by the user; what was done so far is kept

Messages say what was given, what is allowed and what to do next.
"""


class MmragError(Exception):
    """Base of every error that mmrag raises on purpose."""


class InputError(MmragError, ValueError):
    """What was given cannot be used."""


class QueryError(InputError):
    """A query with nothing to say, or in the wrong shape."""


class RecipeError(InputError):
    """A recipe, card or manifest with an unknown key or a wrong value."""


class ItemError(MmragError):
    """One picture or text cannot be read; the message is the reason."""


class TooLargeError(ItemError):
    """A file or picture is beyond a limit, which another run may raise."""


class ModelError(MmragError):
    """A model is unknown, incomplete or damaged."""


class MissingExtraError(ModelError):
    """A package of an optional extra is not installed.

    Parameters
    ----------
    package : str
        The module that could not be imported.
    extra : str
        The extra of mmrag that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed, and this needs it. Install it: pip install 'mmrag[{extra}]'")


class GenerationError(MmragError):
    """Words could not be written: too long a conversation, too slow, or a server that is gone or refuses."""


class TrainingError(MmragError):
    """A training cannot go on."""


class WatchError(MmragError):
    """A folder cannot be watched for changes."""


class StoreError(MmragError):
    """An index on disk cannot be used as asked."""


class IndexNotFoundError(StoreError):
    """There is no index at or above a folder."""


class IndexExistsError(StoreError):
    """There is an index already where a new one was to be made."""


class IndexModelError(StoreError):
    """The index was written by another model than the one asked for."""


class IndexFormatError(StoreError):
    """The index was written by another format of mmrag, or is damaged."""


class IndexLockedError(StoreError):
    """Another process is writing to the index."""


class Interrupted(StoreError):
    """Stopped by the user; what was done so far is kept."""
