"""Private copies of the driver's library. The operating system takes each for another library, even where the installed
file has been loaded as well.

On Linux a copy is a file in memory. Elsewhere, or where such files may not be executed, it is a file on disk that is
unlinked as soon as it has been loaded. `drivers` says why there are copies.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import mmap
import os
import re
import sys
from functools import lru_cache
from typing import Any

from mppool.shared.descriptors import Owned

__all__ = ["load", "make_spare"]

# OpenSSL inside the library, and the code that looks for a bundle on its behalf, ask the environment for this name.
# The other one has as many letters, so that it fits in its place.
BUNDLE, OUR_BUNDLE = b"SSL_CERT_FILE", b"MPPOOL_CAFILE"
# Loading registers a module under its name at once. With the installed module's name, an import of that at the same
# moment would get ours. The library requires the last part of the name.
_NAME = "mppool.copy.pysqlx_core"
_spare: Owned | None = None  # a copy that this process has not loaded; children inherit it
_copies = 0  # over all forks: no path may be used twice, for Python and the linker remember libraries by path


def load(verify: bool) -> Any:
    """A new copy, loaded.

    Args:
        verify: whether the copy knows the system's certificate authorities. Without them it cannot verify a server.

    Raises: ImportError.
    """
    global _copies
    _copies += 1
    if not verify:
        os.environ[OUR_BUNDLE.decode()] = os.devnull
    try:
        copy = None if verify else _take_spare()
        if copy is None:
            copy = _in_memory(verify)
        try:
            # The steps in place ("./") make the path unique although descriptor numbers and even pids come again.
            return _import(f"/proc/{os.getpid()}/fd/{'./' * _copies}{copy}")
        finally:
            os.close(copy)  # the mapping stays
    except (OSError, AttributeError, ImportError):
        return _on_disk(verify)


def make_spare() -> None:
    """Before a fork: prepare a copy. Each child loads it for itself, and all share its memory."""
    global _spare
    if _spare is None or not _spare.is_ours():
        try:
            _spare = Owned(_in_memory(verify=False))
        except (OSError, AttributeError, ImportError):
            pass  # then each child makes its own


def _take_spare() -> int | None:
    """The spare copy's descriptor, which the caller must close. None: there is none, or other code has closed it (a
    daemon closes what it inherited), and the number may be another file's by now."""
    global _spare
    spare, _spare = _spare, None
    return spare.fd if spare is not None and spare.is_ours() else None


def installed() -> str:
    """The installed library's path; nothing is imported."""
    package = importlib.util.find_spec("pysqlx_core")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = os.path.join(folder, "pysqlx_core" + suffix)
            if os.path.exists(path):
                return path
    raise ImportError("pysqlx-core is not installed, or not for this Python")


def _in_memory(verify: bool) -> int:
    copy = os.memfd_create("mppool-core")
    try:
        _fill(copy, verify)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _on_disk(verify: bool) -> Any:
    import tempfile  # slow to import, and seldom needed

    copy, path = tempfile.mkstemp(prefix="mppool-core-", suffix=os.path.splitext(installed())[1])
    try:
        _fill(copy, verify)
        return _import(path)
    finally:
        os.close(copy)
        os.unlink(path)  # the mapping stays


def _fill(copy: int, verify: bool) -> None:
    original = installed()
    with open(original, "rb") as file:
        while chunk := file.read(1 << 20):
            view = memoryview(chunk)
            while view:
                view = view[os.write(copy, view) :]
    for place in () if verify else _places(original):
        os.pwrite(copy, OUR_BUNDLE, place)


@lru_cache(maxsize=4)
def _places(original: str) -> tuple[int, ...]:
    """The offsets at which the library has the variable's name."""
    with open(original, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return tuple(found.start() for found in re.finditer(re.escape(BUNDLE), data))


def _import(path: str) -> Any:
    loader = importlib.machinery.ExtensionFileLoader(_NAME, path)
    spec = importlib.util.spec_from_loader(_NAME, loader, origin=path)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    finally:
        sys.modules.pop(_NAME, None)
    return module
