"""The report of memory counts what is there, once."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import APPO, PPO, TPPO
from sb3_strl.algorithms.memory_use import describe_memory, gpu_memory_mb, memory_report
from tests.envs.toy import PointMass

SMALL = {"net_arch": [8, 8]}


def make(algorithm: type[PPO] = PPO, alias: str = "MlpPolicy", **options: Any) -> PPO:
    kwargs = {**SMALL, **({"rnn": {"hidden_size": 8}} if "Lstm" in alias else {})}
    return algorithm(alias, PointMass(4), n_steps=6, seed=0, policy_kwargs=kwargs, **options)


def size(*shape: int, width: int = 4) -> int:
    return th.Size(shape).numel() * width


def test_the_rollout_counts_every_field_once() -> None:
    model = make()
    buffer = model.rollout_buffer
    fields = sum(buffer[name].numel() * buffer[name].element_size() for name in buffer.fields)
    assert memory_report(model)["rollout buffer"] == fields
    model.learn(24)
    final = memory_report(model)["final observations"]
    assert final == size(6, 4, 9)


@pytest.mark.parametrize("mode", ["none", "last_value"])
def test_final_observations_that_nobody_reads_are_not_kept(mode: str) -> None:
    model = make(timeout_bootstrap=mode)
    model.learn(24)
    assert memory_report(model)["final observations"] == 0
    assert not model.collector.has_final_obs
    student = make(TPPO, teacher=make(), using_ppo=False)
    student.learn(24)
    assert memory_report(student)["final observations"] == 0


def test_hidden_states_are_counted_and_listed_before_anything_ran() -> None:
    model = make(alias="MlpLstmPolicy", sequence_length=3)
    expected = 2 * 2 * size(2, 1, 4, 8)  # actor and critic, (h, c) each, two chunks
    assert memory_report(model)["hidden states"] == expected
    text = str(model)
    for name in ("state/actor/hidden", "state/actor/cell", "state/critic/hidden"):
        assert name in text
    model.learn(24)
    assert memory_report(model)["hidden states"] == expected
    assert "state/" not in str(make())


@pytest.mark.parametrize("optimizer", [None, th.optim.AdamW])
def test_the_optimizer_takes_what_was_foretold(optimizer: Any) -> None:
    kwargs = {} if optimizer is None else {"optimizer_class": optimizer}
    model = PPO("MlpPolicy", PointMass(4), n_steps=6, policy_kwargs={**SMALL, **kwargs})
    before = memory_report(model)
    n_parameters = sum(p.numel() for p in model.policy.parameters())
    assert before["optimizer"] == size(2 * n_parameters)
    assert before["policy"] == before["gradients"] == size(n_parameters)
    model.learn(24)
    assert memory_report(model)["optimizer"] == before["optimizer"]


def test_an_optimizer_without_moments() -> None:
    sgd = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}}
    model = PPO("MlpPolicy", PointMass(4), n_steps=6, policy_kwargs={**SMALL, **sgd})
    assert memory_report(model)["optimizer"] == 0


def test_replay_and_optimizer_of_a_motion_prior() -> None:
    model = make(APPO, "AmpPolicy", amp_replay_size=100)
    report = memory_report(model)
    assert report["amp: replay"] == size(100 + 1, 8)
    discriminator = model.policy.discriminator
    assert discriminator is not None
    learnt = [p for m in (discriminator.trunk, discriminator.head) for p in m.parameters()]
    assert report["amp: optimizer"] == size(2 * sum(p.numel() for p in learnt))


def test_older_rollouts_of_a_student() -> None:
    model = make(TPPO, teacher=make(), buffer_dilation_ratio=2.0)
    model.learn(24)
    fields = model.distillation.queue.latest(12)
    held = sum(value.numel() * value.element_size() for value in fields.values())
    assert memory_report(model)["teacher: older rollouts"] == held > 0


@pytest.mark.parametrize("verbose", [0, 1])
def test_printed_once_after_the_first_update(
    verbose: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then everything is there: the final observations and the older rollouts come late."""
    model = make(TPPO, teacher=make(), buffer_dilation_ratio=2.0, verbose=verbose)
    model.learn(24)
    model.learn(24, reset_num_timesteps=False)
    text = capsys.readouterr().out
    for part in ("rollout buffer", "final observations", "teacher: older rollouts", "optimizer"):
        assert text.count(part) == verbose
    rows = [line.split() for line in describe_memory(model).splitlines()[3:]]
    assert rows[-1][0] == "sum"
    assert float(rows[-1][1]) == pytest.approx(sum(memory_report(model).values()) / 1e6, abs=0.01)


def test_memory_of_a_gpu_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cuda, "max_memory_allocated", lambda _: 7_000_000)
    assert gpu_memory_mb(th.device("cuda")) == 7.0
    assert gpu_memory_mb(th.device("cpu")) is None
    model = make()
    model.learn(24, log_interval=None)
    assert "perf/gpu_memory_mb" not in model.logger.name_to_value
    monkeypatch.setattr("sb3_strl.algorithms.base.gpu_memory_mb", lambda _: 7.0)
    model.learn(24, log_interval=None)
    assert model.logger.name_to_value["perf/gpu_memory_mb"] == 7.0
