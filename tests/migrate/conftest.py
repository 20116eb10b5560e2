"""Fixtures of the tests of migration."""

from collections.abc import Iterator

import pytest
import torch as th


@pytest.fixture(autouse=True)
def restore_argument_checks() -> Iterator[None]:
    """rsl_rl switches PyTorch's argument checks off for the whole process."""
    was = th.distributions.Distribution._validate_args
    yield
    th.distributions.Distribution.set_default_validate_args(was)
