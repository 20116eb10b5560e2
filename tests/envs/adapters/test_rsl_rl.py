"""The real interface of rsl_rl, with TensorDicts, and its own runner on the same environment."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, make_vec
from sb3_strl.envs import RslRlVecEnv, check_tensor_env

rsl_rl = pytest.importorskip("rsl_rl.env")
tensordict = pytest.importorskip("tensordict")

N = 3


class Pendulums(rsl_rl.VecEnv):
    """Three pendulums that fall over, in one set of tensors."""

    def __init__(self, max_episode_length: Any = 12) -> None:
        self.num_envs, self.num_actions = N, 1
        self.max_episode_length = max_episode_length
        self.episode_length_buf = th.zeros(N, dtype=th.long)
        self.device, self.cfg = th.device("cpu"), {}
        self.generator = th.Generator().manual_seed(0)
        self.x = th.zeros(N, 2)
        self.buffer = th.zeros(N, 2)
        self.extras: dict[str, Any] = {}
        self.begin(th.ones(N, dtype=th.bool))

    def begin(self, mask: th.Tensor) -> None:
        start = th.rand(N, 2, generator=self.generator) * 0.2 - 0.1
        self.x = th.where(mask[:, None], start, self.x)
        self.episode_length_buf[mask] = 0

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_observations(self) -> Any:
        self.buffer.copy_(self.x)
        groups = {
            "actor": self.buffer,
            "critic": {"state": self.buffer, "time": self.buffer[:, :1]},
        }
        return tensordict.TensorDict(groups, batch_size=[N])

    def step(self, actions: th.Tensor) -> Any:
        self.episode_length_buf += 1
        angle, speed = self.x.unbind(-1)
        speed = speed + 0.1 * (2 * angle + 3 * actions[:, 0].clamp(-1, 1))
        self.x = th.stack([angle + 0.1 * speed, speed], dim=-1)
        fell = self.x[:, 0].abs() > 0.3
        late = self.episode_length_buf >= 12
        self.extras["time_outs"] = late
        dones = (fell | late).long()
        self.begin(dones.bool())
        return self.get_observations(), th.ones(N), dones, self.extras


class Resetting(Pendulums):
    """With the ``reset`` that the wrappers of simulators have, and rsl_rl does not ask for."""

    def reset(self) -> tuple[Any, dict[str, Any]]:
        self.begin(th.ones(N, dtype=th.bool))
        return self.get_observations(), {}


def test_recognised() -> None:
    env = make_vec(Pendulums())
    assert isinstance(env, RslRlVecEnv)
    assert (env.num_envs, env.max_episode_length) == (N, 12)
    assert env.action_space == spaces.Box(-100.0, 100.0, (1,))
    assert isinstance(env.observation_space, spaces.Dict)
    shapes = {name: part.shape for name, part in env.observation_space.spaces.items()}
    assert shapes == {"policy": (2,), "critic/state": (2,), "critic/time": (1,)}


def test_promises() -> None:
    check_tensor_env(make_vec(Resetting()), n_steps=40)


def test_dones_become_flags() -> None:
    env = make_vec(Resetting())
    env.reset_tensor()
    right = th.tensor([[1.0], [0.0], [0.0]])
    ends = [0, 0]
    for _ in range(13):
        step = env.step_tensor(right)
        assert step.terminated.dtype == step.truncated.dtype == th.bool
        assert not (step.terminated & step.truncated).any()
        ends[0] += int(step.terminated[0])
        ends[1] += int(step.truncated[0])
        assert step.final_obs is None
    assert ends[0] >= 1
    assert ends[1] == 0


def test_episodes_go_on_where_nobody_can_reset() -> None:
    sim = Pendulums()
    env = make_vec(sim)
    env.reset_tensor()
    env.step_tensor(th.zeros(N, 1))
    before = sim.x.clone()
    assert th.equal(env.reset_tensor()["policy"], before)


def test_limits_that_differ() -> None:
    assert make_vec(Pendulums(th.tensor([5, 12, 9]))).max_episode_length == 12


def test_memory_is_not_shared() -> None:
    env = make_vec(Pendulums())
    obs = env.reset_tensor()
    was = {name: value.clone() for name, value in obs.items()}
    env.step_tensor(th.ones(N, 1))
    assert all(th.equal(obs[name], value) for name, value in was.items())


@pytest.mark.integration
def test_training_beside_its_own_runner(tmp_path: Any) -> None:
    runners = pytest.importorskip("rsl_rl.runners")
    config = {
        "num_steps_per_env": 8,
        "save_interval": 100,
        "obs_groups": {"actor": ["actor"], "critic": ["actor"]},
        "actor": {
            "class_name": "MLPModel",
            "hidden_dims": [16],
            "distribution_cfg": {"class_name": "GaussianDistribution"},
        },
        "critic": {"class_name": "MLPModel", "hidden_dims": [16]},
        "algorithm": {"class_name": "PPO"},
    }

    class Flat(Resetting):
        def get_observations(self) -> Any:
            return super().get_observations().exclude("critic")

    runner = runners.OnPolicyRunner(Flat(), config, log_dir=None, device="cpu")
    runner.learn(2)  # what its runner takes ...
    model = PPO("MlpPolicy", make_vec(Flat()), n_steps=8, batch_size=24, n_epochs=1)
    with pytest.warns(UserWarning, match="supplies no final observations"):
        model.learn(2 * 8 * N)  # ... ours takes too
    assert model.num_timesteps == 2 * 8 * N
