"""First the demonstrations, then the simulator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_strl import ATPPO, TPPO, EstimatorTPPO
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.memory_state import leaves
from sb3_strl.data import RolloutDataset, RolloutWriter
from sb3_strl.envs import as_tensor_env
from tests.envs.toy import CounterEnv, DiscreteToy, PointMass
from tests.objectives.test_teacher import trained

T = 8


def demonstrate(
    folder: Path,
    env: Any = None,
    steps: int = 40,
    groups: tuple[str, ...] | None = None,
    label: bool = False,
    expert: bool = False,
) -> Path:
    """Record random actions, or an expert's; with ``label`` also what a teacher would have done."""
    env = env or PointMass(4, max_episode_length=9, seed=5)
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {name: [] for name in ("obs", "act", "rew", "ter", "tru", "fin")}
    obs = env.reset_tensor()
    for _ in range(steps):
        actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        if actions.dtype.kind == "f":
            actions = rng.uniform(-1, 1, actions.shape).astype(np.float32)
        if expert:
            actions = np.clip(-obs["policy"][:, :2].numpy(), -1, 1)
        step = env.step_tensor(th.as_tensor(actions))
        names = groups or tuple(obs)
        rows["obs"].append({g: obs[g].numpy().copy() for g in names})
        rows["act"].append(actions)
        rows["rew"].append(step.rewards.numpy().copy())
        rows["ter"].append(step.terminated.numpy().copy())
        rows["tru"].append(step.truncated.numpy().copy())
        rows["fin"].append({g: step.final_obs[g].numpy().copy() for g in names})
        obs = step.obs

    def groups_of(name: str) -> dict[str, np.ndarray]:
        return {g: np.stack([row[g] for row in rows[name]]) for g in rows[name][0]}

    stacked = {name: np.stack(rows[name]) for name in ("act", "rew", "ter", "tru")}
    with RolloutWriter(folder, env.num_envs) as writer:
        writer.write(
            groups_of("obs"),
            stacked["act"],
            stacked["rew"],
            stacked["ter"],
            stacked["tru"],
            groups_of("fin"),
            {"teacher_actions": stacked["act"] * 0.5} if label else None,
        )
    return folder


class Watched(PointMass):
    """Counts its steps and keeps what it was told."""

    def __init__(self, n_envs: int = 4, **options: Any) -> None:
        super().__init__(n_envs, **options)
        self.n_steps = self.n_resets = 0

    def reset_tensor(self) -> Any:
        self.n_resets += 1
        return super().reset_tensor()

    def step_tensor(self, actions: th.Tensor) -> Any:
        self.n_steps += 1
        return super().step_tensor(actions)


def make(dataset: Any, env: Any = None, algorithm: Any = TPPO, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "policy": "MlpPolicy",
        "teacher": trained(),
        "n_steps": T,
        "n_epochs": 1,
        "seed": 2,
        "policy_kwargs": {"net_arch": [8]},
        "pretrain_dataset": dataset,
        "pretrain_iterations": 2,
        "distill_target": "mse_sum",
        **options,
    }
    return algorithm(settings.pop("policy"), Watched() if env is None else env, **settings)


class Rollouts:
    """A callback that keeps every rollout's fields and what the environment had done by then."""

    def __new__(cls, seen: list[Any]) -> Any:
        from stable_baselines3.common.callbacks import BaseCallback

        class Keep(BaseCallback):
            def _on_step(self) -> bool:
                return True

            def _on_rollout_end(self) -> None:
                buffer = self.model.rollout_buffer
                fields = {name: buffer[name].clone() for name in buffer.fields}
                seen.append((fields, self.training_env.n_steps))

        return Keep()


def test_the_environment_stands_still_while_the_dataset_is_played(tmp_path: Path) -> None:
    model = make(demonstrate(tmp_path))
    env, seen = model.env, []
    first_obs: list[Any] = []
    original = env.reset_tensor

    def reset() -> Any:
        obs = original()
        first_obs.append({k: v.clone() for k, v in obs.items()})
        return obs

    env.reset_tensor = reset
    model.learn(4 * T * 4, callback=Rollouts(seen))
    assert [steps for _, steps in seen] == [0, 0, T, 2 * T]
    for fields, _ in seen[:2]:
        assert not fields["on_policy"].any()
        assert th.equal(fields["teacher/actions"], fields["actions"])
    assert th.equal(seen[2][0]["obs/policy"][0], first_obs[-1]["policy"])
    assert seen[2][0]["episode_starts"][0].all()
    assert not th.equal(seen[1][0]["obs/policy"][0], first_obs[-1]["policy"])


def test_actions_rewards_and_observations_stay_together(tmp_path: Path) -> None:
    folder = demonstrate(tmp_path)
    model, seen = make(folder, pretrain_iterations=-1, teacher=None), []
    model.learn(3 * T * 4, callback=Rollouts(seen))
    model.env.reset()
    expected = RolloutDataset(
        folder, 4, dataset_loops=0, random_shuffle_traj_order=True, seed=2, device="cpu"
    )
    assert len(seen) == 3
    for fields, _ in seen:
        rows = expected.get_batch(T)
        assert th.equal(fields["obs/policy"], rows.observation)
        assert th.equal(fields["obs/critic"], rows.privileged_observation)
        assert th.equal(fields["actions"], rows.action)
        assert th.equal(fields["terminated"] | fields["truncated"], rows.done)
        assert th.equal(fields["truncated"], rows.done & rows.timeout)
        bare = fields["rewards"][~fields["truncated"]]  # time-outs are bootstrapped
        assert th.equal(bare, rows.reward[~fields["truncated"]])
    assert th.equal(
        seen[1][0]["episode_starts"][1:], (seen[1][0]["terminated"] | seen[1][0]["truncated"])[:-1]
    )
    last = seen[0][0]
    assert th.equal(seen[1][0]["episode_starts"][0], (last["terminated"] | last["truncated"])[-1])


def test_log_probs_are_those_of_the_recorded_actions(tmp_path: Path) -> None:
    model, seen = make(demonstrate(tmp_path), learning_rate=0.0), []
    model.learn(T * 4, callback=Rollouts(seen))
    fields = seen[0][0]
    obs = {g: fields[f"obs/{g}"].flatten(0, 1) for g in model.policy.groups}
    with th.no_grad():
        _, log_probs, _ = model.policy.evaluate_actions(obs, fields["actions"].flatten(0, 1))
    assert th.allclose(log_probs, fields["log_probs"].flatten(), atol=1e-5)


def test_a_recorded_teacher_is_the_label_and_what_was_done_is_executed(tmp_path: Path) -> None:
    model, seen = make(demonstrate(tmp_path, label=True)), []
    model.learn(T * 4, callback=Rollouts(seen))
    fields = seen[0][0]
    assert th.allclose(fields["teacher/actions"], fields["actions"] * 0.5)
    assert fields["actions"].abs().max() > 0.5


def test_the_student_learns_what_was_demonstrated(tmp_path: Path) -> None:
    model = make(demonstrate(tmp_path, steps=100, expert=True), learning_rate=1e-2, using_ppo=False)
    model.pretrain_iterations = -1
    model.learn(T * 4, log_interval=None)
    first = model.logger.name_to_value["distill/loss"]
    model.learn(60 * T * 4, log_interval=None)
    assert model.logger.name_to_value["distill/loss"] < 0.2 * first
    assert model.env.n_steps == 0


def test_what_is_logged(tmp_path: Path) -> None:
    model = make(demonstrate(tmp_path), Watched(max_episode_length=12))
    model.learn(2 * T * 4, log_interval=None)
    logged = model.logger.name_to_value
    assert logged["dataset/ep_len_mean"] == 9
    assert {"dataset/reward_mean", "dataset/ep_rew_mean"} <= set(logged)
    assert logged["dataset/iteration"] == 2
    assert not model.ep_info_buffer  # the student has not finished an episode
    model.learn(2 * T * 4, reset_num_timesteps=False, log_interval=None)
    assert max(episode["l"] for episode in model.ep_info_buffer) == 12  # none began in the dataset


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
def test_memory_begins_with_zeros_in_the_environment(tmp_path: Path, policy: str) -> None:
    env = Watched(max_episode_length=1000)
    model = make(demonstrate(tmp_path), env, policy=policy, teacher=trained(policy))
    seen: list[Any] = []
    original = model.policy.actor_pass

    def spy(obs: Any, state: Any = None, *args: Any, **options: Any) -> Any:
        if args[:1] == (None,):
            seen.append(
                [v.clone() for v in th.utils._pytree.tree_leaves(tuple(state)) if v is not None]
            )
        return original(obs, state, *args, **options)

    model.policy.actor_pass = spy
    model.learn(3 * T * 4)
    steps = [leaves for leaves in seen if leaves and leaves[0].shape[1] == 4]
    assert any(leaf.abs().sum() > 0 for leaf in steps[2 * T - 1])
    assert all((leaf == 0).all() for leaf in steps[2 * T])


def test_nothing_of_the_dataset_is_remembered_after_the_switch(tmp_path: Path) -> None:
    model = make(demonstrate(tmp_path), policy="MlpGruPolicy")
    model.learn(2 * T * 4)
    assert any(leaf.abs().sum() > 0 for leaf in leaves(model.collector.state.actor))
    model._step_source()
    state = model.collector.state
    assert all((leaf == 0).all() for part in (state.actor, state.critic) for leaf in leaves(part))
    assert model.is_pretrained


def test_a_dataset_that_ends_early_hands_over_with_a_warning(tmp_path: Path) -> None:
    dataset = RolloutDataset(demonstrate(tmp_path, steps=T + 1), 4, device="cpu")
    model, seen = make(dataset, pretrain_iterations=5), []
    with pytest.warns(UserWarning, match=r"no further 8 steps .* after 1 iterations"):
        model.learn(3 * T * 4, callback=Rollouts(seen))
    assert [steps for _, steps in seen] == [0, T, 2 * T]
    assert seen[1][0]["episode_starts"][0].all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(T * 4, reset_num_timesteps=False)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpGruPolicy"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, at: int, policy: str) -> None:
    folder, source = demonstrate(tmp_path / "data"), trained()
    options = {"policy": policy, "teacher": source, "teacher_act_prob": 0.5}
    whole = make(folder, **options)
    whole.learn(4 * T * 4)
    part = make(folder, **options)
    part.learn(at * T * 4)
    part.save(tmp_path / "m.zip")
    again = TPPO.load(tmp_path / "m.zip", Watched(), teacher=source, pretrain_dataset=folder)
    again.learn((4 - at) * T * 4, reset_num_timesteps=False)
    assert again.env.n_steps == (4 - max(2, at)) * T
    for name, value in whole.policy.state_dict().items():
        assert th.equal(value, again.policy.state_dict()[name]), name


class Forgetful(Watched):
    """Cannot tell its state, as environments of Gymnasium."""

    def get_state(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:TPPO. the file holds no state for this environment")
@pytest.mark.parametrize("using_ppo", [True, False])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpGruPolicy"])
def test_the_place_in_the_dataset_does_not_need_the_environment(
    tmp_path: Path, policy: str, using_ppo: bool
) -> None:
    folder, source = demonstrate(tmp_path / "data"), trained()
    options = {"policy": policy, "using_ppo": using_ppo, "pretrain_iterations": 4}
    whole = make(folder, Forgetful(), teacher=source, **options)
    whole.learn(4 * T * 4)
    part = make(folder, Forgetful(), teacher=source, **options)
    part.learn(2 * T * 4)
    part.save(tmp_path / "m.zip")
    again = TPPO.load(tmp_path / "m.zip", Forgetful(), teacher=source, pretrain_dataset=folder)
    again.learn(2 * T * 4, reset_num_timesteps=False)
    assert again.env.n_steps == 0
    for name, value in whole.policy.state_dict().items():
        assert th.equal(value, again.policy.state_dict()[name]), name


def test_a_model_is_loaded_without_its_demonstrations(tmp_path: Path) -> None:
    source = trained()
    model = make(demonstrate(tmp_path / "data"), teacher=source).learn(T * 4)
    model.save(tmp_path / "m.zip")
    loaded = TPPO.load(tmp_path / "m.zip", Watched(), teacher=source)
    with pytest.raises(
        StrlValueError, match=r"loaded without its demonstrations.*pretrain_dataset="
    ):
        loaded.learn(T * 4, reset_num_timesteps=False)
    model.learn(T * 4, reset_num_timesteps=False)
    model.save(tmp_path / "m.zip")  # the first stage is over: nobody needs them
    TPPO.load(tmp_path / "m.zip", Watched(), teacher=source).learn(T * 4, reset_num_timesteps=False)


def test_no_teacher_is_needed_if_the_environment_is_never_entered(tmp_path: Path) -> None:
    folder = demonstrate(tmp_path)
    make(folder, teacher=None, pretrain_iterations=-1).learn(T * 4)
    with pytest.raises(StrlTypeError, match="there is no teacher"):
        make(folder, teacher=None, pretrain_iterations=3)


def test_other_objectives_learn_from_the_recording(tmp_path: Path) -> None:
    folder = demonstrate(tmp_path / "all")
    amp = make(folder, algorithm=ATPPO, policy="AmpPolicy")
    amp.learn(3 * T * 4)
    assert amp.env.n_steps == T
    partial = demonstrate(tmp_path / "part", groups=("policy", "critic"))
    with pytest.raises(StrlKeyError, match=r"no observation group 'ref_motion'.*It holds"):
        make(partial, algorithm=ATPPO, policy="AmpPolicy").learn(T * 4)
    estimating = make(
        partial,
        algorithm=EstimatorTPPO,
        policy="EstimatorPolicy",
        policy_kwargs={
            "net_arch": [8],
            "estimator": {"obs_components": ["pos", "vel"], "target_components": ["mass"]},
        },
    )
    estimating.learn(3 * T * 4)
    assert estimating.env.n_steps == T


def test_numbers_and_bridged_environments(tmp_path: Path) -> None:
    from gymnasium import spaces

    env = DiscreteToy(spaces.Discrete(3), 4)
    folder = demonstrate(tmp_path / "discrete", DiscreteToy(spaces.Discrete(3), 4))
    model = make(folder, env, teacher=None, pretrain_iterations=-1, distill_target="max_log_prob")
    model.learn(2 * T * 4)
    assert as_tensor_env(env) is env


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pretrain_dataset": None}, StrlTypeError, "there are no demonstrations"),
        ({"pretrain_iterations": 0}, StrlValueError, "pretrain_iterations is 0"),
        ({"pretrain_dataset": "nowhere"}, StrlValueError, r"there is no folder \['nowhere'\]"),
        ({"pretrain_dataset": 3}, StrlTypeError, "pretrain_dataset is 3"),
        ({"distill_target": "kl"}, StrlValueError, "'kl' compares distributions"),
    ],
)
def test_options_that_cannot_work(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**{"dataset": demonstrate(tmp_path), **_named(options)})


def _named(options: dict[str, Any]) -> dict[str, Any]:
    return {("dataset" if k == "pretrain_dataset" else k): v for k, v in options.items()}


def test_datasets_that_do_not_fit(tmp_path: Path) -> None:
    folder = demonstrate(tmp_path / "a")
    with pytest.raises(StrlValueError, match=r"plays 3 environments\. Expected 4"):
        make(RolloutDataset(folder, 3, device="cpu")).learn(T * 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StrlValueError, match="holds 0 trajectories"):
        make(tmp_path / "empty").learn(T * 4)
    other = demonstrate(tmp_path / "b", CounterEnv(4, with_critic=True))
    with pytest.raises(StrlValueError, match=r"'policy' was recorded with shape \(3,\)"):
        make(other).learn(T * 4)
