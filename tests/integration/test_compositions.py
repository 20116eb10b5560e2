"""Every composition of teacher, motion prior and estimation trains, saves, loads and resumes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_strl import (
    APPO,
    ATPPO,
    PPO,
    TPPO,
    EstimatorAPPO,
    EstimatorATPPO,
    EstimatorPPO,
    EstimatorTPPO,
)
from sb3_strl.algorithms.minibatch import evaluate_batch
from sb3_strl.algorithms.rollout import RolloutCollector
from sb3_strl.objectives import Objective
from tests.envs.robot import RobotToy
from tests.host_sync import no_host_sync
from tests.integration.test_matrix import KWARGS
from tests.integration.test_resume import content, differences

pytestmark = pytest.mark.integration

N_ENVS, N_STEPS = 4, 6
ROLLOUT = N_ENVS * N_STEPS
ALGORITHMS: dict[type[PPO], tuple[bool, bool, bool]] = {  # teacher, motion prior, estimation
    PPO: (False, False, False),
    TPPO: (True, False, False),
    APPO: (False, True, False),
    ATPPO: (True, True, False),
    EstimatorPPO: (False, False, True),
    EstimatorTPPO: (True, False, True),
    EstimatorAPPO: (False, True, True),
    EstimatorATPPO: (True, True, True),
}
OTHERS = ("Visual", "Encoder")


def aliases(algorithm: type[PPO]) -> list[tuple[tuple[str, ...], str]]:
    """Return all compositions of parts that an algorithm can train."""
    _, amp, estimates = ALGORITHMS[algorithm]
    parts = [("Privilege", "Estimator"), ("Estimator",), ("Privilege",)] if estimates else [()]
    words = [
        (*other, *part, *(("Amp",) if amp else ()))
        for size in range(3)
        for other in itertools.combinations(OTHERS, size)
        for part in parts
    ]
    return [(word, rnn) for word in words for rnn in ("", "Lstm", "Gru")]


CASES = [(a, words, rnn) for a in ALGORITHMS if a not in (PPO, APPO) for words, rnn in aliases(a)]
NAMES = [f"{a.__name__}-{''.join(w) or 'Mlp'}{r}Policy" for a, w, r in CASES]


@pytest.fixture(scope="module")
def teacher() -> PPO:
    kwargs = {"net_arch": [6], "empirical_normalization": True, "rnn": {"hidden_size": 5}}
    groups = {"actor": ["critic"]}
    return PPO(
        "MlpGruPolicy",
        RobotToy(N_ENVS),
        n_steps=N_STEPS,
        seed=5,
        policy_kwargs={**kwargs, "obs_groups": groups},
    ).learn(ROLLOUT)


def make(
    algorithm: type[PPO], words: tuple[str, ...], rnn: str, teacher: PPO, **options: Any
) -> PPO:
    kwargs: dict[str, Any] = {"net_arch": [8], "empirical_normalization": True}
    for word in words:
        kwargs.update(KWARGS[word])
    if rnn:
        kwargs["rnn"] = {"hidden_size": 7}
    settings: dict[str, Any] = {"n_steps": N_STEPS, "n_epochs": 1, "n_minibatches": 2, "seed": 3}
    if ALGORITHMS[algorithm][0]:
        settings.update(teacher=teacher, teacher_act_prob=0.5, distill_target="mse_sum")
    if ALGORITHMS[algorithm][1]:
        settings.update(amp_replay_size=20, discriminator_batch_size=5)
    alias = f"{''.join(words) or 'Mlp'}{rnn}Policy"
    env = RobotToy(N_ENVS, termination_prob=0.1)
    return algorithm(alias, env, policy_kwargs=kwargs, **{**settings, **options})


class RatioCheck(BaseCallback):
    """Compares the policy with itself at the end of every rollout."""

    gap = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        assert isinstance(model, PPO)
        buffer, policy = model.rollout_buffer, model.policy
        batch = next(iter(buffer.get_sequences(1) if policy.is_recurrent else buffer.get()))
        with th.no_grad():
            out = evaluate_batch(policy, batch, with_values=True)
            log_prob = policy.action_head.log_prob(out.params, batch.actions)
        self.gap = max(self.gap, float((log_prob - batch.old_log_prob).abs().max()))


@pytest.mark.parametrize(("algorithm", "words", "rnn"), CASES, ids=NAMES)
def test_trains_all_parts_with_ratio_one(
    algorithm: type[PPO], words: tuple[str, ...], rnn: str, teacher: PPO, tmp_path: Path
) -> None:
    model = make(algorithm, words, rnn, teacher)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    check = RatioCheck()
    model.learn(2 * ROLLOUT, callback=check)
    assert check.gap < 1e-5
    for name, parameter in model.policy.named_parameters():
        assert not th.equal(parameter, before[name]), f"{name} does not learn"
        assert th.isfinite(parameter).all(), name
    teaches, amp, estimates = ALGORITHMS[algorithm]
    logged = set(model.logger.name_to_value)
    assert ("distill/loss" in logged) == teaches
    assert ("amp/discriminator_loss" in logged) == amp
    assert bool({"estimator/loss", "adaptor/loss"} & logged) == estimates
    if teaches:
        buffer = model.rollout_buffer
        driven = ~buffer["on_policy"]
        assert th.equal(buffer["actions"][driven], buffer["teacher/actions"][driven])
    model.save(tmp_path / "model.zip")
    obs = RobotToy(N_ENVS).reset()
    loaded = algorithm.load(tmp_path / "model.zip")
    assert np.array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


FULLEST = {
    algorithm: max((words for a, words, _ in CASES if a is algorithm), key=len)
    for algorithm in dict.fromkeys(case[0] for case in CASES)
}
RESUMED = [
    case
    for case in CASES
    if case[1] in (("Estimator", "Amp"), ("Estimator",), ("Amp",), (), FULLEST[case[0]])
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("algorithm", "words", "rnn"), RESUMED, ids=[NAMES[CASES.index(c)] for c in RESUMED]
)
def test_saved_loaded_and_resumed_equals_uninterrupted(
    algorithm: type[PPO], words: tuple[str, ...], rnn: str, teacher: PPO, tmp_path: Path
) -> None:
    options: dict[str, Any] = {}
    if ALGORITHMS[algorithm][0]:
        options["buffer_dilation_ratio"] = 1.5
        if rnn:
            options["hidden_state_resample_prob"] = 0.5
    model = make(algorithm, words, rnn, teacher, **options)
    model.learn(2 * ROLLOUT)
    model.save(tmp_path / "half.zip")
    obs = RobotToy(N_ENVS).reset()
    half = model.predict(obs, deterministic=True)[0]
    model.learn(2 * ROLLOUT, reset_num_timesteps=False)
    model.save(tmp_path / "whole.zip")
    assert np.array_equal(
        algorithm.load(tmp_path / "half").predict(obs, deterministic=True)[0], half
    )
    given: dict[str, Any] = {"teacher": teacher} if ALGORITHMS[algorithm][0] else {}
    env = RobotToy(N_ENVS, termination_prob=0.1, seed=99)
    resumed = algorithm.load(tmp_path / "half.zip", env=env, **given)
    resumed.learn(2 * ROLLOUT, reset_num_timesteps=False)
    resumed.save(tmp_path / "resumed.zip")
    whole, other = content(tmp_path / "whole.zip"), content(tmp_path / "resumed.zip")
    assert differences(whole, other) == []
    if ALGORITHMS[algorithm][0]:
        assert "distillation.queue.pth" in whole
        point = whole["training_state.pth"]["point"]["objectives"]["teacher"]
        assert point["use_teacher"].dtype == th.bool
        assert len(point["memory"]) == 2


@pytest.mark.parametrize("rnn", ["", "Gru", "Lstm"])
@pytest.mark.parametrize("algorithm", FULLEST, ids=lambda algorithm: algorithm.__name__)
def test_steps_and_minibatches_never_wait_for_the_device(
    algorithm: type[PPO], rnn: str, teacher: PPO, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(algorithm, FULLEST[algorithm], rnn, teacher, schedule="adaptive")
    model.learn(ROLLOUT)
    watched = []

    def watch(function: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            watched.append(function.__name__)
            with no_host_sync():
                return function(*args)

        return wrapper

    monkeypatch.setattr(RolloutCollector, "act", watch(RolloutCollector.act))
    monkeypatch.setattr(RolloutCollector, "step", watch(RolloutCollector.step))
    monkeypatch.setattr(PPO, "_minibatch", watch(PPO._minibatch))
    for objective in model.objectives:
        monkeypatch.setattr(objective, "on_step", watch(objective.on_step))
    model.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert {"act", "step", "on_step", "_minibatch"} == set(watched)


TAUGHT = [algorithm for algorithm, (teaches, *_) in ALGORITHMS.items() if teaches]


@pytest.mark.parametrize("algorithm", TAUGHT, ids=lambda algorithm: algorithm.__name__)
def test_labels_are_the_teachers_whoever_acts(algorithm: type[PPO]) -> None:
    env = RobotToy(N_ENVS)
    groups = {"actor": ["critic"]}
    source = PPO("MlpPolicy", env, n_steps=8, policy_kwargs={"obs_groups": groups}, seed=5)
    model = make(algorithm, FULLEST[algorithm], "", source.learn(64))
    model.learn(ROLLOUT)
    buffer = model.rollout_buffer
    obs = {group: value.flatten(0, 1) for group, value in buffer.obs().items()}
    labels = buffer["teacher/actions"].flatten(0, 1)
    assert th.allclose(labels, source.policy.act(obs)[0], atol=1e-6)
    own = buffer["on_policy"].flatten()
    assert own.any()
    assert not (labels == buffer["actions"].flatten(0, 1))[own].any()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_objectives_changes_nothing(order: tuple[int, ...], teacher: PPO) -> None:
    class Permuted(EstimatorATPPO):
        def _make_objectives(self) -> list[Objective]:
            made = super()._make_objectives()
            return [made[i] for i in order]

    ALGORITHMS[Permuted] = (True, True, True)
    weights = []
    for algorithm in (EstimatorATPPO, Permuted):
        # The teacher draws numbers in the rollout and the prior in the update, never both at once.
        model = make(algorithm, ("Estimator", "Amp"), "", teacher, amp_replay_size=0)
        model.learn(3 * ROLLOUT)
        weights.append(th.cat([p.flatten() for p in model.policy.parameters()]))
    assert th.allclose(*weights, atol=1e-6)


def test_both_losses_fall(teacher: PPO) -> None:
    words: tuple[str, ...] = ("Estimator",)
    options: dict[str, Any] = {"n_epochs": 4, "learning_rate": 3e-3, "n_steps": 32}
    model = make(EstimatorTPPO, words, "", teacher, **options)
    model.learn(128 * 2, log_interval=None)
    first = dict(model.logger.name_to_value)
    model.learn(128 * 20, reset_num_timesteps=False, log_interval=None)
    last = model.logger.name_to_value
    assert last["distill/loss"] < 0.5 * first["distill/loss"]
    assert last["estimator/loss"] < first["estimator/loss"]


def test_dagger_with_estimators_and_a_prior(teacher: PPO) -> None:
    model = make(EstimatorATPPO, ("Estimator", "Amp"), "Gru", teacher, using_ppo=False)
    before = {n: p.clone() for n, p in model.policy.named_parameters()}
    model.learn(2 * ROLLOUT)
    for name, parameter in model.policy.named_parameters():
        rests = name.startswith("critic") or "std_param" in name
        assert th.equal(parameter, before[name]) == rests, name


def test_a_policy_that_imitation_trained_teaches() -> None:
    bc = pytest.importorskip("imitation.algorithms.bc")
    types = pytest.importorskip("imitation.data.types")
    env, rng = RobotToy(64), np.random.default_rng(0)
    space = env.observation_space["critic"]  # type: ignore[index]
    obs = np.concatenate([RobotToy(64, seed=seed).reset()["critic"] for seed in range(8)])
    acts = np.clip(2.0 * obs[:, :2] - obs[:, 3:5], -1.0, 1.0).astype(np.float32)
    infos, ends = np.array([{}] * len(obs)), np.zeros(len(obs), bool)
    demonstrations = types.Transitions(obs=obs, acts=acts, infos=infos, next_obs=obs, dones=ends)
    trainer = bc.BC(
        observation_space=space,
        action_space=env.action_space,
        rng=rng,
        demonstrations=demonstrations,
        device="cpu",
    )
    trainer.train(n_epochs=4, progress_bar=False)
    model = make(TPPO, (), "", trainer.policy, using_ppo=False)
    state = RobotToy(5, seed=77).reset_tensor()
    expected, _ = trainer.policy.predict(state["critic"].numpy(), deterministic=True)
    labels = model.distillation.label(state)  # type: ignore[attr-defined]
    assert np.allclose(labels.clamp(-1, 1).detach(), expected, atol=1e-6)
    model.learn(ROLLOUT, log_interval=None)
    first = model.logger.name_to_value["distill/l1distance"]
    model.learn(40 * ROLLOUT, reset_num_timesteps=False, log_interval=None)
    assert model.logger.name_to_value["distill/l1distance"] < first
