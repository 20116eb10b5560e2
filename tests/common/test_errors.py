"""Errors are found by the built-in type and read like sentences."""

import pytest

from sb3_strl.common.errors import (
    NonFiniteError,
    StrlError,
    StrlKeyError,
    StrlTypeError,
    StrlValueError,
    check_known,
    suggest,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (StrlValueError, ValueError),
        (StrlTypeError, TypeError),
        (StrlKeyError, KeyError),
        (NonFiniteError, ValueError),
    ],
)
def test_every_error_is_ours_and_a_builtin(error: type[Exception], builtin) -> None:
    assert issubclass(error, StrlError)
    assert issubclass(error, builtin)


def test_key_errors_are_printed_without_quotes() -> None:
    assert str(StrlKeyError("there is no 'x'")) == "there is no 'x'"
    assert str(StrlKeyError()) == ""


def test_only_close_names_are_suggested() -> None:
    assert suggest("polcy", ["critic", "policy"]) == " Did you mean 'policy'?"
    assert suggest("zzz", ["critic", "policy"]) == ""


def test_check_known() -> None:
    check_known("X", "key", ["b"], ["a", "b"])
    with pytest.raises(
        StrlTypeError,
        match=r"^X: unknown key 'hiden'\. Did you mean 'hidden'\? Known keys: \['hidden', 'size'\]",
    ):
        check_known("X", "key", ["size", "hiden"], ["size", "hidden"])
