"""An alarm for a thread that sleeps on a selector."""

from __future__ import annotations

import os


class Alarm:
    """Wakes a selector from any thread. Rung any number of times, it wakes once."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._rung = False

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        if not self._rung:
            try:
                self._rung = True
                os.write(self._write, b"!")
            except OSError:
                pass  # full: it has been rung; closed: nobody listens any more
            except BaseException:  # Ctrl-C: the next ring must not take it that this one was heard
                self._rung = False
                raise

    def hush(self) -> None:
        """Before looking at what there is to do, so that what comes later rings again."""
        try:
            os.read(self._read, 64)
        except OSError:
            pass
        self._rung = False

    def close(self) -> None:
        self._rung = True
        os.close(self._read)
        os.close(self._write)
