"""Which requests the manager refuses, and in which words."""

from __future__ import annotations

from mppool.shared import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def refusal(config: dict[str, Any], message: dict[str, Any], space: int, stopped: bool) -> dict[str, Any] | None:
    """The answer to a request that means another budget, or that comes after the end; None: it is not refused.

    Args:
        config: the manager's.
        message: the request.
        space: `identity.space` of the manager.
        stopped: the budget was stopped, and the request is none that is answered even then.
    """
    name = config["name"]
    if message.get("space") not in (None, space):
        return _refused("ManagerUnavailableError", f"budget {name!r}: {identity.ELSEWHERE}")
    mismatch = [
        f"{key} is {config[key]} there and {message[key]} here"
        for key in ("max_size", "database")
        if message.get(key) not in (None, config[key])
    ]
    if mismatch:
        return _refused("BudgetMismatchError", f"budget {name!r} runs with other settings: {'; '.join(mismatch)}")
    if stopped:
        return _refused("ManagerUnavailableError", f"budget {name!r} was stopped and takes no new members")
    return None


def full(config: dict[str, Any], error: str, why: str) -> dict[str, Any]:
    """The answer to a process for which there is no room. ``error``: the name of the error that it is to raise."""
    return _refused(error, f"budget {config['name']!r} takes no more members: {why}")


def _refused(error: str, text: str) -> dict[str, Any]:
    return {"ok": False, "error": error, "message": text}
