"""Network namespaces on one machine: a hub with a bridge, where the servers are, and hosts with a cable to it.

The addresses exist in these namespaces alone. A namespace outlives the program that made it, so `Network` is used as a
context: at its end, also after a failure, every process in its namespaces is killed and they are deleted.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from types import TracebackType

PROGRAMS = ("ip", "nft")
ENGINE, DATABASE = "10.77.0.1", "10.77.0.2"  # addresses of the hub
_TABLE = "inet cut"
_PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class NoNetwork(Exception):
    """Namespaces cannot be made here; says why."""


def check() -> None:
    """Raises: NoNetwork."""
    if os.geteuid() != 0:
        raise NoNetwork("network namespaces need root")
    missing = [program for program in PROGRAMS if shutil.which(program, path=_PATHS) is None]
    if missing:
        raise NoNetwork(f"not installed: {', '.join(missing)} (Debian: iproute2, nftables)")


def run(*command: str, text: str | None = None) -> str:
    """Run a program to its end; its output. Raises: NoNetwork: it failed."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env={**os.environ, "PATH": _PATHS}
    )
    if done.returncode:
        raise NoNetwork(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def drops(*addresses: str) -> str:
    """The rules, for ``nft -f``, that drop all that comes from or goes to these addresses."""
    kinds = {"input": "saddr", "output": "daddr"}
    lines = [f"table {_TABLE} {{}}", f"delete table {_TABLE}", f"table {_TABLE} {{"]
    for hook, end in kinds.items() if addresses else ():
        lines.append(f"chain {hook} {{ type filter hook {hook} priority 0;")
        lines += [f"ip {end} {address} drop;" for address in addresses]
        lines.append("}")
    return "\n".join([*lines, "}"]) + "\n"


class Namespace:
    """One network namespace.

    Args:
        name: what ``ip netns`` calls it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, *command: str) -> list[str]:
        """The command line that runs a program in it."""
        return ["ip", "netns", "exec", self.name, *command]

    def pids(self) -> list[int]:
        """The processes in it."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]

    def kill(self) -> None:
        """Kill all processes in it; returns when there are none."""
        while pids := [pid for pid in self.pids() if not _is_zombie(pid)]:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.005)


class HostNamespace(Namespace):
    """A host's: it can be cut off."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._dropped: set[str] = set()

    def cut(self, address: str) -> None:
        """Drop all packets from and to one of the hub's addresses, in silence."""
        self._dropped.add(address)
        self._apply()

    def mend(self, address: str) -> None:
        """Drop them no more."""
        self._dropped.discard(address)
        self._apply()

    def _apply(self) -> None:
        run(*self.command("nft", "-f", "-"), text=drops(*sorted(self._dropped)))

    def pull(self) -> None:
        """Pull its cable."""
        run("ip", "-n", self.name, "link", "set", "cable", "down")

    def plug(self) -> None:
        """Plug it in again."""
        run("ip", "-n", self.name, "link", "set", "cable", "up")


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended, and waits to be waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Network:
    """The hub and its hosts.

    Args:
        hosts: how many.
    """

    def __init__(self, hosts: int) -> None:
        self._mark = f"mppool-{os.getpid()}"
        self.hub = Namespace(f"{self._mark}-hub")
        self.hosts = [HostNamespace(f"{self._mark}-{number + 1}") for number in range(hosts)]

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _make(self) -> None:
        hub = self.hub.name
        run("ip", "netns", "add", hub)
        run("ip", "-n", hub, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        for address in (ENGINE, DATABASE):
            run("ip", "-n", hub, "addr", "add", f"{address}/24", "dev", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            port = f"host{number + 1}"
            run("ip", "netns", "add", host.name)
            run(*f"ip -n {hub} link add {port} type veth peer name cable netns {host.name}".split())
            run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", host.name, "addr", "add", f"10.77.0.{11 + number}/24", "dev", "cable")
            for link in ("lo", "cable"):
                run("ip", "-n", host.name, "link", "set", link, "up")

    def _remove(self) -> None:
        there = {line.split()[0] for line in run("ip", "netns", "list").splitlines() if line}
        for namespace in (*self.hosts, self.hub):
            if namespace.name in there:
                namespace.kill()
                run("ip", "netns", "del", namespace.name)
