"""What Stable-Baselines3's algorithms and ours, which are such, are driven by."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks.learners import common

FOREVER = 2**40


class OnPolicyPeer:
    """
    An on-policy algorithm, driven as its ``learn`` drives it, without the dump of the logger.

    :param model: the algorithm
    """

    model: OnPolicyAlgorithm
    callback: BaseCallback

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model = model
        _, self.callback = model._setup_learn(FOREVER, None)
        self.callback.on_training_start({}, {})

    def collect(self) -> None:
        """Collect one rollout."""
        model = self.model
        assert model.env is not None
        with common.distribution_checks(enabled=True):
            model.collect_rollouts(model.env, self.callback, model.rollout_buffer, model.n_steps)

    def update(self) -> None:
        """Run every epoch over the rollout."""
        with common.distribution_checks(enabled=True):
            self.model.train()

    def n_parameters(self) -> int:
        """Count the trainable numbers."""
        return common.count_parameters(self.model.policy.parameters())

    def storage_bytes(self) -> int:
        """Count the bytes of the rollout buffer."""
        return common.count_bytes(vars(self.model.rollout_buffer))
