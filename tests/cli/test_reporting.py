"""`mppool report`."""

from __future__ import annotations

from pathlib import Path

from mppool import PoolManager
from mppool.cli.reporting import record
from mppool.stats import BudgetStats
from tests.cli.commands import ask


def test_a_report_of_a_running_budget(sqlite_uri: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with PoolManager(sqlite_uri, 3, "shop") as manager, manager.pool().connection():
        assert ask("report", "shop", "--seconds", "0.2", "--output", str(path)).stdout == f"{path}\n"
        said = ask("report", "shop", "--seconds", "0.1", "--output", "/no/such/folder/x", code=1).stderr.splitlines()
    assert said[-1] == "Error: cannot write /no/such/folder/x: No such file or directory"
    assert "<h1>shop</h1>" in path.read_text()
    ask("report", "shop", "--seconds", "0", code=2)


class Interrupted:
    """A budget that is watched until Ctrl-C is pressed."""

    def __init__(self, seen: list[BudgetStats]) -> None:
        self._seen = seen

    def stats(self) -> BudgetStats:
        if not self._seen:
            raise KeyboardInterrupt
        return self._seen.pop()


def test_ctrl_c_ends_it_early(sqlite_uri: str) -> None:
    manager = PoolManager(sqlite_uri, 3, "shop")
    manager.start()
    watched = Interrupted([manager.stats()] * 2)
    manager.stop()
    assert len(record(watched, 60.0).samples) == 2  # type: ignore[arg-type]
