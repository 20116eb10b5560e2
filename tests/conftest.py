"""Fixtures that every test may use."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch as th


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    th.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random numbers, and leave none of its settings behind."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # SB3 draws from the global generator
    th.manual_seed(0)
    dtype = th.get_default_dtype()
    yield
    th.set_default_dtype(dtype)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> th.device:
    """Every device there is; the accelerator only in GPU runs."""
    if request.param == "cuda" and not th.cuda.is_available():
        pytest.skip("no accelerator")
    return th.device(request.param)
