"""Observations on another device than the policy: a second device made of CPU memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from sb3_strl import PPO, TPPO, EstimatorPPO
from sb3_strl.buffers import QueueRolloutBuffer
from tests.envs.toy import ImageToy, PointMass

FAR = th.device("meta")  # torch has no other one that needs no driver


class Far(th.Tensor):
    """A tensor that says that it lives on :data:`FAR`; its numbers are in ``near``."""

    near: th.Tensor

    @staticmethod
    def __new__(cls, near: th.Tensor) -> Far:
        self = th.Tensor._make_wrapper_subclass(
            cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype, device=FAR
        )
        self.near = near
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


moves: list[tuple[str, int]] = []


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator where its tensors are; only copies may mix devices."""
    name = func.overloadpacket.__name__
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, th.Tensor)]
    far = [t for t in tensors if isinstance(t, Far)]
    near_args, near_kwargs = tree_map(lambda t: t.near if isinstance(t, Far) else t, (args, kwargs))
    device = near_kwargs.get("device")
    wants_far = device is not None and th.device(device).type == FAR.type
    if wants_far:
        near_kwargs["device"] = th.device("cpu")
    elif name == "_to_copy" and far and device is None:
        wants_far = True
    result = func(*near_args, **near_kwargs)
    if name == "_to_copy":
        if bool(far) != wants_far:
            moves.append(("to far" if wants_far else "to near", tensors[0].numel()))
        return Far(result) if wants_far else result
    if name == "copy_":
        if len(far) == 1:
            moves.append(("to far" if isinstance(args[0], Far) else "to near", args[0].numel()))
        return args[0]
    if far and len(far) != sum(t.ndim > 0 or isinstance(t, Far) for t in tensors):
        raise RuntimeError(f"{name}: tensors on two devices")
    if not far and not wants_far:
        return result
    if name.endswith("_") and isinstance(args[0], Far):
        return args[0]
    return tree_map(lambda t: Far(t) if isinstance(t, th.Tensor) else t, result)


class FarMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


IMAGES = {
    "obs_groups": {"actor": ["image", "vector"]},
    "encoder": {"component_names": ["image"]},
}
ESTIMATOR = {"estimator": {"obs_components": ["pos"], "target_components": ["mass"]}}
CASES: dict[str, Any] = {
    "vectors": (PPO, "MlpPolicy", lambda: PointMass(6, termination_prob=0.1), {}),
    "statistics": (PPO, "MlpPolicy", lambda: PointMass(6), {"empirical_normalization": True}),
    "images": (PPO, "EncoderPolicy", lambda: ImageToy(4, max_episode_length=3), IMAGES),
    "memory": (PPO, "MlpLstmPolicy", lambda: PointMass(6, max_episode_length=5), {}),
    "estimator": (EstimatorPPO, "EstimatorGruPolicy", lambda: PointMass(6), ESTIMATOR),
}


def train(name: str, **options: Any) -> PPO:
    algorithm, alias, env, kwargs = CASES[name]
    kwargs = {"net_arch": [8, 8], **kwargs}
    settings = {"n_steps": 8, "n_epochs": 2, "seed": 0, "device": "cpu", **options}
    model: PPO = algorithm(alias, env(), policy_kwargs=kwargs, **settings)
    return model.learn(3 * 8 * model.n_envs)


def assert_equal(one: PPO, other: PPO, atol: float = 0.0) -> None:
    expected = other.policy.state_dict()
    for key, value in one.policy.state_dict().items():
        th.testing.assert_close(value, expected[key], rtol=0.0, atol=atol, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_another_device_changes_no_number(name: str) -> None:
    plain = train(name)
    moves.clear()
    with FarMode():
        far = train(name, storage_device=FAR)
    for field, view in far.rollout_buffer.storage.views.items():
        assert (view.device == FAR) == field.startswith("obs/"), field
    assert all(value.device == FAR for value in far.collector.final_obs.values())
    # Some matrix products (MKL's on AMD) round otherwise where rows lie closer together.
    assert_equal(far, plain, atol=1e-6)
    sizes = {kind: sum(n for k, n in moves if k == kind) for kind in ("to far", "to near")}
    observed = sum(v.numel() for v in far.rollout_buffer.obs().values())
    assert sizes["to far"] >= 3 * observed  # three rollouts,
    assert sizes["to near"] >= 3 * 2 * observed  # two epochs of each


def test_the_second_device_refuses_to_mix() -> None:
    with FarMode():
        far = th.zeros(3, device=FAR)
        assert (far + 1.0).device == FAR
        with pytest.raises(RuntimeError, match="two devices"):
            far + th.ones(3)


@pytest.mark.parametrize("name", CASES)
def test_the_same_device_is_the_default(name: str) -> None:
    same = train(name, storage_device="cpu")
    assert not same.rollout_buffer.storage.is_split
    assert_equal(same, train(name))


def test_imitated_rollouts_stay_there_too() -> None:
    teacher = PPO("MlpPolicy", PointMass(6), policy_kwargs={"net_arch": [8, 8]}, seed=1)
    results = []
    for storage in (None, FAR):
        with FarMode():
            model = TPPO(
                "MlpPolicy",
                PointMass(6),
                teacher=teacher,
                n_steps=4,
                buffer_dilation_ratio=2.0,
                storage_device=storage,
                seed=0,
            )
            model.learn(3 * 4 * 6)
        results.append(model)
    assert_equal(*results, atol=1e-6)
    old = results[1].distillation.queue.old()
    assert {name: value.device == FAR for name, value in old.items()} == {
        name: name.startswith("obs/") for name in old
    }


def test_a_queue_of_rollouts() -> None:
    kwargs = {"rollout_buffer_class": QueueRolloutBuffer}
    ratio = {"rollout_buffer_kwargs": {"buffer_dilation_ratio": 2.0}}
    with FarMode():
        model = train("vectors", storage_device=FAR, **kwargs, **ratio)
        batch = next(iter(model.rollout_buffer.get_all(5)))
        assert all(value.device.type == "cpu" for value in batch.values())


def test_the_description_says_where() -> None:
    with FarMode():
        far = train("vectors", storage_device=FAR)
    assert "buffer fields, observations on meta" in far.rollout_buffer.describe()
    assert "observations on" not in train("vectors").rollout_buffer.describe()
