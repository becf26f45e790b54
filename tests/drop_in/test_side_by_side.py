"""PySQLXEngine and mppool differ in exactly the listed steps, on each database and in both flavours."""

from __future__ import annotations

import importlib.util
import os
import pickle

import pytest

from mppool import errors
from tests.drop_in import differences, runner
from tests.drop_in.side_by_side import FLAVOURS, compare


@pytest.fixture
def _peer() -> None:
    if importlib.util.find_spec("pysqlx_engine") is None:
        reason = "pysqlx-engine is not installed (it is in the extra test; not every Python can have it)"
        if os.environ.get("MPPOOL_REQUIRE_SERVERS", "0") != "0":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.mark.usefixtures("_peer")
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_exactly_the_listed_steps_differ(database_uri: str, flavour: str) -> None:
    provider = database_uri.partition(":")[0]
    steps = compare("sqlite:" if provider == "sqlite" else database_uri, flavour)
    differing = {step.name: step for step in steps if step.peer != step.ours}
    listed = differences.expected(provider) & set(runner.names(provider, flavour))
    assert [step for name, step in differing.items() if name not in listed] == []
    assert listed - differing.keys() == set(), "no longer differ"


def test_each_listed_step_is_in_the_program() -> None:
    known = {*runner.names("sqlite", "sync")}
    for difference in differences.DIFFERENCES:
        assert set(difference.steps) <= known


def test_who_caught_the_peers_error_catches_ours() -> None:
    """A tuple outside PostgreSQL: the peer raises the general class."""
    error = errors.ParameterInvalidProviderError("a", "mysql", "tuple")
    assert isinstance(error, errors.ParameterInvalidValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.field, again.provider, again.type, again.typ_from) == (
        *(errors.ParameterInvalidProviderError, "a", "mysql", "tuple", "tuple"),
    )
