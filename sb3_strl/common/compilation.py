"""``torch.compile`` that gives way: a function runs compiled, or as it is after one warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch as th

from sb3_strl.common.errors import StrlValueError, suggest

P = ParamSpec("P")
R = TypeVar("R")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def compile_mode(given: bool | str, device: th.device, graphs: bool = True) -> str | None:
    """
    Return the mode of ``torch.compile``, ``None`` for no compilation.

    :param given: ``True`` chooses: CUDA graphs (``"reduce-overhead"``) on a GPU where the caller
        can live with outputs that the next call overwrites, ``"default"`` elsewhere
    :param device: where the function computes
    :param graphs: whether the caller can
    :raises StrlValueError: for a mode that does not exist
    """
    if given is False:
        return None
    if given is True:
        return "reduce-overhead" if device.type == "cuda" and graphs else "default"
    if given not in MODES:
        raise StrlValueError(
            f"compile: unknown mode '{given}'.{suggest(given, MODES)} Expected True, False or one "
            f"of {list(MODES)}."
        )
    return given if graphs or given != "reduce-overhead" else "default"


class Compiled(Generic[P, R]):
    """
    A function of tensors, compiled at its first call.

    :param function: what to run
    :param mode: of ``torch.compile``, ``None`` to leave the function as it is
    :param name: for the warning
    :param told: reasons that were given already, shared by the functions of a training: one that
        stops all of them, e.g. a missing compiler, is worth one warning
    """

    def __init__(
        self,
        function: Callable[P, R],
        mode: str | None,
        name: str,
        told: set[str] | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self._told: set[str] = set() if told is None else told
        self._graphs = mode is not None and "default" not in mode and "no-cuda" not in mode
        self._compiled: Callable[P, R] | None = None
        if mode is not None:
            self._compiled = th.compile(function, mode=mode)

    @property
    def is_compiled(self) -> bool:
        """Whether the function runs compiled, as far as is known."""
        return self._compiled is not None

    def uncompiled(self) -> Compiled[P, R]:
        """Return the function as it is."""
        return Compiled(self.function, None, self.name, self._told)

    def attempt(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Run the compiled function; if that fails, warn, give up for good, return ``None``."""
        if self._compiled is None:
            return None
        if self._graphs:
            th.compiler.cudagraph_mark_step_begin()
        try:
            return self._compiled(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (of any compiler)
            self._compiled = None
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
            if reason not in self._told:
                self._told.add(reason)
                warnings.warn(
                    f"compile: {self.name} runs uncompiled from here on, with the same results, "
                    f"and so does whatever fails alike: {reason}",
                    stacklevel=3,
                )
            return None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function."""
        result = self.attempt(*args, **kwargs)
        return self.function(*args, **kwargs) if result is None else result
