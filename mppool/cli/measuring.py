"""``mppool metrics``: Prometheus' exposition, once or served."""

from __future__ import annotations

import signal
from typing import Any

import click

from mppool.cli.naming import NAME, attached
from mppool.fork_lock import import_late
from mppool.metrics import BudgetCollector

__all__ = ["address", "metrics"]


def address(text: str) -> tuple[str, int]:
    """Host and port of ``9187``, ``:9187``, ``127.0.0.1:9187`` or ``[::1]:9187``. Raises: ValueError."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address: write PORT or HOST:PORT, such as 127.0.0.1:9187")
    return host.strip("[]") or "127.0.0.1", int(port)


class Address(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.5 on
    """Host and port."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        try:
            return address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@click.option("--listen", type=Address(), help="Serve them at /metrics there: PORT (of 127.0.0.1) or HOST:PORT.")
@click.option(
    "--processes",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Processes that have series of their own, with a label pid.",
)
def metrics(names: tuple[str, ...], listen: tuple[str, int] | None, processes: int) -> None:
    """Print the metrics of the running budgets NAME in Prometheus' text format; without NAME, of all that run.

    One scrape tells of all processes. With --listen, a budget that does not run has mppool_up 0, and the server stays.
    Needs prometheus-client: pip install 'mppool[metrics]'.
    """
    try:
        client = import_late("prometheus_client")
    except ImportError:
        raise click.ClickException("prometheus-client is not installed: pip install 'mppool[metrics]'") from None
    registry = client.CollectorRegistry()
    registry.register(BudgetCollector(*names, processes=processes))
    if listen is None:
        for name in names:
            attached(name)  # an error instead of mppool_up 0
        click.echo(client.generate_latest(registry), nl=False)
        return
    _serve(client, registry, *listen)


def _serve(client: Any, registry: Any, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    ends = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, which inherit it
    try:
        server, thread = client.start_http_server(port, host, registry)
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"serving http://{shown}:{server.server_port}/metrics", err=True)
        signal.sigwait(ends)
        server.shutdown()
        server.server_close()
        thread.join()
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
