"""``python -m mppool`` is the command ``mppool``."""

from __future__ import annotations

from mppool.cli import main

if __name__ == "__main__":
    main(prog_name="python -m mppool")
