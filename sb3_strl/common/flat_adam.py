"""Adam on one tensor instead of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch as th

from sb3_strl.common import distributed

_ALIGNMENT = 16
"""Numbers from the start of one parameter to that of the next, or a multiple. There are matrix
products (MKL's on AMD) that round otherwise where memory does not begin at a multiple of 16 bytes;
like this parameters compute the same in this layout and by themselves."""
_UNSUPPORTED = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")


def _aligned(count: int) -> int:
    return count + -count % _ALIGNMENT


class _FlatGroup:
    """
    One parameter group whose values, gradients, moments and step count lie in five flat tensors.

    The parameters and the optimizer's state become views of them, so that modules, checkpoints and
    whoever reads ``optimizer.state`` see what :class:`torch.optim.Adam` would show. Between them
    are zeros, which stay zeros.
    """

    def __init__(self, parameters: Sequence[th.Tensor], state: dict[th.Tensor, Any]) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        size = sum(_aligned(parameter.numel()) for parameter in parameters)
        # Not rows of one: a file of the parameters would hold all four.
        flats = (first.new_zeros(size) for _ in range(4))
        self.values, self.gradient, self.mean, self.variance = flats
        old_step = state[first]["step"] if state[first] else 0.0
        self.step = th.as_tensor(old_step, dtype=th.float32, device=first.device).clone()
        values, self._gradients, means, variances = (
            self._views(flat) for flat in (self.values, self.gradient, self.mean, self.variance)
        )
        for parameter, value, mean, variance in zip(
            parameters, values, means, variances, strict=True
        ):
            if state[parameter]:
                mean.copy_(state[parameter]["exp_avg"])
                variance.copy_(state[parameter]["exp_avg_sq"])
            parameter.data = value.copy_(parameter.data)
            state[parameter] = {"step": self.step, "exp_avg": mean, "exp_avg_sq": variance}
        self._state = [state[parameter] for parameter in parameters]
        self._last_pointer = self.parameters[-1].data_ptr()

    def _views(self, flat: th.Tensor) -> list[th.Tensor]:
        """Return one view of a flat tensor for each parameter."""
        views, start = [], 0
        for parameter in self.parameters:
            views.append(flat[start : start + parameter.numel()].view_as(parameter))
            start += _aligned(parameter.numel())
        return views

    def take(self, gradients: list[th.Tensor]) -> th.Tensor:
        """Return the flat tensor of gradients, filled with these."""
        th._foreach_copy_(self._gradients, gradients)
        return self.gradient

    def is_current(self, state: dict[th.Tensor, Any]) -> bool:
        """Tell whether parameters and state are still the views that were made here."""
        first, last = self.parameters[0], self.parameters[-1]
        return (
            first.data_ptr() == self.values.data_ptr()
            and last.data_ptr() == self._last_pointer
            and state[first] is self._state[0]
            and state[last] is self._state[-1]
        )


class FlatAdam(th.optim.Adam):
    r"""
    :class:`torch.optim.Adam` (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) for many small
    tensors.

    A small network spends more time in the bookkeeping of its optimizer than in its layers. Here
    all parameters of a group are views of one tensor, so a step costs the same few operations
    however many there are. Results, state and checkpoints are Adam's; where this does not fit (a
    parameter without gradient, mixed dtypes, an option such as ``amsgrad``) Adam itself steps.

    :param params: as in Adam
    :param kwargs: as in Adam
    """

    def __init__(self, params: Any, **kwargs: Any) -> None:
        self._flat: dict[int, _FlatGroup] = {}
        super().__init__(params, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._flat = {}

    def __getstate__(self) -> dict[str, Any]:
        self._part()
        return super().__getstate__()

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state; see :class:`torch.optim.Optimizer`."""
        self._part()
        return super().state_dict()

    def _gradients(self, group: dict[str, Any]) -> list[th.Tensor] | None:
        """Return the gradients of a group, or ``None`` if Adam itself must step it."""
        gradients = [parameter.grad for parameter in group["params"]]
        if any(gradient is None for gradient in gradients):
            return None
        if any(group[option] for option in _UNSUPPORTED if option in group) or not group["fused"]:
            return None
        return cast("list[th.Tensor]", gradients)

    def _flat_group(self, index: int, group: dict[str, Any]) -> _FlatGroup | None:
        """Return the flat tensors of a group, made anew if something replaced its views."""
        flat = self._flat.get(index)
        if flat is None or not flat.is_current(self.state):
            parameters = group["params"]
            kinds = {(p.dtype, p.device) for p in parameters}
            steps = {float(self.state[p]["step"]) for p in parameters if self.state[p]}
            started = sum(bool(self.state[p]) for p in parameters)
            if len(kinds) != 1 or len(steps) > 1 or started not in (0, len(parameters)):
                return None
            flat = self._flat[index] = _FlatGroup(parameters, self.state)
        return flat if len(flat.parameters) == len(group["params"]) else None

    def _part(self) -> None:
        """Give every parameter a step count of its own again, so that Adam can skip some."""
        for flat in self._flat.values():
            for parameter in flat.parameters:
                self.state[parameter]["step"] = flat.step.clone()
        self._flat = {}

    @th.no_grad()
    def clip_and_step(self, max_norm: float) -> None:
        """
        Average the gradients over the processes, scale them to a global L2 norm of at most
        ``max_norm`` and step.

        ``.grad`` keeps the gradients as they were.
        """
        self._opt_called = True  # what learning-rate schedulers look for
        flats = []
        for index, group in enumerate(self.param_groups):
            gradients = self._gradients(group)
            flat = None if gradients is None else self._flat_group(index, group)
            if gradients is None or flat is None:
                self._clip_and_step_each(max_norm)
                return
            flats.append((flat, flat.take(gradients), group))
        for _, gradient, _ in flats:
            distributed.mean_(gradient)
        norm = th.linalg.vector_norm(flats[0][1])
        if len(flats) > 1:
            norm = th.linalg.vector_norm(
                th.stack([norm, *(th.linalg.vector_norm(gradient) for _, gradient, _ in flats[1:])])
            )
        scale = (max_norm / norm.add_(1e-6)).clamp_(max=1.0)
        for flat, gradient, group in flats:
            self._step_flat(flat, gradient.mul_(scale), group)

    def _clip_and_step_each(self, max_norm: float) -> None:
        self._part()
        parameters = [p for group in self.param_groups for p in group["params"]]
        distributed.mean_gradients_(parameters)
        clip_gradients(parameters, max_norm)
        super().step()

    @staticmethod
    def _step_flat(flat: _FlatGroup, gradient: th.Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        flat.step.add_(1.0)
        th._fused_adam_(
            [flat.values],
            [gradient],
            [flat.mean],
            [flat.variance],
            [],
            [flat.step],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step with the gradients as they are; see :class:`torch.optim.Adam`."""
        self._part()
        return super().step(closure)


@th.no_grad()
def clip_gradients(parameters: Sequence[th.Tensor], max_norm: float) -> th.Tensor:
    """
    Scale all gradients so that their global L2 norm is at most ``max_norm``.

    :param parameters: parameters without a gradient are skipped
    :param max_norm: bound on the norm
    :return: the norm before, a 0-d tensor
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: th.Tensor = th.linalg.vector_norm(th.stack(th._foreach_norm(grads)))
    th._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm
