"""Where Celery keeps results in these tests: files, as its own backend does, but each there whole or not at all.

Celery's writes a task's second state (SUCCESS) over its first (STARTED) while whoever waits for it is reading.
"""

from __future__ import annotations

import os
from typing import Any

from celery.backends.filesystem import FilesystemBackend


class Results(FilesystemBackend):  # type: ignore[misc]
    def set(self, key: bytes, value: Any) -> None:
        super().set(key + b".new", value)
        os.replace(self._filename(key + b".new"), self._filename(key))
