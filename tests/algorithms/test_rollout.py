"""The loop seen from outside: callbacks, learn, episode statistics."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)

from sb3_strl import APPO, PPO
from tests.envs.toy import CounterEnv, NanEnv, PointMass

SMALL = {"net_arch": [8]}


def make(env=None, **options) -> PPO:
    options = {"n_steps": 8, "policy_kwargs": SMALL, "seed": 0, **options}
    return PPO("MlpPolicy", env or PointMass(4), **options)


class Recorder(BaseCallback):
    """Read what user callbacks read."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple] = []

    def _on_step(self) -> bool:
        rewards = np.asarray(self.locals["rewards"])
        dones = np.asarray(self.locals["dones"])
        infos = self.locals["infos"]
        new_obs = self.locals["new_obs"]["policy"]
        self.rows.append((rewards, dones, [dict(info) for info in infos], np.asarray(new_obs)))
        return True


def test_callbacks_read_rewards_dones_infos_and_observations() -> None:
    """Environment i of the counter ends every 3 + i steps and rewards i + step / 100."""
    recorder = Recorder()
    make(CounterEnv(3)).learn(8 * 3, callback=recorder)
    rewards, dones, infos, obs = recorder.rows[2]
    assert np.allclose(rewards, [0.03, 1.03, 2.03])
    assert dones.tolist() == [True, False, False]
    assert obs.tolist() == [[0, 1, 0], [1, 0, 3], [2, 0, 3]]
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"]["policy"].tolist() == [0, 0, 3]
    assert infos[0]["episode"]["l"] == 3
    assert infos[0]["episode"]["r"] == pytest.approx(0.06, abs=1e-5)
    assert "terminal_observation" not in infos[1]
    assert not recorder.rows[3][2][1]["TimeLimit.truncated"]  # environment 1 terminates


def test_the_buffer_holds_what_the_environment_said() -> None:
    model = make(CounterEnv(3))
    model.learn(8 * 3)
    buffer = model.rollout_buffer
    obs = buffer["obs/policy"]
    assert obs[:, 0, 2].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert buffer["episode_starts"][:, 0].int().tolist() == [1, 0, 0, 1, 0, 0, 1, 0]
    assert buffer["truncated"][:, 0].int().tolist() == [0, 0, 1, 0, 0, 1, 0, 0]
    assert buffer["terminated"][:, 1].int().tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    model.learn(8 * 3, reset_num_timesteps=False)
    assert buffer["obs/policy"][0, 0].tolist() == [0, 2, 2]  # goes on where it was
    assert not buffer["episode_starts"][0, 0]


def test_learn_twice_counts_on_or_anew() -> None:
    model = make()
    model.learn(32)
    model.learn(32, reset_num_timesteps=False)
    assert (model.num_timesteps, model.n_iterations) == (64, 2)
    model.learn(32)
    assert (model.num_timesteps, model.n_iterations) == (32, 1)


def test_checkpoints(tmp_path) -> None:
    model = make()
    model.learn(64, callback=CheckpointCallback(8, str(tmp_path), "m"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m_32_steps.zip", "m_64_steps.zip"]
    assert PPO.load(tmp_path / "m_32_steps.zip").num_timesteps == 32


@pytest.mark.filterwarnings("ignore:Training and eval env")
def test_evaluation_and_reward_threshold(tmp_path) -> None:
    stop = StopTrainingOnRewardThreshold(-1e9)
    callback = EvalCallback(
        PointMass(2, seed=1),
        callback_on_new_best=stop,
        n_eval_episodes=2,
        eval_freq=8,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    model = make()
    model.learn(10_000, callback=callback)
    assert model.num_timesteps == 32
    assert (tmp_path / "best_model.zip").exists()
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 2)


def test_max_episodes() -> None:
    """Episodes of the counter end at steps 3, 4, 5, 6, 8, 9: the sixth (2 x 3) at step nine."""
    model = make(CounterEnv(3))
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(2))
    assert model.num_timesteps == 27


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("tqdm")
    model = make()
    model.learn(64, progress_bar=False)
    assert "/64" not in capsys.readouterr().out
    model.learn(64, progress_bar=True)
    assert f"{model.num_timesteps}/64" in capsys.readouterr().out


def test_logs_reach_a_file(tmp_path) -> None:
    from stable_baselines3.common.logger import configure

    model = make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4 * 8 * 4)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    for key in (
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "time/fps",
        "env/distance",
        "train/loss",
        "train/policy_gradient_loss",
        "train/value_loss",
        "train/entropy_loss",
        "train/approx_kl",
        "train/clip_fraction",
        "train/explained_variance",
        "train/std",
        "train/learning_rate",
        "train/clip_range",
    ):
        assert key in header


def test_episode_statistics() -> None:
    model = make(CounterEnv(3))
    model.learn(8 * 3)
    lengths = sorted(episode["l"] for episode in model.ep_info_buffer)
    assert lengths == [3, 3, 4, 4, 5]


def test_actions_are_stored_as_sampled_and_clipped_for_the_environment() -> None:
    seen: list[th.Tensor] = []

    class Spy(PointMass):
        def step_tensor(self, actions):
            seen.append(actions.clone())
            return super().step_tensor(actions)

    model = make(Spy(4), policy_kwargs={**SMALL, "init_noise_std": 5.0})
    model.learn(32)
    stored = model.rollout_buffer["actions"]
    assert stored.abs().max() > 1.0
    assert th.equal(th.stack(seen), stored.clamp(-1.0, 1.0))


def test_all_environments_done_at_the_last_step() -> None:
    model = make(PointMass(4, max_episode_length=8), gamma=0.9)
    model.learn(32)
    buffer = model.rollout_buffer
    assert buffer["truncated"][-1].all()
    # the bootstrap is in the reward, and nothing of the next episode is
    assert th.allclose(buffer["returns"][-1], buffer["rewards"][-1], atol=1e-5)
    model.learn(32, reset_num_timesteps=False)
    assert buffer["episode_starts"][0].all()


def test_statistics_move_after_the_update_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(policy_kwargs={**SMALL, "empirical_normalization": True})
    normalizer = model.policy.actor_reader.normalizer
    before, epoch = normalizer.mean.clone(), model._train_epoch
    frozen = []

    def check(buffer) -> bool:
        completed = epoch(buffer)
        frozen.append(th.equal(normalizer.mean, before))
        return completed

    monkeypatch.setattr(model, "_train_epoch", check)
    model.learn(32)
    assert frozen == [True] * 5
    raw = model.rollout_buffer["obs/policy"].flatten(0, 1)
    assert th.allclose(normalizer.mean.flatten(), raw.mean(0), atol=1e-5)


@pytest.mark.parametrize("key", ["rewards", "critic", "policy"])
def test_not_a_number_is_found_in_every_place(key: str) -> None:
    model = make(NanEnv(4, bad_key=key, bad_env=1))
    with pytest.raises(ValueError, match=rf"{key}' in environments \[1\]"):
        model.learn(64)
    assert model.n_iterations == 0


def test_not_a_number_in_style_features() -> None:
    env = NanEnv(4, bad_key="ref_obs", bad_env=3)
    model = APPO("AmpPolicy", env, n_steps=8, policy_kwargs=SMALL)
    with pytest.raises(ValueError, match=r"amp/features' in environments \[3\]"):
        model.learn(64)


def test_only_the_first_environments_are_named() -> None:
    class AllBad(PointMass):
        def step_tensor(self, actions):
            step = super().step_tensor(actions)
            step.rewards.fill_(float("inf"))
            return step

    with pytest.raises(ValueError, match=r"\[0, 1, 2, 3, 4, 5, 6, 7\] and 12 more"):
        make(AllBad(20)).learn(160)


@pytest.mark.filterwarnings("ignore")
def test_huge_but_finite_numbers_pass() -> None:
    class Huge(PointMass):
        def step_tensor(self, actions):
            step = super().step_tensor(actions)
            step.obs["policy"][:, -1] = 3e38
            return step

    model = make(Huge(4), policy_kwargs={"net_arch": []})
    _, callback = model._setup_learn(32)
    with th.no_grad():
        for net in (model.policy.actor, model.policy.critic):
            for parameter in net.parameters():
                parameter.zero_()
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)


def test_spaces_of_discrete_observations_train() -> None:
    import gymnasium as gym

    class Corridor(gym.Env):
        observation_space, action_space = spaces.Discrete(5), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = 0
            return self.place, {}

        def step(self, action):
            self.place = min(4, max(0, self.place + (1 if action else -1)))
            return self.place, float(self.place == 4), self.place == 4, False, {}

    model = make(Corridor(), n_steps=64)
    model.learn(256)
    assert model.rollout_buffer["obs/policy"].dtype == th.int64
    assert model.predict(np.array(3))[0] in (0, 1)


def test_the_bar_counts_the_steps_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            shown.append(total)

        def update(self, n: int) -> None:
            shown.append(n)

    monkeypatch.setattr("stable_baselines3.common.callbacks.tqdm", Bar)
    monkeypatch.setattr("sb3_strl.common.distributed.world_size", lambda: 3)
    seen: list[int] = []
    model = make()
    callback = model._init_callback(lambda values, names: seen.append(1) or True, True)
    callback.on_training_start({"total_timesteps": 96}, {})
    callback.update_locals({})
    callback.on_step()
    assert shown == [96, model.n_envs * 3]
    assert seen == [1]
