"""Private copies of pysqlx-core's library: each is loaded as a library of its own, whoever else has loaded the file.

On Linux a copy is a file in memory; elsewhere, or where such files may not be executed, one on disk that is
unlinked as soon as it is loaded. Why there are copies, `drivers` tells; this is how.
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
# Loading makes a module known by its name at once. It is not the installed one's name: whoever imports that then would
# get ours. The library insists on the last part of it.
_NAME = "mppool.copy.pysqlx_core"
_spare: Owned | None = None  # a copy that nobody has loaded here; children inherit it
_copies = 0  # over all forks: a path must never come twice, both Python and the linker remember libraries by path


def load(verify: bool) -> Any:
    """A new copy, loaded.

    Args:
        verify: whether it is to know the system's certificate authorities. Without them it can verify no server,
            so it must only be used where none is to be verified.

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
    """Before a fork: have a copy ready that the children load, each for itself, and share the memory of."""
    global _spare
    if _spare is None or not _spare.is_ours():
        try:
            _spare = Owned(_in_memory(verify=False))
        except (OSError, AttributeError, ImportError):
            pass  # then each makes its own


def _take_spare() -> int | None:
    """The spare copy's descriptor, now the caller's; None: there is none, or it was closed from outside (a daemon
    closes all that it inherited) and the number may be another file's by now."""
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
    """Where the library names the variable."""
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
