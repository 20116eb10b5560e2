"""What the processes of test_distributed.py run, and the same for one process that has all."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import torch.distributed as dist
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_strl import APPO, PPO, EstimatorTPPO
from sb3_strl.algorithms.losses import masked_mean, standardize
from sb3_strl.algorithms.minibatch import minibatch_kl
from sb3_strl.buffers.presets import ON_POLICY
from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common import distributed
from sb3_strl.common.normalization import EmpiricalNormalization
from sb3_strl.objectives.base import Decision, Proposal
from sb3_strl.policies.discriminator import AMPDiscriminator, DiscriminatorSpec
from tests.envs.toy import NanEnv, PointMass

WORLD = 2
LOCAL_ENVS = 4
N_STEPS = 12
ITERATIONS = 3


class Share(PointMass):
    """Environments ``[rank * n, (rank + 1) * n)`` of a larger point mass."""

    def __init__(self, rank: int, world: int, **options: Any) -> None:
        self.all_envs = LOCAL_ENVS * WORLD
        n = self.all_envs // world
        self.mine = slice(rank * n, (rank + 1) * n)
        # Three frames: windows that span a reset, so not valid, lie unevenly over the processes.
        super().__init__(
            n, n_frames=3, max_episode_length=9, termination_prob=0.05, seed=5, **options
        )

    def take_reset_request(self) -> Any:
        return 5, super().take_reset_request()[1]  # the same world everywhere

    def rand(self, *shape: int) -> th.Tensor:
        return th.rand(self.all_envs, *shape, generator=self.generator)[self.mine]


class Unions(RolloutBuffer):
    """Minibatches that are the unions of what the processes draw."""

    parts = 1

    def get(
        self,
        batch_size: int | None = None,
        generator: th.Generator | None = None,
        n_minibatches: int | None = None,
    ) -> Any:
        order = th.randperm(N_STEPS * LOCAL_ENVS)
        for chosen in order.split((batch_size or 0) // self.parts):
            step, env = chosen // LOCAL_ENVS, chosen % LOCAL_ENVS
            rows = [step * self.n_envs + env + i * LOCAL_ENVS for i in range(self.parts)]
            yield self._gather(th.cat(rows))


class SharedUnions(Unions):
    """The whole, of all processes."""

    parts = WORLD


_AMP = {"hidden_dims": (16,), "task_reward_lerp": 0.5}
_CASES: dict[str, tuple[type[PPO], str, dict[str, Any]]] = {
    "ppo": (PPO, "MlpPolicy", {}),
    "appo": (APPO, "AmpPolicy", {"policy_kwargs": {"amp_discriminator": _AMP}}),
    "joint": (
        APPO,
        "AmpPolicy",
        {
            "policy_kwargs": {"amp_discriminator": {**_AMP, "grad_pen_on": "both"}},
            "discriminator_optimizer": "joint",
        },
    ),
    "rnd": (
        PPO,
        "MlpPolicy",
        {
            "rnd_kwargs": {"state_normalization": True, "reward_normalization": True},
            "normalize_advantage": "minibatch",
        },
    ),
    "target_kl": (
        PPO,
        "MlpPolicy",
        {"target_kl": 2e-4, "learning_rate": 3e-3, "schedule": "fixed"},
    ),
    # Not the flat one:
    "adam": (PPO, "MlpPolicy", {"policy_kwargs": {"optimizer_class": th.optim.Adam}}),
    "lstm": (
        PPO,
        "MlpLstmPolicy",
        {"n_minibatches": 1, "policy_kwargs": {"lstm_hidden_size": 8}},
    ),
    "student": (
        EstimatorTPPO,
        "EstimatorPolicy",
        {
            "distill_target": "mse_sum",
            "policy_kwargs": {
                "estimator": {
                    "obs_components": ["pos", "phase"],
                    "target_components": ["mass"],
                    "kwargs": {"hidden_sizes": [6]},
                }
            },
        },
    ),
}


def make(name: str, rank: int, world: int) -> PPO:
    algorithm, policy, settings = _CASES[name]
    kwargs = {"net_arch": [16], "empirical_normalization": True}
    settings = {**settings, "policy_kwargs": {**kwargs, **settings.get("policy_kwargs", {})}}
    own = {"n_steps": N_STEPS, "n_minibatches": 2, "n_epochs": 2, "schedule": "adaptive"}
    if name != "lstm":
        own["rollout_buffer_class"] = Unions if world > 1 else SharedUnions
    env = Share(rank, world)
    if name == "student":
        own["teacher"] = _teacher()
    # Different seeds: what must be the same everywhere has to be sent.
    model = algorithm(policy, env, device="cpu", seed=3, **{**own, **settings})
    head = model.policy.action_head
    noise = th.Generator().manual_seed(11)
    draw = head.draw_noise

    def draw_share(shape: Any, generator: Any, device: Any) -> th.Tensor:
        del generator
        return draw((shape[0], env.all_envs), noise, device)[:, env.mine]

    head.draw_noise = draw_share  # type: ignore[method-assign]
    if isinstance(model, EstimatorTPPO):
        _share_the_driver(model, env)
    return model


def _teacher() -> PPO:
    """Return the same teacher everywhere; a seed would make each process its own."""
    teacher = PPO("MlpPolicy", PointMass(2), n_steps=8, device="cpu")
    drawn = th.Generator().manual_seed(13)
    with th.no_grad():
        for parameter in teacher.policy.parameters():
            parameter.copy_(0.3 * th.randn(parameter.shape, generator=drawn))
    return teacher


def _share_the_driver(model: EstimatorTPPO, env: Share) -> None:
    """Let the teacher drive unequally often in the processes."""
    drawn, propose = th.Generator().manual_seed(12), model.distillation.propose_actions

    def propose_share(decision: Decision) -> Proposal:
        proposal = propose(decision)
        assert proposal is not None
        mask = th.rand(env.all_envs, generator=drawn) < th.linspace(0.1, 0.9, env.all_envs)
        return Proposal(proposal.actions, mask[env.mine])

    model.distillation.propose_actions = propose_share  # type: ignore[method-assign]


def train(name: str, rank: int, world: int) -> dict[str, Any]:
    """Train a little; return everything that learnt."""
    model = make(name, rank, world)
    th.manual_seed(17)  # of the permutations
    total = ITERATIONS * N_STEPS * LOCAL_ENVS * WORLD
    rates: list[float] = []

    def remember(locals_: Any, globals_: Any) -> bool:
        del locals_, globals_
        rates.append(model.current_lr)
        return True

    with Records(model) as records:
        model.learn(total, callback=remember, log_interval=1)
    state = {f"policy.{k}": v.clone() for k, v in model.policy.state_dict().items()}
    if name == "rnd":
        state |= {f"rnd.{k}": v.clone() for k, v in model.rnd.modules.state_dict().items()}
        state.pop("rnd.rewards.running")
    return {
        "state": state,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "rates": rates[::N_STEPS],
        "losses": records.losses,
        "lr": model.current_lr,
    }


class Records:
    """Keep what a model logs at every update, whoever writes it."""

    def __init__(self, model: PPO) -> None:
        self.model, self.losses = model, []

    def __enter__(self) -> Records:
        log_update = self.model._log_update

        def keep() -> None:
            log_update()
            values = self.model.logger.name_to_value
            self.losses.append({k: float(v) for k, v in values.items() if k.startswith("train/")})

        self.model._log_update = keep  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self.model._log_update


def functions(rank: int, world: int) -> dict[str, th.Tensor]:
    """Statistics of rows that lie unevenly over the processes."""
    generator = th.Generator().manual_seed(2)
    values = th.randn(20, generator=generator) + 3.0
    mask = th.zeros(20, dtype=th.bool)
    mask[[3, 12, 13, 14, 17]] = True
    n = 20 // world
    mine = slice(rank * n, (rank + 1) * n)
    normalizer = EmpiricalNormalization(3)
    x = 1e3 + th.randn(20, 3, generator=generator)
    for _ in range(2):
        normalizer.update(x[mine], mask[mine])
    discriminator = AMPDiscriminator(3, DiscriminatorSpec(hidden_dims=(8,)))
    for parameter in discriminator.parameters():
        parameter.data.copy_(th.linspace(-1.0, 1.0, parameter.numel()).view_as(parameter))
    discriminator.update_normalizer(x[mine], x[mine] + 1, mask[mine], ~mask[mine])
    losses = discriminator.losses(x[mine], x[mine] + 1, mask[mine], ~mask[mine])
    losses.total.backward()
    old = {"mean": th.zeros(n, 2), "std": th.ones(2)}
    new = {"mean": values[mine].unsqueeze(-1).expand(n, 2), "std": th.ones(2)}
    head: Any = plain(PointMass(2)).policy.action_head
    batch: Any = SimpleNamespace(dist=old, extras={ON_POLICY: mask[mine]})
    out: Any = SimpleNamespace(params=new)
    parameters = list(discriminator.parameters())
    distributed.mean_gradients_(parameters)
    return {
        "mean": distributed.mean(masked_mean(values[mine], mask[mine])),
        "nothing": distributed.mean(masked_mean(values[mine], th.zeros(n, dtype=th.bool))),
        "kl": minibatch_kl(head, batch, out),
        "moments": th.stack([normalizer.mean, normalizer.var]),
        "count": normalizer.count,
        "losses": distributed.mean(th.stack([value.detach() for value in losses])),
        "gradient": th.cat([p.grad.flatten() for p in parameters if p.grad is not None]),
        "standardized": _gathered(standardize(values[mine]), rank, world),
        "masked": _gathered(standardize(values[mine], mask[mine]), rank, world),
    }


def _gathered(own: th.Tensor, rank: int, world: int) -> th.Tensor:
    whole = th.zeros(len(own) * world)
    whole[rank * len(own) : (rank + 1) * len(own)] = own
    return distributed.sum_(whole)


def everything(rank: int, world: int, names: list[str]) -> dict[str, Any]:
    results: dict[str, Any] = {name: train(name, rank, world) for name in names}
    results["functions"] = functions(rank, world)
    return results


def plain(env: PointMass, **options: Any) -> PPO:
    kwargs = {"net_arch": [8], "empirical_normalization": True}
    given = {"n_steps": 8, "n_epochs": 1, "seed": 1, "device": "cpu", **options}
    return PPO("MlpPolicy", env, policy_kwargs=kwargs, **given)


def weights(model: PPO) -> th.Tensor:
    return th.cat([value.flatten().double() for value in model.policy.state_dict().values()])


def resumed(folder: Path) -> dict[str, Any]:
    """Continue a run from memory, from its files, and from the model of rank 0 alone."""
    model = plain(PointMass(3))
    model.learn(2 * 8 * 3 * WORLD)
    model.save(folder / "model")
    dist.barrier()
    results: dict[str, Any] = {"noise": model.generator.initial_seed(), "start": weights(model)}
    loaded = PPO.load(folder / "model", env=PointMass(3), device="cpu")
    (folder / "moved").mkdir(exist_ok=True)
    if distributed.is_main():
        shutil.copy(folder / "model.zip", folder / "moved" / "model.zip")
    dist.barrier()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        alone = PPO.load(folder / "moved" / "model", env=PointMass(3), device="cpu")
        for name, each in (("memory", model), ("files", loaded), ("alone", alone)):
            each.learn(2 * 8 * 3 * WORLD, reset_num_timesteps=False)
            results[name] = weights(each)
            results[f"{name}/steps"] = each.num_timesteps
            results[f"{name}/env"] = each.tensor_env.pos.clone()  # type: ignore[union-attr]
    results["warnings"] = [str(warning.message) for warning in caught]
    return results


def refused(model: PPO, callback: Any = None) -> str:
    """Return what learning ends with."""
    try:
        model.learn(1000 * WORLD, callback=callback)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        return f"{type(error).__name__}: {error}"
    return "nothing"


def failures(rank: int) -> dict[str, str]:
    def stop_at_five(model: PPO) -> Any:
        return lambda locals_, globals_: rank == 0 or model.num_timesteps < 5 * 3 * WORLD

    broken = NanEnv(3, bad_step=11 if rank == 1 else 10**6, bad_env=1)
    stopping = plain(PointMass(3))
    memory = {"n_minibatches": 2, "sequence_length": 3}
    kwargs = {"net_arch": [8], "lstm_hidden_size": 4}
    ragged = PPO("MlpLstmPolicy", PointMass(3), n_steps=8, policy_kwargs=kwargs, **memory)
    return {
        "n_envs": refused(plain(PointMass(3 + rank))),
        "n_steps": refused(plain(PointMass(3), n_steps=8 + rank)),
        "ragged": refused(ragged),
        "normalize": refused(plain(VecNormalize(PointMass(3), norm_obs=False))),
        "stop": refused(stopping, stop_at_five(stopping)) + f" after {stopping.n_iterations}",
        "nan": refused(plain(broken)),
    }


class Breaking(gym.Env[np.ndarray, np.ndarray]):
    """
    A number to keep at zero.

    :param how: what becomes of rank 1 after a while: ``"raise"``, ``"kill"`` or nothing
    """

    observation_space = gym.spaces.Box(-9.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, how: str = "") -> None:
        self.how, self.n_steps = how, 0
        self.x = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Any]:
        self.n_steps += 1
        if self.n_steps == 42 and distributed.rank() == 1:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "raise":
                raise RuntimeError("the left leg came off")
        self.x = np.clip(self.x + 0.1 * action, -9.0, 9.0)
        return self.x, -abs(float(self.x[0])), False, self.n_steps % 10 == 0, {}


gym.register("Breaking-v0", Breaking)


def whatever_breaks(rank: int, folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {"resume": resumed(folder), "failures": failures(rank)}
    model = plain(PointMass(3), seed=None, verbose=1)
    model.set_logger(configure(str(folder / f"log{rank}"), ["csv"]))
    model.learn(2 * 8 * 3 * WORLD)
    results["seeds"] = model.generator.initial_seed()
    return results


def main(rank: int, folder: Path, names: list[str]) -> None:
    """Be one of the processes."""
    th.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    results = everything(rank, WORLD, names)
    results |= whatever_breaks(rank, folder)
    th.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(os.environ["TEST_RANK"]), Path(sys.argv[1]), sys.argv[2:])
