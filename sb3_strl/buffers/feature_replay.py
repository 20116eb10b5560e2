"""Replay of the policy's past motion features for the discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch as th

from sb3_strl.common.devices import n_bytes
from sb3_strl.common.errors import StrlKeyError, StrlValueError


class FeatureReplay:
    """
    Ring of feature rows on the device, sampled uniformly with replacement.

    Old samples keep the discriminator from forgetting (Shrivastava et al. 2017, section 2.3,
    https://arxiv.org/abs/1612.07828; Peng et al. 2021, https://arxiv.org/abs/2104.02180). The write
    position and the number of rows stay on the device, and valid rows are packed while they are
    written, so that neither inserting nor sampling waits for the device.

    :param feature_dim: width of a row
    :param buffer_size: rows kept; when it is full the oldest ones are overwritten
    :param device: where the rows live
    :param dtype: their type
    :param seed: seed of the buffer's own generator, which is part of its state; ``None``: random
    :raises StrlValueError: if a size is not positive
    """

    def __init__(
        self,
        feature_dim: int,
        buffer_size: int,
        device: th.device | str = "cpu",
        dtype: th.dtype = th.float32,
        seed: int | None = None,
    ) -> None:
        if feature_dim < 1 or buffer_size < 1:
            raise StrlValueError(
                f"FeatureReplay: feature_dim={feature_dim}, buffer_size={buffer_size}."
                " Expected both positive. Leave replay out instead of giving it no room."
            )
        self.feature_dim, self.buffer_size = feature_dim, buffer_size
        # One row more than is ever sampled: rows that are not valid are written there.
        self._rows = th.zeros(buffer_size + 1, feature_dim, dtype=dtype, device=device)
        self._position = th.zeros((), dtype=th.long, device=device)
        self._count = th.zeros((), dtype=th.long, device=device)
        self._generator = th.Generator(device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._is_untouched = True

    @property
    def device(self) -> th.device:
        """Where the rows live."""
        return self._rows.device

    @property
    def n_bytes(self) -> int:
        """Size of all rows in bytes."""
        return n_bytes([self._rows])

    @property
    def count(self) -> th.Tensor:
        """Number of rows held, a 0-d tensor; it stays 0 if no row inserted so far was valid."""
        return self._count

    @th.no_grad()
    def insert(self, features: th.Tensor, valid: th.Tensor | None = None) -> None:
        """
        Store rows; of more than fit, the newest.

        :param features: ``(n, feature_dim)``, oldest first
        :param valid: ``(n,)``, bool, rows to store; ``None``: all
        :raises StrlValueError: if the shape is another one
        """
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise StrlValueError(
                f"FeatureReplay: got features of shape {tuple(features.shape)}."
                f" Expected (n, {self.feature_dim}). Flatten the leading dimensions."
            )
        if features.shape[0] == 0:
            return
        if valid is None:
            features = features[-self.buffer_size :]
            valid = th.ones(features.shape[0], dtype=th.bool, device=self.device)
        rank = valid.cumsum(0)  # 1 for the first valid row
        n_valid = rank[-1]
        keep = valid & (rank > n_valid - self.buffer_size)
        slot = (self._position + rank - 1) % self.buffer_size
        self._rows[th.where(keep, slot, self.buffer_size)] = features.to(self._rows)
        self._position.add_(n_valid).remainder_(self.buffer_size)
        self._count.add_(n_valid).clamp_max_(self.buffer_size)
        self._is_untouched = False

    @th.no_grad()
    def sample(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        """
        Draw rows uniformly with replacement.

        Zeros come back if rows were inserted but none was valid, which the host cannot know
        without waiting; ``count > 0`` is the mask for that case.

        :param n: number of rows
        :param generator: source of randomness on the buffer's device, ``None``: the buffer's own
        :return: ``(n, feature_dim)``, a copy
        :raises StrlValueError: if nothing was inserted yet
        """
        if self._is_untouched:
            raise StrlValueError(
                "FeatureReplay: cannot sample from an empty buffer."
                " Expected at least one inserted row. Call insert() first."
            )
        # The upper bound lives on the device, so the integers are drawn large and reduced; the
        # remainder favours small indices by less than one in 2**30.
        draws = th.randint(2**62, (n,), generator=generator or self._generator, device=self.device)
        return self._rows[draws % self._count.clamp_min(1)]

    def feed_forward_generator(
        self, n_batches: int, batch_size: int, generator: th.Generator | None = None
    ) -> Iterator[th.Tensor]:
        """
        Draw several batches.

        :param n_batches: number of batches
        :param batch_size: rows of each
        :param generator: as in :meth:`sample`
        :return: iterator over ``(batch_size, feature_dim)``
        :raises StrlValueError: if nothing was inserted yet
        """
        return (self.sample(batch_size, generator) for _ in range(n_batches))

    def state_dict(self) -> dict[str, th.Tensor]:
        """Return everything that later inserts and samples depend on, copies."""
        return {
            "rows": self._rows[:-1].clone(),
            "position": self._position.clone(),
            "count": self._count.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, th.Tensor], strict: bool = True) -> None:
        """
        Continue from a saved state.

        :param state: what :meth:`state_dict` returned
        :param strict: without effect, here for SB3, which passes it to everything it loads
        :raises StrlKeyError: if an entry is missing
        :raises StrlValueError: if the rows have another shape
        """
        del strict
        missing = sorted({"rows", "position", "count", "generator"} - set(state))
        if missing:
            raise StrlKeyError(
                f"FeatureReplay: the state lacks {missing}. Expected the result of state_dict()."
                " Save the buffer anew."
            )
        expected = (self.buffer_size, self.feature_dim)
        if tuple(state["rows"].shape) != expected:
            raise StrlValueError(
                f"FeatureReplay: the saved rows have shape {tuple(state['rows'].shape)}."
                f" Expected {expected}. Build the buffer with the sizes it was saved with."
            )
        self._rows[:-1].copy_(state["rows"])
        self._position.copy_(state["position"])
        self._count.copy_(state["count"])
        self._generator.set_state(state["generator"].cpu())
        self._is_untouched = bool(self._count == 0)


AmpReplayBuffer = FeatureReplay
"""The name under which the reference knows it."""
