"""imitation's GAIL on the embedded walker, with the generator and the features that APPO has."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from imitation.algorithms.adversarial.gail import GAIL
from imitation.data import types
from imitation.rewards.reward_nets import RewardNet
from imitation.util import logger, networks
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_strl import PPO
from sb3_strl.common.types import TensorDict
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_task import FEATURES
from sb3_strl.policies import EncoderPolicy
from sb3_strl.policies.contract import Obs

Array = npt.NDArray[np.float32]
Columns = dict[str, tuple[slice, tuple[int, ...]]]
N_DEMOS, DEMO_STEPS = 16, 250


def columns_of(space: spaces.Space[Any]) -> Columns:
    """Return where each group lies in a row of all of them, and its shape."""
    assert isinstance(space, spaces.Dict)
    found: Columns = {}
    start = 0
    for name, part in space.spaces.items():
        shape = tuple(part.shape or ())
        stop = start + int(np.prod(shape))
        found[name] = (slice(start, stop), shape)
        start = stop
    return found


class Flat(VecEnvWrapper):
    """
    All groups side by side in one row, because GAIL knows no dictionaries.

    :param venv: with named groups
    """

    def __init__(self, venv: VecEnv) -> None:
        self.columns = columns_of(venv.observation_space)
        width = max(part.stop for part, _ in self.columns.values())
        super().__init__(venv, observation_space=spaces.Box(-np.inf, np.inf, (width,), np.float32))

    def _row(self, obs: Any, n: int) -> Array:
        return np.concatenate([np.reshape(obs[name], (n, -1)) for name in self.columns], axis=1)

    def reset(self) -> Array:
        """Reset."""
        return self._row(self.venv.reset(), self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        """Step, with the terminal observations as rows too."""
        obs, rewards, dones, infos = self.venv.step_wait()
        for env in np.flatnonzero(dones):
            infos[env]["terminal_observation"] = self._row(infos[env]["terminal_observation"], 1)[0]
        return self._row(obs, self.num_envs), rewards, dones, infos


class Grouped(VecEnvWrapper):
    """
    The opposite of :class:`Flat`, outside of everything that GAIL puts around it.

    :param venv: with rows
    :param space: of the groups
    """

    def __init__(self, venv: VecEnv, space: spaces.Space[Any]) -> None:
        super().__init__(venv, observation_space=space)
        self.columns = columns_of(space)

    def _groups(self, rows: Array) -> dict[str, Array]:
        lead = rows.shape[:-1]
        return {n: rows[..., part].reshape(*lead, *s) for n, (part, s) in self.columns.items()}

    def reset(self) -> dict[str, Array]:
        """Reset."""
        rows: Any = self.venv.reset()
        return self._groups(rows)

    def step_wait(self) -> VecEnvStepReturn:
        """Step, with the terminal observations as groups too."""
        rows, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(rows, np.ndarray)
        for env in np.flatnonzero(dones):
            last = infos[env]["terminal_observation"]
            infos[env] = {**infos[env], "terminal_observation": self._groups(last)}
        return self._groups(rows), rewards, dones, infos


class FlatEncoderPolicy(EncoderPolicy):
    """The generator's policy; GAIL asks it for log-probabilities of rows."""

    def as_groups(self, obs: Obs) -> TensorDict:
        """Return groups, of a row too."""
        if isinstance(obs, dict):
            return obs
        columns = columns_of(self.observation_space)
        return {n: obs[:, part].reshape(-1, *s) for n, (part, s) in columns.items()}


class Generator(PPO):
    """PPO that sees the groups again when GAIL hands it the rows."""

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Replace the environment."""
        assert isinstance(env, VecEnv)
        space = self.observation_space
        super().set_env(env if env.observation_space == space else Grouped(env, space), force_reset)


class WindowRewardNet(RewardNet):
    """
    GAIL's discriminator: like APPO's it sees the window of features after the step, and no actions.

    :param env: tells the spaces
    :param hidden: widths of the hidden layers
    """

    def __init__(self, env: Flat, hidden: tuple[int, ...]) -> None:
        super().__init__(env.observation_space, env.action_space, normalize_images=False)
        self.part, shape = env.columns["ref_obs"]
        self.mlp = networks.build_mlp(
            in_size=int(np.prod(shape)),
            hid_sizes=hidden,
            out_size=1,
            squeeze_output=True,
            normalize_input_layer=networks.RunningNorm,
        )

    def forward(
        self, state: th.Tensor, action: th.Tensor, next_state: th.Tensor, done: th.Tensor
    ) -> th.Tensor:
        """Return a logit for each row, high for the expert."""
        del state, action, done
        logits: th.Tensor = self.mlp(next_state[:, self.part])
        return logits


def demonstrations(walker: WalkerVecEnv, flat: Flat) -> list[Any]:
    """
    Return the reference as trajectories of imitation's, step after step of the walker's.

    They begin fractions of a step apart, so that together they hold the clip at every phase, as the
    walker shows it to APPO.

    :param walker: whose clip it is; it loops
    :param flat: the same with rows; what the reference does not hold is 0
    """
    found = []
    for number in range(N_DEMOS):
        times = (th.arange(DEMO_STEPS + 1) + number / N_DEMOS) * walker.dt
        clips = th.zeros(len(times), dtype=th.int64)
        windows = walker.library.windows(clips, times, FEATURES, walker.n_frames, walker.dt)
        obs = np.zeros((len(times), *(flat.observation_space.shape or ())), np.float32)
        obs[:, flat.columns["ref_obs"][0]] = windows.flatten(1).numpy()
        acts = np.zeros((DEMO_STEPS, *(flat.action_space.shape or ())), np.float32)
        found.append(types.Trajectory(obs=obs, acts=acts, infos=None, terminal=False))
    return found


def train_gail(
    walker: WalkerVecEnv,
    steps: int,
    ppo: dict[str, Any],
    discriminator: dict[str, Any],
    hidden: tuple[int, ...],
) -> PPO:
    """
    Train.

    :param walker: the environment
    :param steps: environment steps
    :param ppo: keywords of the generator
    :param discriminator: keywords of ``GAIL``
    :param hidden: widths of the discriminator's hidden layers
    :return: the generator
    """
    flat = Flat(walker)
    generator = Generator(FlatEncoderPolicy, walker, **ppo)
    trainer = GAIL(
        demonstrations=demonstrations(walker, flat),
        venv=flat,
        gen_algo=generator,
        reward_net=WindowRewardNet(flat, hidden),
        allow_variable_horizon=True,
        custom_logger=logger.configure(tempfile.mkdtemp(), []),
        **discriminator,
    )
    trainer.train(steps)
    return generator
