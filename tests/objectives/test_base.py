"""The hooks that every objective has."""

import torch as th

from sb3_strl import PPO
from sb3_strl.objectives import Objective, RewardTerm
from tests.envs.toy import PointMass


class Shaped(Objective):
    """Shapes the reward and nothing else."""

    def reward_term(self, buffer) -> RewardTerm:
        return RewardTerm(1.0, th.zeros_like(buffer["rewards"]))


def test_an_objective_without_hooks_changes_nothing() -> None:
    class Idle(PPO):
        def _make_objectives(self) -> list[Objective]:
            return [Objective("idle")]

    models = [cls("MlpPolicy", PointMass(4), n_steps=8, seed=0) for cls in (PPO, Idle)]
    for model in models:
        model.learn(64)
    pairs = zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True)
    assert all(th.equal(a, b) for a, b in pairs)


def test_active_hooks_are_named() -> None:
    assert Objective("idle").describe() == ("idle", "-", "")
    assert Shaped("shaped").describe() == ("shaped", "-", "reward_term")


def test_hooks_of_a_parent_count() -> None:
    class Child(Shaped):
        """Inherits its only hook."""

    assert Child("child").describe()[2] == "reward_term"
