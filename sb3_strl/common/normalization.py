"""Running statistics that live on the device and normalise without leaving it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_strl.common import distributed
from sb3_strl.common.errors import NonFiniteError, StrlValueError


class EmpiricalNormalization(nn.Module):
    """
    Normalise with the mean and standard deviation of all data seen: ``(x - mean) / (std + eps)``.

    :meth:`forward` is pure; only :meth:`update` learns, so that statistics stay frozen while a
    rollout is being collected and optimised. Batches are merged with the parallel form of Welford's
    method (Chan et al. 1983), which equals the moments of the concatenated data:
    ``rho = n / count``, ``d = m - mean``, ``mean += rho d``,
    ``var += rho (v - var + d^2 (1 - rho))`` with ``m`` and ``v`` the batch's mean and biased
    variance. No operation waits for the device, whatever the mask or ``until``.

    :param shape: shape of one sample; leading dimensions of the data are samples
    :param eps: added to the standard deviation; it bounds the gain of a constant feature that
        starts to move to ``1 / eps``
    :param until: stop learning once so many samples were seen; ``None``: never
    :param std_floor: smallest standard deviation used; lowers the gain for features that are
        (nearly) constant in the data
    :param on_nonfinite: ``"skip"`` leaves samples with NaN or infinity out of the statistics;
        ``"raise"`` refuses them, which waits for the device, so not in a training loop
    :raises StrlValueError: if an option is out of its range
    """

    mean: th.Tensor
    var: th.Tensor
    std: th.Tensor
    count: th.Tensor
    _gain: th.Tensor

    def __init__(
        self,
        shape: int | Sequence[int],
        eps: float = 1e-2,
        until: int | None = None,
        std_floor: float = 0.0,
        on_nonfinite: str = "skip",
    ) -> None:
        super().__init__()
        if on_nonfinite not in ("skip", "raise"):
            raise StrlValueError(
                f"EmpiricalNormalization: on_nonfinite is '{on_nonfinite}'."
                " Expected one of ['raise', 'skip']."
            )
        if eps < 0.0 or std_floor < 0.0 or eps + std_floor == 0.0:
            raise StrlValueError(
                f"EmpiricalNormalization: eps={eps}, std_floor={std_floor}. Expected neither"
                " negative and at least one positive, or constant features divide by zero."
            )
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps, self.until = eps, until
        self.std_floor, self.on_nonfinite = std_floor, on_nonfinite
        self.register_buffer("mean", th.zeros(self.shape))
        self.register_buffer("var", th.ones(self.shape))
        self.register_buffer("std", th.ones(self.shape))
        self.register_buffer("count", th.zeros((), dtype=th.long))
        # 1 / (std + eps), so that a forward pass is a subtraction and a multiplication.
        self.register_buffer("_gain", th.full(self.shape, 1.0 / (1.0 + eps)), persistent=False)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"{self.shape}, eps={self.eps}, until={self.until}"

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Return ``(x - mean) / (std + eps)``.

        :param x: ``(..., *shape)``
        :return: the same shape
        """
        return (x - self.mean).mul_(self._gain)

    def inverse(self, y: th.Tensor) -> th.Tensor:
        """
        Return ``y (std + eps) + mean``, the data that :meth:`forward` maps to ``y``.

        :param y: ``(..., *shape)``
        :return: the same shape
        """
        return th.addcmul(self.mean, y, self.std + self.eps)

    @th.no_grad()
    def update(self, x: th.Tensor, mask: th.Tensor | None = None) -> None:
        """
        Learn from a batch, with several processes from all their batches; nothing happens in
        evaluation mode.

        :param x: ``(..., *shape)``; all leading dimensions are samples
        :param mask: ``(...,)``, bool, the samples to learn from; ``None``: all
        :raises StrlValueError: if the shape of a sample is another one
        :raises NonFiniteError: if ``on_nonfinite="raise"`` and a sample is NaN or infinite
        """
        if not self.training:
            return
        n_dims = len(self.shape)
        if tuple(x.shape[x.ndim - n_dims :]) != self.shape:
            raise StrlValueError(
                f"EmpiricalNormalization: got data of shape {tuple(x.shape)}."
                f" Expected (..., {', '.join(map(str, self.shape))})."
            )
        rows = x.reshape(-1, self.mean.numel())
        mean, var = self.mean.view(-1), self.var.view(-1)
        offset = rows - mean  # (n, features)
        valid = self._valid_rows(offset, mask).unsqueeze(-1)  # (n, 1)
        if self.until is not None:
            valid = valid & (self.count < self.until)
        n = valid.sum()
        n_safe = n.clamp_min(1)

        # Invalid rows are replaced, not multiplied: zero times NaN is NaN.
        shift = th.where(valid, offset, 0.0).sum(0) / n_safe
        spread = th.where(valid, offset.sub_(shift), 0.0).square_().sum(0) / n_safe
        n, shift, spread = distributed.moments(n, shift, spread)
        self.count += n
        rate = n / self.count.clamp_min(1)  # 0 without valid rows, and then nothing changes
        mean.addcmul_(shift, rate)
        var.lerp_(spread.addcmul_(shift.square(), 1.0 - rate), rate)
        self._refresh()

    def _valid_rows(self, offset: th.Tensor, mask: th.Tensor | None) -> th.Tensor:
        # 0 * x is NaN exactly where x is NaN or infinite.
        finite = offset.mul(0.0).sum(-1) == 0.0
        given = None if mask is None else mask.reshape(-1).bool()
        if self.on_nonfinite == "raise" and not bool(
            (finite if given is None else finite | ~given).all()
        ):
            raise NonFiniteError(
                "EmpiricalNormalization: the data contain NaN or infinity. Expected finite numbers."
                " Mend their source, or pass on_nonfinite='skip' to leave such samples out."
            )
        return finite if given is None else finite & given

    def _refresh(self) -> None:
        th.sqrt(self.var, out=self.std)
        if self.std_floor > 0.0:
            self.std.clamp_min_(self.std_floor)
        self._gain.copy_((self.std + self.eps).reciprocal_())

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("mean", "var", "std"):  # rsl_rl's names, with a leading dimension of one
            theirs = state_dict.get(f"{prefix}_{name}")
            if theirs is not None and isinstance(state_dict, dict):
                state_dict[prefix + name] = state_dict.pop(f"{prefix}_{name}").view(self.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._gain = (self.std + self.eps).reciprocal()


class Normalize(nn.Module):
    """Scale the last dimension to Euclidean length 1; a zero vector stays zero."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Return ``x / |x|``.

        :param x: ``(..., features)``
        :return: the same shape
        """
        return nn.functional.normalize(x, dim=-1)


class RunningMeanStd(nn.Module):
    """
    Running mean and variance with a weak prior, as in SB3 but on the device and in the state dict.

    :param epsilon: how many samples the prior (mean 0, variance 1) counts for
    :param shape: shape of one sample
    :param dtype: precision of the statistics
    """

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(
        self,
        epsilon: float = 1e-4,
        shape: int | Sequence[int] = (),
        dtype: th.dtype = th.float64,
    ) -> None:
        super().__init__()
        size = (shape,) if isinstance(shape, int) else tuple(shape)
        self.register_buffer("mean", th.zeros(size, dtype=dtype))
        self.register_buffer("var", th.ones(size, dtype=dtype))
        self.register_buffer("count", th.tensor(epsilon, dtype=dtype))

    @th.no_grad()
    def update(self, x: th.Tensor | np.ndarray[Any, Any]) -> None:
        """
        Learn from a batch.

        :param x: ``(n, *shape)``
        """
        data = th.as_tensor(x).to(self.mean)
        if data.shape[0] > 0:
            self.update_from_moments(data.mean(0), data.var(0, unbiased=False), data.shape[0])

    @th.no_grad()
    def update_from_moments(
        self, batch_mean: th.Tensor, batch_var: th.Tensor, batch_count: float | th.Tensor
    ) -> None:
        """
        Learn from the moments of a batch.

        :param batch_mean: ``shape``
        :param batch_var: ``shape``, biased
        :param batch_count: number of samples
        """
        total = self.count + batch_count
        rate = batch_count / total
        delta = batch_mean - self.mean
        self.mean += delta * rate
        self.var.lerp_(batch_var + delta.square() * (1.0 - rate), rate)
        self.count.copy_(total)


class Normalizer(RunningMeanStd):
    """
    Normalise and clip: ``clip((x - mean) / sqrt(var + epsilon), -clip_obs, clip_obs)``.

    Normalising is pure; :meth:`update` and :meth:`update_normalizer` learn.

    :param input_dim: width of one sample
    :param epsilon: added to the variance
    :param clip_obs: bound of the result
    """

    def __init__(
        self, input_dim: int | Sequence[int], epsilon: float = 1e-4, clip_obs: float = 10.0
    ) -> None:
        super().__init__(shape=input_dim)
        self.epsilon, self.clip_obs = epsilon, clip_obs

    def normalize(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """
        Normalise an array.

        :param x: ``(..., input_dim)``
        :return: the same shape and type
        """
        mean, var = self.mean.cpu().numpy(), self.var.cpu().numpy()
        scaled = (x - mean) / np.sqrt(var + self.epsilon)
        dtype = x.dtype if np.issubdtype(x.dtype, np.floating) else np.float32
        out: np.ndarray[Any, Any] = np.clip(scaled, -self.clip_obs, self.clip_obs).astype(dtype)
        return out

    def normalize_torch(self, x: th.Tensor, device: th.device | str | None = None) -> th.Tensor:
        """
        Normalise a tensor.

        :param x: ``(..., input_dim)``
        :param device: where the result goes, ``None``: where ``x`` is
        :return: the same shape
        """
        x = x.to(device or x.device)
        mean = self.mean.to(x)
        std = (self.var + self.epsilon).sqrt_().to(x)
        return ((x - mean) / std).clamp_(-self.clip_obs, self.clip_obs)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Normalise a tensor where it is.

        :param x: ``(..., input_dim)``
        :return: the same shape
        """
        return self.normalize_torch(x)

    def update_normalizer(
        self, rollouts: Iterable[th.Tensor], expert_loader: Iterable[th.Tensor]
    ) -> None:
        """
        Learn one statistic of policy and expert together, from pairs of batches stacked.

        :param rollouts: batches of the policy's features, each ``(n, input_dim)``
        :param expert_loader: batches of the expert's features; pairs end with the shorter one
        """
        for policy_batch, expert_batch in zip(rollouts, expert_loader, strict=False):
            self.update(th.vstack((policy_batch, expert_batch)))


class EmpiricalDiscountedVariationNormalization(nn.Module):
    """
    Divide rewards by the running standard deviation of their discounted sum.

    ``R <- gamma R + r``; the result is ``r / std(R)`` once that is positive, else ``r`` (Burda et
    al. 2018, section 2.4, https://arxiv.org/abs/1810.12894). Learns in training mode only.

    :param shape: shape of one sample, ``()`` for rewards ``(n_envs,)``
    :param eps: as in :class:`EmpiricalNormalization`
    :param gamma: discount of the sum, in [0, 1]
    :param until: stop learning once so many samples were seen; ``None``: never
    """

    running: th.Tensor | None

    def __init__(
        self,
        shape: int | Sequence[int] = (),
        eps: float = 1e-2,
        gamma: float = 0.99,
        until: int | None = None,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.emp_norm = EmpiricalNormalization(shape, eps, until)
        self.register_buffer("running", None)

    def forward(self, rewards: th.Tensor, dones: th.Tensor | None = None) -> th.Tensor:
        """
        Normalise the rewards of one step.

        :param rewards: ``(n_envs, *shape)``
        :param dones: ``(n_envs,)``, bool, environments whose episode ended with this step: their
            sum starts anew
        :return: the same shape, never the same storage
        """
        if self.training:
            self._update(rewards.detach(), dones)
        std = self.emp_norm.std
        return rewards / th.where(std > 0.0, std, 1.0)

    @th.no_grad()
    def _update(self, rewards: th.Tensor, dones: th.Tensor | None) -> None:
        total = rewards if self.running is None else self.running * self.gamma + rewards
        self.emp_norm.update(total)
        # A reward that is not finite is skipped once; carried on it would never leave the sum.
        keep = th.isfinite(total)
        if dones is not None:
            keep &= ~dones.reshape(dones.shape + (1,) * (total.ndim - dones.ndim))
        self.running = th.where(keep, total, 0.0)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # The number of environments is only known from the data, so the sum's shape is the file's.
        stored = state_dict.get(prefix + "running")
        self.running = None if stored is None else th.empty_like(stored, device=self._device())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _device(self) -> th.device:
        return self.emp_norm.mean.device
