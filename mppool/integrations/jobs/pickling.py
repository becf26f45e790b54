"""How jobs, their arguments and their results become bytes: by pickle, which is fast; by dill what pickle cannot."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mppool.fork_lock import import_late

__all__ = ["pack", "pack_function", "unpack"]


def pack(value: Any) -> bytes:
    try:
        return b"p" + pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return b"d" + bytes(_pickler().dumps(value))


def unpack(packed: bytes) -> Any:
    if packed[:1] == b"p":
        return pickle.loads(packed[1:])
    return _pickler().loads(packed[1:])


def pack_function(function: Callable[..., Any]) -> bytes:
    """A function, lambda or closure, with the globals of ``__main__`` that it uses. Where one of those cannot go along
    (a lock, an open file), the function finds all of them as the worker has them.

    Raises: PicklingError, TypeError: it cannot be sent.
    """
    try:
        return b"d" + bytes(_pickler().dumps(function, recurse=True))
    except Exception:
        return b"d" + bytes(_pickler().dumps(function))


@lru_cache(maxsize=1)
def _pickler() -> Any:
    base = import_late("multiprocess.reduction").ForkingPickler

    class Pickler(base):  # type: ignore[misc, valid-type]
        """dill's, but classes of ``__main__`` go by name: what a job makes of one is of the same class here."""

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, type) and value.__module__ == "__main__":
                name = value.__qualname__
                if getattr(sys.modules["__main__"], name, None) is value:
                    return name
            return NotImplemented

    return Pickler
