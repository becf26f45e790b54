"""Sixty orders, four workers, two connections: closures as jobs, results in order, an error that names its job.

Needs: nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter

from mppool import PoolManager


def main(folder: str) -> None:
    with PoolManager(f"sqlite:{folder}/shop.db", max_size=2) as manager:
        pool = manager.pool()
        with pool.connection() as conn:
            conn.raw_cmd("CREATE TABLE orders (id BIGINT PRIMARY KEY, price BIGINT)")
            for id in range(60):
                conn.execute("INSERT INTO orders VALUES (:id, :price)", {"id": id, "price": 10 * id})

        tax = 19

        def invoice(id: int) -> tuple[int, float]:  # a closure: `pool` and `tax` go along
            with pool.connection() as conn:
                row = conn.query_first("SELECT price FROM orders WHERE id = :id", {"id": id})
            if row is None:
                raise LookupError("no such order")
            return os.getpid(), row.price * (100 + tax) / 100

        with manager.jobs(processes=4) as jobs:
            invoices = jobs.map(invoice, range(60))  # with a bar, if this is a terminal and there is rich
            print(f"{'order':>6} {'to pay':>8}")
            for id, (_, price) in list(enumerate(invoices))[:3]:
                print(f"{id:>6} {price:>8.2f}")
            print(f"{'all':>6} {sum(price for _, price in invoices):>8.2f}")
            for pid, count in Counter(pid for pid, _ in invoices).items():
                print(f"worker {pid} wrote {count} of them")
            budget = manager.stats()
            print(f"{budget.open} of {budget.max_size} connections are open, in {len(budget.members)} processes")
            try:
                jobs.map(invoice, [3, 5, 777])
            except LookupError as error:
                print(f"{error!r}: {' '.join(getattr(error, '__notes__', []))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
