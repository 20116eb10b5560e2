"""The trunk as one autograd node gives the numbers of its layers."""

import copy

import pytest
import torch as th
from torch import nn

from sb3_strl.policies import fused_mlp
from sb3_strl.policies.fused_mlp import FusedMlp
from sb3_strl.policies.networks import MlpModel


def pair(activation: str, hidden: list[int]) -> tuple[MlpModel, MlpModel]:
    plain = MlpModel(5, hidden, 3, activation).double()
    fused = MlpModel(5, hidden, 3, activation, fuse=True).double()
    fused.load_state_dict(plain.state_dict())
    return plain, fused


@pytest.mark.parametrize("activation", ["elu", "relu", "tanh"])
@pytest.mark.parametrize("hidden", [[], [7], [16, 8]])
def test_outputs_and_gradients_are_those_of_the_layers(activation: str, hidden: list[int]) -> None:
    plain, fused = pair(activation, hidden)
    assert fused._fused is not None
    x = th.randn(40, 5, dtype=th.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weight = th.randn(40, 3, dtype=th.float64)
    expected, given = plain(x), fused(y)
    assert th.allclose(given, expected, atol=1e-13)
    (expected * weight).sum().backward()
    (given * weight).sum().backward()
    assert th.allclose(y.grad, x.grad, atol=1e-12)
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert th.allclose(ours.grad, theirs.grad, atol=1e-12)


def test_rows_in_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = pair("elu", [16, 8])
    monkeypatch.setattr(fused_mlp, "_CPU_CHUNK_NUMBERS", 27 * 6)  # 6 rows at a time
    x = th.randn(40, 5, dtype=th.float64)
    plain(x).square().sum().backward()
    fused(x).square().sum().backward()
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert th.allclose(ours.grad, theirs.grad, atol=1e-12)


def test_leading_dimensions_are_kept() -> None:
    plain, fused = pair("tanh", [4])
    x = th.randn(2, 6, 5, dtype=th.float64)
    assert fused(x).shape == (2, 6, 3)
    assert th.allclose(fused(x), plain(x))


def test_the_input_is_not_changed() -> None:
    _, fused = pair("elu", [4])
    x = th.randn(6, 5, dtype=th.float64)
    before = x.clone()
    fused(x)
    assert th.equal(x, before)


@pytest.mark.parametrize(
    "layers",
    [
        nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.ELU(0.5), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.ELU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.ELU()),
        nn.Sequential(),
    ],
)
def test_what_it_cannot_run_it_refuses(layers: nn.Sequential) -> None:
    assert not FusedMlp(layers).is_possible


def test_other_activations_fall_back_to_the_layers() -> None:
    model = MlpModel(2, [4], 1, "gelu", fuse=True)
    assert model._fused is None
    assert model(th.zeros(3, 2)).shape == (3, 1)


def test_a_copy_uses_its_own_parameters() -> None:
    _, fused = pair("elu", [4])
    other = copy.deepcopy(fused)
    with th.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    x = th.randn(3, 5, dtype=th.float64)
    assert other(x).abs().max() == 0.0
    assert fused(x).abs().max() > 0.0
