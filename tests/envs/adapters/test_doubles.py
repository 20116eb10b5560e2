"""What every adapter promises, on doubles of the simulators."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import TensorVecEnv, check_tensor_env
from tests.envs.adapters.doubles import (
    FIRST_LENGTH,
    Genesis,
    GenesisScene,
    IsaacLab,
    LeggedGym,
    ManiSkill,
    Mjlab,
    N,
    RslRl2,
)
from tests.host_sync import no_host_sync


def as_of(module: str, double: type) -> Any:
    """Return a double that looks as if it came from the simulator."""
    return type(double.__name__, (double,), {"__module__": module})


ISAAC = as_of("isaaclab.envs.manager_based_rl_env", IsaacLab)
OLD_ISAAC = as_of("omni.isaac.lab.envs.rl_task_env", IsaacLab)
MJLAB = as_of("mjlab.envs.manager_based_rl_env", Mjlab)
MANISKILL = as_of("mani_skill.vector.wrappers.gymnasium", ManiSkill)

Maker = Callable[[], Any]
CASES: dict[str, tuple[Maker, str, bool]] = {
    "isaaclab": (ISAAC, "IsaacLabVecEnv", False),
    "isaaclab, keeping": (lambda: ISAAC(keeps_final=True), "IsaacLabVecEnv", True),
    "isaaclab 1": (OLD_ISAAC, "IsaacLabVecEnv", False),
    "mjlab": (MJLAB, "MjlabVecEnv", True),
    "maniskill": (MANISKILL, "ManiSkillVecEnv", True),
    "genesis": (Genesis, "GenesisVecEnv", False),
    "old genesis": (lambda: Genesis(is_old=True), "GenesisVecEnv", False),
    "legged_gym": (LeggedGym, "RslRlVecEnv", False),
    "rsl_rl 2": (RslRl2, "RslRlVecEnv", False),
    "st_rl": (lambda: RslRl2(has_more=True), "RslRlVecEnv", False),
}
OPTIONS = {"st_rl": {"zero_step": True}}


@pytest.fixture(autouse=True)
def scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenesisScene, "__module__", "genesis.engine.scene")


@pytest.fixture(params=CASES, name="case")
def make_case(request: pytest.FixtureRequest) -> tuple[Any, TensorVecEnv, bool]:
    maker, name, keeps = CASES[request.param]
    sim = maker()
    env = make_vec(sim, **OPTIONS.get(request.param, {}))
    assert type(env).__name__ == name
    return sim, env, keeps


Case = tuple[Any, TensorVecEnv, bool]


def zeros() -> th.Tensor:
    return th.zeros(N, 2)


def test_every_step_is_a_step_of_one_episode(case: Case) -> None:
    _, env, keeps = case
    before = env.reset_tensor()["policy"].clone()
    for _ in range(25):
        step = env.step_tensor(zeros())
        now = step.obs["policy"]
        dones = step.terminated | step.truncated
        length = FIRST_LENGTH + before[:, 0]
        assert th.equal(dones, before[:, 2] + 1 >= length)
        assert th.equal(step.terminated, dones & (before[:, 0] % 2 == 1))
        assert th.equal(step.truncated, dones & (before[:, 0] % 2 == 0))
        assert th.allclose(step.rewards, before[:, 0] + (before[:, 2] + 1) / 100)
        assert th.equal(now[:, 1], before[:, 1] + dones)
        assert th.equal(now[:, 2], (before[:, 2] + 1) * ~dones)
        if keeps or not dones.any():
            assert step.final_obs is None or set(step.final_obs) == set(step.obs)
        if keeps:
            assert step.final_obs is not None
            last = step.final_obs["policy"][dones]
            assert th.equal(last[:, 1], before[dones, 1])
            assert th.equal(last[:, 2], before[dones, 2] + 1)
        elif dones.any():
            assert step.final_obs is None
        before = now.clone()


def test_types(case: Case) -> None:
    _, env, _ = case
    env.reset_tensor()
    for _ in range(4):
        step = env.step_tensor(zeros())
        assert step.rewards.dtype == th.float32
        assert step.terminated.dtype == step.truncated.dtype == th.bool
        assert all(v.dtype in (th.float32, th.uint8) for v in step.obs.values())


def test_the_simulator_overwrites_only_its_own(case: Case) -> None:
    _, env, _ = case
    first = env.reset_tensor()
    kept: list[tuple[Any, Any]] = [(first, {k: v.clone() for k, v in first.items()})]
    for _ in range(6):
        step = env.step_tensor(zeros())
        tensors = {**step.obs, "r": step.rewards, "t": step.terminated, "c": step.truncated}
        tensors |= {f"final {k}": v for k, v in (step.final_obs or {}).items()}
        tensors |= step.extras["log"]
        kept.append((tensors, {k: v.clone() for k, v in tensors.items()}))
    for now, then in kept:
        for name, value in then.items():
            assert th.equal(now[name], value), name


def test_promises(case: Case) -> None:
    _, env, _ = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most cannot be seeded
        check_tensor_env(env, n_steps=12, seeding=False)


def test_nothing_of_the_simulator_enters_a_gradient(case: Case) -> None:
    _, env, _ = case
    env.reset_tensor()
    step = env.step_tensor(th.zeros(N, 2, requires_grad=True))
    weight = th.ones(step.obs["policy"].shape[-1], requires_grad=True)
    (step.obs["policy"] @ weight).sum().backward()  # inference tensors would refuse
    assert weight.grad is not None


def test_actions_arrive(case: Case) -> None:
    sim, env, _ = case
    env.reset_tensor()
    actions = th.rand(N, 2)
    env.step_tensor(actions)
    assert th.equal(sim.actions[-1], actions)


def test_closes_once(case: Case) -> None:
    sim, env, _ = case
    env.close()
    env.close()
    assert sim.is_closed


def test_attributes_and_methods_of_the_simulator(case: Case) -> None:
    sim, env, _ = case
    assert env.env_method("set_level", 2.0, indices=[0, 1]) == [4.0, 4.0]
    assert env.get_attr("level") == [2.0] * N
    env.set_attr("level", 3.0)
    assert sim.level == 3.0
    assert "level" not in vars(env)
    with pytest.raises(StrlValueError, match="for some environments only"):
        env.set_attr("level", 1.0, indices=[0])
    with pytest.raises(AttributeError):
        env.get_attr("no_such_thing")
    assert env.has_attr("num_envs")


@pytest.mark.parametrize("name", [name for name in CASES if name != "maniskill"])
def test_step_counter_of_curricula(name: str) -> None:
    sim = CASES[name][0]()
    env = make_vec(sim, **OPTIONS.get(name, {}))
    env.reset_tensor()
    for _ in range(3):
        env.step_tensor(zeros())
    assert env.get_attr("common_step_counter")[0] == sim.common_step_counter >= 3
    env.set_attr("common_step_counter", 5000)
    assert sim.common_step_counter == 5000


def test_no_step_counter() -> None:
    env = make_vec(MANISKILL())
    with pytest.raises(StrlValueError, match=r"cannot be set to 7. Expected a simulator with"):
        env.set_attr("common_step_counter", 7)
    assert env.get_attr("table") == ["round"] * N  # behind the wrapper


def test_random_lengths_reach_the_simulator(case: Case) -> None:
    sim, env, _ = case
    env.reset_tensor()
    assert env.max_episode_length == FIRST_LENGTH + N
    env.randomize_episode_lengths(th.Generator().manual_seed(1))
    wanted = th.empty(N).random_(0, FIRST_LENGTH + N, generator=th.Generator().manual_seed(1))
    assert th.equal(sim.episode_length_buf.float(), wanted)


@pytest.mark.integration
def test_training(case: Case) -> None:
    _, env, _ = case
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(2 * 16 * N)
    assert model.num_timesteps == 2 * 16 * N
    assert all(info["l"] >= FIRST_LENGTH - 1 for info in model.ep_info_buffer or [])


def logged(env: TensorVecEnv, key: str, n_steps: int) -> list[float | None]:
    env.reset_tensor()
    logs = [env.step_tensor(zeros()).extras["log"] for _ in range(n_steps)]
    return [float(log[key]) if key in log else None for log in logs]


def test_logs_are_read_when_they_are_new() -> None:
    # Environments end in steps 3, 4, 5, 6 (first and, for environment 0, again), ...
    assert logged(make_vec(ISAAC()), "Episode_Reward/height", 7) == [None, None, 1, 1, 1, 2, None]
    found = logged(make_vec(LeggedGym()), "episode/rew_height", 7)
    assert found == [None, 3, 4, 5, 6, None, 8]  # its reset takes a step
    assert logged(make_vec(MJLAB()), "Metrics/force", 3) == [1.0, 1.0, 1.0]
    assert logged(make_vec(MJLAB()), "Episode/count", 4) == [None, None, 1, 1]
    assert logged(make_vec(RslRl2()), "height", 2) == [0.5, 0.5]


def test_logs_of_genesis_hold_until_somebody_finishes() -> None:
    assert logged(make_vec(Genesis()), "episode/rew_height", 8) == [0, 0, 3, 4, 5, 6, 6, 8]


def test_tensors_written_in_place_are_new() -> None:
    sim = RslRl2()
    value, log = th.zeros(()), {}
    log["x"] = value
    step = sim.step

    def stepped(actions: th.Tensor) -> Any:
        obs, rewards, dones, extras = step(actions)
        return obs, rewards, dones, {**extras, "log": log}

    def no_groups() -> Any:
        return sim.observe(), {"observations": {}}

    sim.step = stepped  # type: ignore[method-assign]
    sim.get_observations = no_groups  # type: ignore[method-assign]
    env = make_vec(sim, groups={"policy": "policy"})
    env.reset_tensor()
    assert "x" in env.step_tensor(zeros()).extras["log"]
    assert "x" not in env.step_tensor(zeros()).extras["log"]
    value.add_(2)
    assert env.step_tensor(zeros()).extras["log"]["x"].item() == 2.0


def test_metrics_of_finished_episodes_alone() -> None:
    env = make_vec(MANISKILL())
    env.reset_tensor()
    logs = [env.step_tensor(zeros()).extras["log"] for _ in range(4)]
    assert logs[:2] == [{}, {}]
    assert [log["episode/success_once"].item() for log in logs[2:]] == [0.0, 1.0]
    assert logs[3]["episode/return"].item() == pytest.approx(1.04)


# ---------------------------------------------------------------------- names


def test_groups_are_called_alike() -> None:
    groups = {
        name: sorted(make_vec(maker(), **OPTIONS.get(name, {})).reset_tensor())
        for name, (maker, _, _) in CASES.items()
    }
    assert groups == {
        "isaaclab": ["parts/a", "parts/b", "policy"],
        "isaaclab, keeping": ["parts/a", "parts/b", "policy"],
        "isaaclab 1": ["parts/a", "parts/b", "policy"],
        "mjlab": ["critic", "policy"],
        "maniskill": ["policy", "sensor_data/camera/rgb"],
        "genesis": ["policy"],
        "old genesis": ["policy"],
        "legged_gym": ["critic", "policy"],
        "rsl_rl 2": ["critic", "policy"],
        "st_rl": ["critic", "policy", "ref_motion", "ref_obs"],
    }


def test_groups_can_be_chosen() -> None:
    env = make_vec(MJLAB(), groups={"policy": "critic"})
    assert env.reset_tensor()["policy"][:, 0].tolist() == [0, 10, 20, 30]
    assert isinstance(env.observation_space, spaces.Box)
    with pytest.raises(StrlValueError, match=r"no group 'acter'. Did you mean 'actor'\?"):
        make_vec(MJLAB(), groups={"policy": "acter"})


def test_terms_of_managers_are_segments() -> None:
    assert make_vec(ISAAC()).obs_segments == {"policy": {"who": (1,), "when": (2,)}}


def test_images_keep_their_type() -> None:
    space = make_vec(MANISKILL()).observation_space
    assert isinstance(space, spaces.Dict)
    assert space["sensor_data/camera/rgb"] == spaces.Box(0, 255, (8, 8, 3), np.uint8)


def test_unclipped_actions() -> None:
    assert make_vec(ISAAC()).action_space == spaces.Box(-100.0, 100.0, (2,), np.float32)
    assert make_vec(ISAAC(), action_bound=1.0).action_space == spaces.Box(-1, 1, (2,), np.float32)
    assert make_vec(MANISKILL()).action_space == spaces.Box(-1, 1, (2,), np.float32)


# ---------------------------------------------------------------------- single traps


def test_masks_are_passed_on() -> None:
    env = make_vec(RslRl2())
    env.reset_tensor()
    masks = [env.step_tensor(zeros()).extras["amp_valid"] for _ in range(2)]
    assert [mask.tolist() for mask in masks] == [[False] * N, [True] * N]
    assert masks[0].dtype == th.bool


def test_finite_horizons_have_no_time_outs() -> None:
    for sim in (ISAAC(is_finite=True), MJLAB(is_finite=True)):
        env = make_vec(sim)
        env.reset_tensor()
        steps = [env.step_tensor(zeros()) for _ in range(3)]
        assert steps[2].terminated.tolist() == [True, False, False, False]
        assert not steps[2].truncated.any()


def test_missing_time_outs_are_said_once() -> None:
    sim = RslRl2()
    sim.time_out_key = "timeouts"
    env = make_vec(sim)
    env.reset_tensor()
    with pytest.warns(UserWarning, match="extras has no 'time_outs', so every end") as caught:
        steps = [env.step_tensor(zeros()) for _ in range(20)]
    assert len(caught) == 1
    assert not any(bool(step.truncated.any()) for step in steps)
    assert steps[2].terminated.tolist() == [True, False, False, False]


def test_one_reset_is_enough() -> None:
    sim = ISAAC()
    env = make_vec(sim)
    env.reset_tensor()
    assert sim.resets == [None]
    env.seed(3)
    env.reset_tensor()
    env.step_tensor(zeros())
    env.reset_tensor()
    assert sim.resets == [None, 3, None]


def test_a_seed_for_whoever_cannot_be_seeded() -> None:
    env = make_vec(LeggedGym(), seed=4)
    with pytest.warns(UserWarning, match=r"no seed.., so seed=4 only reaches torch's global"):
        env.reset_tensor()
    drawn = th.rand(1)
    th.manual_seed(4)
    assert th.equal(th.rand(1), drawn)


def test_the_own_seed_method() -> None:
    sim, seeds = LeggedGym(), []
    sim.seed = seeds.append  # type: ignore[attr-defined]
    make_vec(sim, seed=4).reset_tensor()
    assert seeds == [4]


def test_mjlab_may_reset_itself() -> None:
    sim = MJLAB()
    env = make_vec(sim, final_obs=False)
    assert sim.cfg.auto_reset
    env.reset_tensor()
    steps = [env.step_tensor(zeros()) for _ in range(3)]
    assert steps[2].final_obs is None
    assert steps[2].truncated.tolist() == [True, False, False, False]


def test_last_observations_of_some_rows() -> None:
    sim = ISAAC()
    env = make_vec(sim, groups={"policy": "policy"})
    env.reset_tensor()
    sim.extras["terminal"] = {
        "env_ids": th.tensor([2, 0]),
        "observations": {"policy": th.tensor([[2.0, 2, 2], [7.0, 7, 7]])},
    }
    final = env.step_tensor(zeros()).final_obs
    assert final is not None
    assert final["policy"][:, 0].tolist() == [7, 1, 2, 3]


def test_several_agents_are_refused() -> None:
    sim = ISAAC()
    sim.possible_agents = ["a", "b"]
    with pytest.raises(StrlTypeError, match=r"has several agents. Expected one"):
        make_vec(sim)


def test_disabled_resets_are_refused() -> None:
    sim = ISAAC()
    sim.cfg.autoreset_mode = "Disabled"
    with pytest.raises(StrlValueError, match=r"autoreset_mode is Disabled. Expected same-step"):
        make_vec(sim)
    sim.cfg.autoreset_mode = "SameStep"
    make_vec(sim)


def test_incomplete_environments_are_refused() -> None:
    sim = ISAAC()
    del sim.cfg
    with pytest.raises(StrlTypeError, match=r"has no \['cfg'\]. Expected a ManagerBasedRLEnv"):
        make_vec(sim)
    half = as_of("rsl_rl.env", type("Half", (), {"num_envs": 2}))
    with pytest.raises(StrlTypeError, match=r"the Half has no .*'num_actions'"):
        make_vec(half())


def test_steps_of_another_family_are_refused() -> None:
    sim = RslRl2()
    env = make_vec(sim)
    env.reset_tensor()
    sim.step = lambda actions: (sim.observe(), sim.rew_buf, sim.rew_buf, sim.rew_buf, {})
    with pytest.raises(StrlTypeError, match=r"returned 5 things. Expected .obs, rewards, dones"):
        env.step_tensor(zeros())


def test_groups_that_come_later_are_not_lost_silently() -> None:
    env = make_vec(RslRl2(has_more=True))
    env.reset_tensor()
    with pytest.raises(StrlValueError, match=r"'ref_obs'\]. Expected .*Pass zero_step=True"):
        env.step_tensor(zeros())


def test_options_are_checked() -> None:
    with pytest.raises(StrlTypeError, match="unknown option 'action_bond'"):
        make_vec(ISAAC(), action_bond=1.0)
    with pytest.raises(StrlValueError, match="n_envs is 9, but the IsaacLabVecEnv has 4"):
        make_vec(ISAAC(), n_envs=9)
    with pytest.raises(
        StrlValueError, match="device is 'meta', but the MjlabVecEnv lives on 'cpu'"
    ):
        make_vec(MJLAB(), device="meta")


def test_drawing() -> None:
    assert len(make_vec(MANISKILL()).get_images()) == N
    with pytest.raises(StrlValueError, match="cannot be drawn"):
        make_vec(ISAAC()).get_images()


def test_recognising_imports_no_simulator() -> None:
    code = (
        "import sys, sb3_strl, sb3_strl.envs as e\n"
        "known = {'isaaclab', 'mjlab', 'brax', 'jax', 'envpool', 'mani_skill', 'genesis', 'rsl_rl',"
        " 'tensordict', 'warp'}\n"
        "names = [e.BraxVecEnv, e.EnvPoolVecEnv, e.GenesisVecEnv, e.IsaacLabVecEnv, e.MjlabVecEnv,"
        " e.ManiSkillVecEnv, e.RslRlVecEnv]\n"
        "assert not known & set(sys.modules), known & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_one_policy_file_fits_all(tmp_path: Any) -> None:
    model = PPO("MlpPolicy", make_vec(MJLAB()), n_steps=8, batch_size=32, n_epochs=1, seed=0)
    model.learn(8 * N)
    model.save(tmp_path / "policy")
    moved = PPO.load(tmp_path / "policy", env=make_vec(RslRl2()))
    obs = {"policy": np.ones((N, 3), np.float32), "critic": np.zeros((N, 3), np.float32)}
    wanted, _ = model.predict(obs, deterministic=True)
    assert np.array_equal(moved.predict(obs, deterministic=True)[0], wanted)
    moved.learn(8 * N)


class Quiet:
    """rsl_rl's and Isaac Lab's interface without a single question to the device."""

    num_envs, num_actions, device, cfg = N, 2, "cpu", SimpleNamespace()
    max_episode_length, render_mode = 10, None
    single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.flags = th.tensor([True, False, True, False])
        self.obs = {"policy": th.ones(N, 3, dtype=th.float64)}
        self.log = {"x": th.ones(()), "y": 2.0}

    def get_observations(self) -> dict[str, th.Tensor]:
        return self.obs

    def reset(self, **options: Any) -> Any:
        return self.obs, {}

    def step(self, actions: th.Tensor) -> Any:
        extras = {"time_outs": self.flags, "log": dict(self.log), "final_obs": self.obs}
        return self.obs, th.ones(N), self.flags.long(), extras


class QuietIsaac(Quiet):
    def step(self, actions: th.Tensor) -> Any:
        obs, rewards, _, extras = super().step(actions)
        return obs, rewards, self.flags, ~self.flags, extras


@pytest.mark.parametrize("sim", [Quiet, as_of("isaaclab.envs", QuietIsaac)])
def test_a_step_waits_for_nothing(sim: Any) -> None:
    env = make_vec(sim())
    env.reset_tensor()
    with no_host_sync():
        for _ in range(2):
            env.step_tensor(zeros())
