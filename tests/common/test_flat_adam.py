"""FlatAdam takes Adam's steps, whatever happens to its parameters and its state."""

from __future__ import annotations

import copy
import io

import pytest
import torch as th
from torch import nn

from sb3_strl.common.flat_adam import FlatAdam, clip_gradients


def _network() -> nn.Module:
    th.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ELU(), nn.Linear(5, 2)).double()


def _pair(**options: object) -> tuple[nn.Module, nn.Module, FlatAdam, th.optim.Adam]:
    mine, theirs = _network(), _network()
    kwargs = {"lr": 0.01, "fused": True, **options}
    return mine, theirs, FlatAdam(mine.parameters(), **kwargs), _adam(theirs, kwargs)


def _adam(module: nn.Module, kwargs: dict[str, object]) -> th.optim.Adam:
    return th.optim.Adam(module.parameters(), **kwargs)  # type: ignore[arg-type]


def _gradients(module: nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = th.Generator().manual_seed(seed)
    x = th.randn(7, 3, generator=generator, dtype=th.float64)
    module.zero_grad()
    (module(x).square().sum() * scale).backward()


def _step(
    mine: nn.Module, theirs: nn.Module, flat: FlatAdam, adam: th.optim.Adam, seed: int
) -> None:
    _gradients(mine, seed)
    _gradients(theirs, seed)
    flat.clip_and_step(1.0)
    clip_gradients(list(theirs.parameters()), 1.0)
    adam.step()


def _assert_same(mine: nn.Module, theirs: nn.Module) -> None:
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"betas": (0.5, 0.9), "eps": 1e-3},
        {"lr": th.tensor(0.02)},
        {"amsgrad": True},
        {"maximize": True},
        {"fused": False},
    ],
)
def test_steps_are_adams(options: dict[str, object]) -> None:
    mine, theirs, flat, adam = _pair(**options)
    for seed in range(5):
        _step(mine, theirs, flat, adam, seed)
    _assert_same(mine, theirs)


def test_takes_one_tensor_per_group() -> None:
    mine, theirs, flat, adam = _pair()
    _step(mine, theirs, flat, adam, 0)
    assert len({p.untyped_storage().data_ptr() for p in mine.parameters()}) == 1


def test_parameters_lie_as_if_by_themselves() -> None:
    """Some matrix products round otherwise where memory begins at an odd place."""
    mine, theirs, flat, adam = _pair(weight_decay=0.1)
    for seed in range(3):
        _step(mine, theirs, flat, adam, seed)
    assert all(p.data_ptr() % 64 == 0 for p in mine.parameters())
    group = flat._flat[0]
    for tensor in (group.values, group.gradient, group.mean, group.variance):
        gaps = tensor.clone()
        for view in group._views(gaps):
            view.zero_()
        assert not gaps.any()


def test_a_file_of_the_parameters_holds_nothing_else() -> None:
    mine, theirs, flat, adam = _pair()
    sizes = []
    for _ in range(2):
        file = io.BytesIO()
        th.save(mine.state_dict(), file)
        sizes.append(file.tell())
        _step(mine, theirs, flat, adam, 0)
    assert sizes[1] < sizes[0] + 4 * 16 * 8  # gaps


def test_state_is_adams_and_travels_both_ways() -> None:
    mine, theirs, flat, adam = _pair()
    for seed in range(3):
        _step(mine, theirs, flat, adam, seed)
    file = io.BytesIO()
    th.save([flat.state_dict(), adam.state_dict()], file)
    file.seek(0)
    saved, other = th.load(file, weights_only=True)
    for index, state in other["state"].items():
        for name, value in state.items():
            th.testing.assert_close(saved["state"][index][name], value)
    flat.load_state_dict(other)
    adam.load_state_dict(saved)
    for seed in range(3, 6):
        _step(mine, theirs, flat, adam, seed)
    _assert_same(mine, theirs)


def test_moved_modules_are_followed() -> None:
    mine, theirs, flat, adam = _pair()
    _step(mine, theirs, flat, adam, 0)
    for module in (mine, theirs):
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()  # what .to(device) does
    _step(mine, theirs, flat, adam, 1)
    _assert_same(mine, theirs)


def test_copies_are_independent() -> None:
    mine, theirs, flat, adam = _pair()
    _step(mine, theirs, flat, adam, 0)
    twin, twin_flat = copy.deepcopy((mine, flat))
    before = [parameter.clone() for parameter in mine.parameters()]
    _gradients(twin, 1)
    twin_flat.clip_and_step(1.0)
    for old, parameter in zip(before, mine.parameters(), strict=True):
        assert th.equal(old, parameter)
    _step(mine, theirs, flat, adam, 1)
    _assert_same(twin, theirs)


def test_parameters_without_gradient_stay() -> None:
    mine, theirs, flat, adam = _pair()
    _step(mine, theirs, flat, adam, 0)
    for module in (mine, theirs):
        _gradients(module, 1)
        next(module.parameters()).grad = None
    before = next(mine.parameters()).clone()
    flat.clip_and_step(1.0)
    clip_gradients(list(theirs.parameters()), 1.0)
    adam.step()
    assert th.equal(next(mine.parameters()), before)
    _assert_same(mine, theirs)
    for seed in range(2, 5):  # now the step counts differ
        _step(mine, theirs, flat, adam, seed)
    _assert_same(mine, theirs)


def test_groups_share_one_norm() -> None:
    mine, theirs = _network(), _network()
    groups = [
        [{"params": list(part.parameters())} for part in net if list(part.parameters())]
        for net in (mine, theirs)
    ]
    flat = FlatAdam(groups[0], lr=0.01, fused=True)
    adam = th.optim.Adam(groups[1], lr=0.01, fused=True)
    for seed in range(3):
        _step(mine, theirs, flat, adam, seed)
    _assert_same(mine, theirs)


def test_plain_step_is_adams() -> None:
    mine, theirs, flat, adam = _pair()
    _step(mine, theirs, flat, adam, 0)
    _gradients(mine, 1)
    _gradients(theirs, 1)
    flat.step()
    adam.step()
    _step(mine, theirs, flat, adam, 2)
    _assert_same(mine, theirs)


def test_copies_may_step_plainly() -> None:
    mine, theirs, flat, adam = _pair()
    _step(mine, theirs, flat, adam, 0)
    twin, twin_flat = copy.deepcopy((mine, flat))
    _gradients(twin, 1)
    _gradients(theirs, 1)
    twin_flat.step()
    adam.step()
    _assert_same(twin, theirs)
