from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.envs.conversion import obs_to_numpy, obs_to_tensors, tensor_dtype, to_array, to_tensor
from tests.envs.toy import box


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float16, th.float32),
        (np.float32, th.float32),
        (np.float64, th.float32),
        (np.uint8, th.uint8),
        (np.int8, th.int64),
        (np.int64, th.int64),
        (np.bool_, th.bool),
    ],
)
def test_types(given: Any, expected: th.dtype) -> None:
    assert tensor_dtype(np.dtype(given)) == expected
    assert to_tensor(np.ones(2, given), "cpu").dtype == expected


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_])
def test_memory_is_never_shared(dtype: Any) -> None:
    array = np.ones(2, dtype)
    tensor = to_tensor(array, "cpu")
    array[:] = 0
    assert tensor.tolist() == [1, 1]
    back = to_array(tensor)
    tensor.zero_()
    assert back.tolist() == [1, 1]
    assert back.dtype == dtype


def test_groups_there_and_back() -> None:
    space = spaces.Dict({"a": box(2), "n": spaces.Discrete(4)})
    obs = {"a": np.ones((3, 2), np.float32), "n": np.array([1, 2, 3])}
    back = obs_to_numpy(obs_to_tensors(obs, "cpu"), space)
    np.testing.assert_equal(back, obs)
    assert back["n"].dtype == np.int64


def test_a_single_space_is_the_group_policy() -> None:
    groups = obs_to_tensors(np.ones((3, 2), np.float64), "cpu")
    assert list(groups) == ["policy"]
    assert obs_to_numpy(groups, box(2)).dtype == np.float32
