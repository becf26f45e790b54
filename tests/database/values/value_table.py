"""What every Python type becomes in every column type: data for `test_value_matrix` and for the README.

Measured, then read and kept: a change here is a change of what users get. Pairs that are missing are refused.
"""

from __future__ import annotations

OUTCOMES = {
    "equal": "the same value of the same type",
    "number": "the same number, of the column's type",
    "utc": "the same moment, with the time zone UTC",
    "ms": "the same moment, cut to whole milliseconds, with the time zone UTC",
    "midnight": "the midnight that begins the date, UTC",
    "date": "the date; only a midnight is taken",
    "text": "text from which the value can be made again",
    "padded": "such text, or the same, with the blanks of a CHAR column behind it",
    "32 bits": "the nearest 32-bit float",
    "integer": "an integer: SQLite's encoding, milliseconds (of a TIME since midnight)",
    "cut": "what the column has room for: SQLite's DATE shows the date of the datetime that is stored",
    "16 digits": "what is stored is the double; SQLite's DECIMAL shows 16 digits of it",
    "bytes": "the bytes of such text in UTF-8",
    "literal": "what the database makes of a literal of this value there, rounded or read by its own rules",
    "null": "None",
    "unreadable": "stored, but the driver cannot read it from a column of this type",
    "refused": "refused before sending, by ParameterInvalidValueError (a tuple: ParameterInvalidProviderError)",
    "error": "refused by the database",
}


def _types(names: str, shown: str = "{}") -> dict[str, str]:
    return dict.fromkeys(names.split(), shown)


#: Column types; with what is read from such a column where the driver cannot read it as it is.
COLUMNS: dict[str, dict[str, str]] = {
    "postgresql": {
        **_types("bool int2 int4 int8 oid float4 float8 numeric numeric(10,2) money text varchar(300) char(40) bytea"),
        **_types("date time timestamp timestamptz uuid json jsonb xml inet bit(3) colour small bool[] int2[] int4[]"),
        **_types("int8[] float4[] float8[] numeric[] text[] bytea[] date[] timestamp[] timestamptz[] uuid[] jsonb[]"),
        **_types("colour[]"),
        **_types('name "char" interval cidr int4range point tsvector timetz', "{}::text"),
    },
    "mysql": {
        **_types(
            "BOOLEAN INT BIGINT FLOAT DOUBLE DECIMAL(65,30) DECIMAL(10,2) CHAR(40) VARCHAR(300) LONGTEXT LONGBLOB"
        ),
        **_types("DATE TIME TIME(6) DATETIME DATETIME(6) TIMESTAMP(6) JSON YEAR"),
    },
    "sqlite": {
        **_types("BOOLEAN INTEGER BIGINT REAL NUMERIC DECIMAL(10,2) TEXT VARCHAR(300) BLOB DATE TIME DATETIME"),
        **_types("TIMESTAMP JSON UUID"),
    },
}
UNTYPED = "SELECT :v"  # a parameter that goes nowhere

TABLE: dict[str, dict[str, dict[str, str]]] = {
    "postgresql": {
        "None": {
            "equal": (
                "SELECT :v; bool; int2; int4; int8; oid; float4; float8; numeric; numeric(10,2); money; text; "
                "varchar(300); char(40); bytea; date; time; timestamp; timestamptz; uuid; json; jsonb; xml; inet; "
                "bit(3); colour; small; bool[]; int2[]; int4[]; int8[]; float4[]; float8[]; numeric[]; text[]; "
                'bytea[]; date[]; timestamp[]; timestamptz[]; uuid[]; jsonb[]; colour[]; name; "char"; interval; '
                "cidr; int4range; point; tsvector; timetz"
            ),
        },
        "bool": {
            "equal": "SELECT :v; bool",
            "text": "text; varchar(300)",
            "padded": "char(40)",
        },
        "int": {
            "text": "SELECT :v; text; varchar(300); char(40)",
            "equal, refused": "int2; int4; oid",
            "equal": "int8",
            "number, refused": "float4; float8; money",
            "number": "numeric",
            "number, error": "numeric(10,2)",
            "equal, refused, error": "small",
        },
        "float": {
            "equal": "SELECT :v; float8",
            "number, refused": "int2; int4; int8; oid; money; small",
            "equal, 32 bits, error": "float4",
            "number": "numeric",
            "number, literal, error": "numeric(10,2)",
            "text": "text; varchar(300); char(40)",
        },
        "float, not finite": {
            "equal": "SELECT :v; float4; float8",
            "text": "text; varchar(300); char(40)",
        },
        "Decimal": {
            "equal": "SELECT :v; numeric",
            "number, refused": "int2; int4; int8; oid; float8",
            "number, 32 bits, error": "float4",
            "equal, error": "numeric(10,2)",
            "equal, refused": "money",
            "text": "text",
            "text, error": "varchar(300); char(40)",
            "number, refused, error": "small",
        },
        "str": {
            "equal": "SELECT :v; text; varchar(300); xml; name",
            "literal, error": (
                "bool; int2; int4; int8; oid; float4; float8; numeric; numeric(10,2); money; date; time; timestamp; "
                "timestamptz; json; jsonb; small; bool[]; int2[]; int4[]; int8[]; float4[]; float8[]; numeric[]; "
                "text[]; bytea[]; date[]; timestamp[]; timestamptz[]; uuid[]; jsonb[]; colour[]; interval; cidr; "
                "timetz"
            ),
            "padded": "char(40)",
            "equal, refused": '"char"',
            "equal, literal": "tsvector",
        },
        "bytes": {
            "equal": "bytea",
        },
        "date": {
            "equal": "SELECT :v; date",
            "text": "text; varchar(300)",
            "padded": "char(40)",
            "midnight": "timestamp; timestamptz",
        },
        "time": {
            "equal": "SELECT :v; time",
            "text": "text; varchar(300)",
            "padded": "char(40)",
        },
        "time with µs": {
            "equal": "SELECT :v; time",
            "text": "text; varchar(300)",
            "padded": "char(40)",
        },
        "naive datetime": {
            "utc": "SELECT :v; timestamp; timestamptz",
            "text": "text; varchar(300)",
            "padded": "char(40)",
            "date, refused": "date",
        },
        "datetime with µs": {
            "utc": "SELECT :v; timestamp; timestamptz",
            "text": "text; varchar(300)",
            "padded": "char(40)",
        },
        "aware datetime": {
            "equal": "SELECT :v; timestamp; timestamptz",
            "text": "text; varchar(300)",
            "padded": "char(40)",
        },
        "datetime at the edge": {
            "equal, utc": "SELECT :v; timestamp; timestamptz",
            "text": "text; varchar(300)",
            "padded": "char(40)",
            "date, refused": "date",
        },
        "UUID": {
            "equal": "SELECT :v; uuid",
            "text": "text; varchar(300)",
            "padded": "char(40)",
        },
        "dict": {
            "text": "SELECT :v; text; varchar(300)",
            "text, error": "char(40)",
            "equal": "json; jsonb",
        },
        "list": {
            "text": "SELECT :v; text; varchar(300); char(40)",
            "equal": "json; jsonb",
            "equal, refused": (
                "bool[]; int2[]; int4[]; int8[]; float4[]; float8[]; numeric[]; text[]; bytea[]; date[]; "
                "timestamp[]; timestamptz[]; uuid[]; jsonb[]; colour[]"
            ),
        },
        "Enum of str": {
            "equal": "SELECT :v; text; varchar(300); xml; colour; name",
            "padded": "char(40)",
            "literal": "tsvector",
        },
        "Enum of int": {
            "text": "SELECT :v; text; varchar(300); char(40)",
            "equal": "int2; int4; int8; oid; small",
            "number": "float4; float8; numeric; numeric(10,2); money",
        },
        "tuple of int": {
            "equal, refused": "int2[]; int4[]",
            "equal": "int8[]",
            "number, refused": "float4[]; float8[]",
            "number": "numeric[]",
            "text": "text[]",
        },
        "tuple of float": {
            "equal, error": "float4[]",
            "equal": "float8[]",
            "number": "numeric[]",
            "text": "text[]",
        },
        "tuple of Decimal": {
            "32 bits": "float4[]",
            "number, refused": "float8[]",
            "equal": "numeric[]",
            "text": "text[]",
        },
        "tuple of str": {
            "equal": "text[]",
        },
        "tuple of bool": {
            "equal": "bool[]",
            "text": "text[]",
        },
        "tuple of bytes": {
            "equal": "bytea[]",
        },
        "tuple of date": {
            "text": "text[]",
            "equal": "date[]",
            "midnight": "timestamp[]; timestamptz[]",
        },
        "tuple of datetime": {
            "text": "text[]",
            "equal": "timestamp[]; timestamptz[]",
        },
        "tuple of UUID": {
            "text": "text[]",
            "equal": "uuid[]",
        },
        "tuple of dict": {
            "text": "text[]",
            "equal": "jsonb[]",
        },
        "empty tuple": {
            "equal": (
                "bool[]; int2[]; int4[]; int8[]; float4[]; float8[]; numeric[]; text[]; bytea[]; date[]; "
                "timestamp[]; timestamptz[]; uuid[]; jsonb[]; colour[]"
            ),
        },
        "other": {
            "number, refused": "numeric",
        },
    },
    "mysql": {
        "None": {
            "equal": (
                "SELECT :v; BOOLEAN; INT; BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); DECIMAL(10,2); CHAR(40); "
                "VARCHAR(300); LONGTEXT; LONGBLOB; DATE; TIME; TIME(6); DATETIME; DATETIME(6); TIMESTAMP(6); JSON; "
                "YEAR"
            ),
        },
        "bool": {
            "number": "SELECT :v; BOOLEAN; INT; BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); DECIMAL(10,2)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT; JSON",
            "bytes": "LONGBLOB",
            "unreadable, error": "DATE; DATETIME; DATETIME(6); TIMESTAMP(6)",
            "literal": "TIME; TIME(6)",
            "number, literal": "YEAR",
        },
        "int": {
            "equal": "SELECT :v; BIGINT",
            "equal, error": "BOOLEAN; INT",
            "number, 32 bits": "FLOAT",
            "number, literal": "DOUBLE",
            "number": "DECIMAL(65,30)",
            "number, error": "DECIMAL(10,2)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT; JSON",
            "bytes": "LONGBLOB",
            "unreadable, error": "DATE; DATETIME; DATETIME(6); TIMESTAMP(6)",
            "literal, unreadable, error": "TIME; TIME(6)",
            "equal, literal, error": "YEAR",
        },
        "float": {
            "text": "LONGTEXT; JSON; CHAR(40); VARCHAR(300)",
            "number, literal, error": "BOOLEAN; INT; BIGINT; DECIMAL(65,30); DECIMAL(10,2); YEAR",
            "equal, 32 bits, error": "FLOAT",
            "equal": "SELECT :v; DOUBLE",
            "bytes": "LONGBLOB",
            "unreadable, error": "DATE; DATETIME; DATETIME(6); TIMESTAMP(6)",
            "literal, unreadable, error": "TIME; TIME(6)",
        },
        "Decimal": {
            "text": "SELECT :v; LONGTEXT; JSON",
            "number, literal, error": "BOOLEAN; INT; BIGINT",
            "number, 32 bits, error": "FLOAT",
            "number, literal": "DOUBLE",
            "equal, error": "DECIMAL(65,30); DECIMAL(10,2)",
            "text, error": "CHAR(40); VARCHAR(300)",
            "bytes": "LONGBLOB",
            "unreadable, error": "DATE; DATETIME; DATETIME(6)",
            "literal, unreadable, error": "TIME; TIME(6)",
            "literal, error": "YEAR",
        },
        "str": {
            "equal": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT",
            "literal, error": (
                "BOOLEAN; INT; BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); DECIMAL(10,2); DATE; TIME; TIME(6); DATETIME; "
                "DATETIME(6); TIMESTAMP(6); YEAR"
            ),
            "bytes": "LONGBLOB",
            "equal, error": "JSON",
        },
        "str with NUL": {
            "equal": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
        },
        "bytes": {
            "text, error": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT; JSON",
            "literal, error": (
                "BOOLEAN; INT; BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); DECIMAL(10,2); TIME; TIME(6); YEAR"
            ),
            "equal": "LONGBLOB",
        },
        "date": {
            "midnight": "SELECT :v; DATE; DATETIME; DATETIME(6)",
            "literal": "BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); TIME; TIME(6)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
            "midnight, error": "TIMESTAMP(6)",
        },
        "time": {
            "text": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
            "unreadable, error": "DATE; DATETIME; DATETIME(6); TIMESTAMP(6)",
            "equal": "TIME; TIME(6)",
        },
        "time with µs": {
            "text": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
            "literal": "TIME",
            "equal": "TIME(6)",
        },
        "naive datetime": {
            "utc": "SELECT :v; DATETIME; DATETIME(6); TIMESTAMP(6)",
            "literal": "BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); TIME; TIME(6)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
            "utc, literal": "DATE",
        },
        "datetime with µs": {
            "utc": "SELECT :v; DATETIME(6); TIMESTAMP(6)",
            "literal": "BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); DATE; TIME; TIME(6); DATETIME",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
        },
        "aware datetime": {
            "equal": "SELECT :v; DATETIME; DATETIME(6); TIMESTAMP(6)",
            "literal": "BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); DATE; TIME; TIME(6)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
        },
        "datetime at the edge": {
            "equal, utc": "SELECT :v; DATETIME; DATETIME(6)",
            "literal": "BIGINT; FLOAT; DOUBLE; DECIMAL(65,30); TIME; TIME(6)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
            "utc, literal": "DATE",
        },
        "UUID": {
            "text": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
            "unreadable, error": "DATE; DATETIME; DATETIME(6); TIMESTAMP(6)",
        },
        "dict": {
            "text": "SELECT :v; VARCHAR(300); LONGTEXT; JSON",
            "text, error": "CHAR(40)",
            "bytes": "LONGBLOB",
        },
        "list": {
            "text": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT; JSON",
            "bytes": "LONGBLOB",
        },
        "Enum of str": {
            "equal": "SELECT :v; CHAR(40); VARCHAR(300); LONGTEXT",
            "bytes": "LONGBLOB",
        },
        "Enum of int": {
            "equal": "SELECT :v; BOOLEAN; INT; BIGINT",
            "number": "FLOAT; DOUBLE; DECIMAL(65,30); DECIMAL(10,2)",
            "text": "CHAR(40); VARCHAR(300); LONGTEXT; JSON",
            "bytes": "LONGBLOB",
            "literal": "TIME; TIME(6); YEAR",
        },
    },
    "sqlite": {
        "None": {
            "equal": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "DATETIME; TIMESTAMP"
            ),
            "unreadable": "TIME; JSON; UUID",
        },
        "bool": {
            "number": "SELECT :v; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); BLOB; TIME; JSON; UUID",
            "equal": "BOOLEAN",
            "text": "TEXT; VARCHAR(300)",
            "literal": "DATE; DATETIME; TIMESTAMP",
        },
        "int": {
            "equal": "SELECT :v; BIGINT; NUMERIC; DECIMAL(10,2); BLOB; TIME; JSON; UUID",
            "number, literal": "BOOLEAN; REAL",
            "equal, unreadable": "INTEGER",
            "text": "TEXT; VARCHAR(300)",
            "literal, unreadable": "DATE; DATETIME; TIMESTAMP",
        },
        "float": {
            "equal": "SELECT :v; REAL; BLOB",
            "equal, number, literal": "BOOLEAN",
            "equal, number": "INTEGER; BIGINT; NUMERIC; TIME; JSON; UUID",
            "number, 16 digits, literal": "DECIMAL(10,2)",
            "text, literal": "TEXT; VARCHAR(300)",
            "equal, literal": "DATE; DATETIME; TIMESTAMP",
        },
        "Decimal": {
            "number, refused": "SELECT :v; INTEGER; BIGINT; REAL; NUMERIC; BLOB; TIME; JSON; UUID",
            "number, literal, refused": "BOOLEAN; DATE; DATETIME; TIMESTAMP",
            "equal, number, refused": "DECIMAL(10,2)",
            "text, refused": "TEXT; VARCHAR(300)",
        },
        "str": {
            "equal": "SELECT :v; TEXT; VARCHAR(300); BLOB",
            "equal, literal": "BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); DATE; TIME; JSON; UUID",
            "literal, unreadable": "DATETIME; TIMESTAMP",
        },
        "str with NUL": {
            "equal": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "TIME; JSON; UUID"
            ),
            "unreadable": "DATETIME; TIMESTAMP",
        },
        "bytes": {
            "equal": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "TIME; DATETIME; TIMESTAMP; JSON; UUID"
            ),
        },
        "date": {
            "integer": "SELECT :v; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID",
            "literal": "BOOLEAN; REAL",
            "unreadable": "INTEGER",
            "equal": "DATE",
            "midnight": "DATETIME; TIMESTAMP",
        },
        "time": {
            "integer": (
                "SELECT :v; INTEGER; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID"
            ),
            "literal": "BOOLEAN; REAL; DATE; DATETIME; TIMESTAMP",
        },
        "naive datetime": {
            "integer": "SELECT :v; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID",
            "literal": "BOOLEAN; REAL",
            "unreadable": "INTEGER",
            "date, cut": "DATE",
            "utc": "DATETIME; TIMESTAMP",
        },
        "time with µs": {
            "integer": (
                "SELECT :v; INTEGER; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID"
            ),
            "literal": "BOOLEAN; REAL; DATE; DATETIME; TIMESTAMP",
        },
        "datetime with µs": {
            "integer": "SELECT :v; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID",
            "literal": "BOOLEAN; REAL",
            "unreadable": "INTEGER",
            "cut": "DATE",
            "utc, ms": "DATETIME; TIMESTAMP",
        },
        "aware datetime": {
            "integer": "SELECT :v; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID",
            "literal": "BOOLEAN; REAL",
            "unreadable": "INTEGER",
            "cut": "DATE",
            "equal": "DATETIME; TIMESTAMP",
        },
        "datetime at the edge": {
            "integer": "SELECT :v; BIGINT; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; TIME; JSON; UUID",
            "literal": "BOOLEAN; REAL",
            "unreadable": "INTEGER",
            "date, cut": "DATE",
            "equal, utc": "DATETIME; TIMESTAMP",
        },
        "UUID": {
            "text": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "TIME; JSON; UUID"
            ),
            "unreadable": "DATETIME; TIMESTAMP",
        },
        "dict": {
            "text": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "TIME; JSON; UUID"
            ),
            "unreadable": "DATETIME; TIMESTAMP",
        },
        "list": {
            "text": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "TIME; JSON; UUID"
            ),
            "unreadable": "DATETIME; TIMESTAMP",
        },
        "Enum of str": {
            "equal": (
                "SELECT :v; BOOLEAN; INTEGER; BIGINT; REAL; NUMERIC; DECIMAL(10,2); TEXT; VARCHAR(300); BLOB; DATE; "
                "TIME; JSON; UUID"
            ),
            "unreadable": "DATETIME; TIMESTAMP",
        },
        "Enum of int": {
            "equal": "SELECT :v; INTEGER; BIGINT; NUMERIC; DECIMAL(10,2); BLOB; TIME; JSON; UUID",
            "literal": "BOOLEAN; DATE; DATETIME; TIMESTAMP",
            "number": "REAL",
            "text": "TEXT; VARCHAR(300)",
        },
    },
}
