"""Where mppool's connections differ from PySQLXEngine's, and why: all of it, as the side-by-side run finds it.

To bring the list up to date, run ``python -m tests.drop_in.side_by_side`` and look at each step that it reports.
"""

from __future__ import annotations

from typing import NamedTuple

EVERYWHERE = ("postgresql", "mysql", "sqlite")
FETCHES = ("query", "query_first", "query_as_dict", "query_first_as_dict")


class Difference(NamedTuple):
    """Steps that differ for one reason.

    Attributes:
        steps: their names in the program.
        call, peer, ours, why: what the README says of them.
        where: the databases on which they differ.
    """

    steps: tuple[str, ...]
    call: str
    peer: str
    ours: str
    why: str
    where: tuple[str, ...] = EVERYWHERE


def uris(*texts: str) -> tuple[str, ...]:
    return tuple(f"PySQLXEngine({text!r})" for text in texts)


def parameters(*kinds: str) -> tuple[str, ...]:
    return tuple(f"parameter: {kind}" for kind in kinds)


REFUSED = "`ParameterInvalidValueError`, nothing is sent"
DIFFERENCES = [
    Difference(
        (
            *uris("sqlite:", "file:x.db?foo", "sqlite:a\0b", "postgresql:", "postgresql://"),
            *uris("postgresql://u@localhost:port/x", "postgresqlx://u@localhost/x", "postgresql://u:p/w@localhost/x"),
        ),
        "constructor, a malformed uri",
        "accepted; `connect()` fails, or panics past `except Exception`",
        "`ValueError`",
        "the mistake is named where it is made",
        ("sqlite",),
    ),
    Difference(
        uris("mysql://u@localhost/x?socket_timeout=1"),
        "constructor, MySQL with `socket_timeout=`",
        "accepted",
        "`ValueError`",
        "after the first timeout each query would return the result of the one before",
        ("sqlite",),
    ),
    Difference(
        uris(
            *("postgresql://u@localhost/x?sslmode=bogus", "mysql://u@localhost/x?sslmode=require"),
            *("postgresql://u@localhost/x?sslmode=verify-full", "sqlite:x.db?mode=ro"),
        ),
        "constructor, options about safety that the driver ignores",
        "ignored: `sslmode=verify-full` verifies nobody, `mode=ro` writes",
        "honoured where the driver can (`verify-full`, `verify-ca`), else `ValueError`",
        "a connection is as safe as the uri says",
        ("sqlite",),
    ),
    Difference(
        uris("postgres://u@localhost/x"),
        "constructor, `postgres://`",
        "`ValueError`",
        "`postgresql://`",
        "others write it so",
        ("sqlite",),
    ),
    Difference(
        ("PySQLXEngine(None)", "PySQLXEngine(1)"),
        "constructor, not a str",
        "`ValueError`, `AttributeError`",
        "`TypeError`",
        "it is the type that is wrong",
        ("sqlite",),
    ),
    Difference(
        uris("sqlite:./x.db", "sqlite://x.db", "sqlite:///tmp/x.db", "file:x.db", "sqlite:///./x.db"),
        "`.uri` of a SQLite file",
        "as given",
        "with the absolute path",
        "a later `chdir`, or another process, must not open another file",
        ("sqlite",),
    ),
    Difference(
        ("before connect: raw_cmd", "after close: raw_cmd"),
        "`raw_cmd` without a connection",
        "`AttributeError`",
        "`NotConnectedError`",
        "as all other calls",
    ),
    Difference(
        tuple(f"{call}: a missing parameter" for call in FETCHES),
        "a parameter is missing",
        "sent as it is: an error of the database that does not name it",
        REFUSED,
        "the error names it; on MySQL the connection would be lost too",
    ),
    Difference(
        tuple(f"{call}: a surplus parameter" for call in (*FETCHES, "execute")),
        "a parameter that the statement does not have",
        "ignored",
        REFUSED,
        "a misspelt name would go unseen",
    ),
    Difference(
        ("a placeholder's name in a string", "a placeholder's name in a comment", "a time in a string"),
        "`:name` inside a string, a quoted name or a comment",
        "replaced: the statement fails, or says something else",
        "left alone",
        "it is no placeholder",
    ),
    Difference(
        ("a name that begins another's, alone",),
        "`:idx` with a parameter `id`",
        "becomes `?x`",
        REFUSED,
        "the statement has no `:id`",
    ),
    Difference(
        ("a parameter p, twice",),
        "parameters called `p`, `py`, … `pysqlx`",
        "panic past `except Exception`",
        "work",
        "any name may be used",
    ),
    Difference(
        ("200 parameters",),
        "more than 127 placeholders on PostgreSQL",
        "a syntax error of the server",
        "work, up to 65,535",
        "bulk inserts need them",
        ("postgresql",),
    ),
    Difference(
        parameters("float", "float 16777217", "float 1e300"),
        "float parameters",
        "cut to 32 bits: 0.1 arrives as 0.10000000149011612, 1e300 as infinity",
        "arrive exactly",
        "values survive",
    ),
    Difference(
        parameters("float NaN"),
        "NaN on MySQL and SQLite",
        "an error, or NULL is stored",
        REFUSED,
        "these databases have no NaN",
        ("mysql", "sqlite"),
    ),
    Difference(
        parameters(
            "int beyond 64 bits",
            "str with a lone surrogate",
            "Decimal NaN",
            "dict with a key that is no str",
            "dict with what JSON cannot hold",
        ),
        "int beyond 64 bits, lone surrogates, Decimal NaN, what JSON cannot hold",
        "panic past `except Exception`",
        REFUSED,
        "an error that can be caught, and names the parameter",
    ),
    Difference(
        parameters("datetime at +02:00", "datetime in a ZoneInfo"),
        "datetime in a zone other than `timezone.utc`",
        "panic past `except Exception`",
        "the same moment in UTC",
        "zones work",
    ),
    Difference(
        parameters("time with microseconds"),
        "time with microseconds on MySQL",
        "loses them",
        "arrives exactly",
        "values survive",
        ("mysql",),
    ),
    Difference(
        parameters("time with microseconds"),
        "a time with a fraction of a second on SQLite",
        "loses it",
        "kept to the millisecond",
        "as a datetime is",
        ("sqlite",),
    ),
    Difference(
        parameters("int into a float", "float into an int", "str into an int", "UUID into a text"),
        "a type other than the column's, on PostgreSQL",
        "other bits: 3 arrives as 1.5e-323; or an error 08P01",
        "converted where it is the same value",
        "values survive",
        ("postgresql",),
    ),
    Difference(
        parameters("tuple, mixed"),
        "a tuple of several types, on PostgreSQL",
        "refused",
        "each item as the array wants it",
        "the server says what it wants",
        ("postgresql",),
    ),
    Difference(
        (*parameters("tuple"), "str of ParameterInvalidValueError", "str of ParameterInvalidValueError, JSON"),
        "a tuple on MySQL and SQLite",
        "`ParameterInvalidValueError`, its attributes hold each other's values",
        "`ParameterInvalidProviderError` (derived from it), `.field` is the parameter",
        "the attributes are right",
        ("mysql", "sqlite"),
    ),
    Difference(
        (*parameters("tuple"), "str of ParameterInvalidValueError, JSON"),
        "a tuple into a column that is no array, on PostgreSQL",
        "an error of the driver",
        REFUSED,
        "the error names the parameter and says what to do",
        ("postgresql",),
    ),
    Difference(
        parameters("set", "timedelta", "an object"),
        "a parameter of a type that is not supported",
        "`TypeError`",
        "`ParameterInvalidValueError`, which is one; nothing is sent",
        "one class for all refused parameters",
    ),
    Difference(
        ("an error in a transaction",),
        "`commit()` after a statement had failed, on PostgreSQL",
        "returns, though the server rolled back",
        "`RawCmdError` 25P02",
        "a commit that did not happen is no success",
        ("postgresql",),
    ),
    Difference(
        ("start_transaction('Snapshot')", "set_isolation_level('Snapshot')"),
        "an isolation level that the database does not know",
        "`StartTransactionError`, and the transaction may stay open",
        "the same error, nothing is opened, other words",
        "an error leaves no transaction behind",
    ),
    Difference(
        tuple(
            f"{call}({level!r})"
            for call in ("start_transaction", "set_isolation_level")
            for level in ("ReadUncommitted", "ReadCommitted", "RepeatableRead")
        ),
        "the same, on SQLite",
        "as above",
        "as above",
        "as above",
        ("sqlite",),
    ),
    Difference(
        ("start_transaction('serializable')", "set_isolation_level('serializable')"),
        "an isolation level in another case",
        "`ValueError`",
        "accepted",
        "there is no doubt about it",
    ),
    Difference(
        ("set_isolation_level(None)",),
        "`set_isolation_level(None)`",
        "`TypeError`",
        "`ValueError`",
        "as for any other value that is no level",
    ),
    Difference(
        ("row: order of columns, rows", "row: order of columns, dicts"),
        "columns of a row",
        "in another order each time",
        "in the order of the SELECT; alphabetical where that cannot be told (`*`)",
        "`repr`, `model_dump()` repeat",
    ),
    Difference(
        ("row: a column named _a", "row: a column named __a"),
        "a column whose name begins with an underscore",
        "lost",
        "in `model_dump()` and as an attribute",
        "data survive",
    ),
    Difference(
        ("row: a column named model_dump",),
        "a column called as a method of pydantic's",
        "`ValueError`",
        "in `model_dump()`",
        "data survive",
    ),
    Difference(
        ("row: values that differ in type (SQLite)",),
        "rows whose values differ in type, on SQLite",
        "`ValidationError`",
        "as stored",
        "SQLite allows it",
        ("sqlite",),
    ),
    Difference(("row: pickle",), "`pickle` of a row", "`PicklingError`", "works", "rows cross processes"),
    Difference(
        ("pickle an error",),
        "`pickle` of an error",
        "`AttributeError` when it is loaded",
        "works",
        "errors cross processes",
    ),
    Difference(
        ("log: logger's name",),
        "logger",
        "`pysqlx_engine`",
        "`mppool.sql`",
        "each package has its own",
    ),
    Difference(
        ("log: PYSQLX_SQL_LOG", "log: PYSQLX_DEV_MODE"),
        "what `PYSQLX_SQL_LOG` and `PYSQLX_DEV_MODE` log",
        "the statement, and banners",
        "the statement",
        "same levels, one record a statement; on PostgreSQL with the casts that are sent",
    ),
]


def expected(provider: str) -> set[str]:
    """The steps that differ on this database."""
    return {step for difference in DIFFERENCES if provider in difference.where for step in difference.steps}


def table() -> str:
    """The list as the README shows it."""
    head = "| call | pysqlx_engine | mppool | why |\n|---|---|---|---|"
    return "\n".join([head, *(f"| {' | '.join(each[1:5])} |" for each in DIFFERENCES)])


if __name__ == "__main__":
    print(table())
