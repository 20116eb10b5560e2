"""Where steps come from: tensor environments, bridges to other interfaces, embedded tasks."""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_strl.envs.checker import check_tensor_env
from sb3_strl.envs.lazy import LazyArray, LazyInfos
from sb3_strl.envs.make_vec import make_vec
from sb3_strl.envs.numpy_bridge import NumpyBridge, as_tensor_env
from sb3_strl.envs.registration import register_gym_ids, register_tensor_env
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

if TYPE_CHECKING:
    from sb3_strl.envs.brax import BraxVecEnv
    from sb3_strl.envs.envpool import EnvPoolVecEnv
    from sb3_strl.envs.genesis import GenesisVecEnv
    from sb3_strl.envs.gymnasium_vector import GymnasiumVecEnv
    from sb3_strl.envs.isaaclab import IsaacLabVecEnv
    from sb3_strl.envs.maniskill import ManiSkillVecEnv
    from sb3_strl.envs.mjlab import MjlabVecEnv
    from sb3_strl.envs.rsl_rl import RslRlVecEnv

_ADAPTERS = {
    "BraxVecEnv": "brax",
    "EnvPoolVecEnv": "envpool",
    "GenesisVecEnv": "genesis",
    "GymnasiumVecEnv": "gymnasium_vector",
    "IsaacLabVecEnv": "isaaclab",
    "ManiSkillVecEnv": "maniskill",
    "MjlabVecEnv": "mjlab",
    "RslRlVecEnv": "rsl_rl",
}

__all__ = [
    "BraxVecEnv",
    "EnvPoolVecEnv",
    "GenesisVecEnv",
    "GymnasiumVecEnv",
    "IsaacLabVecEnv",
    "LazyArray",
    "LazyInfos",
    "ManiSkillVecEnv",
    "MjlabVecEnv",
    "NumpyBridge",
    "RslRlVecEnv",
    "TensorVecEnv",
    "as_tensor_env",
    "check_tensor_env",
    "make_vec",
    "register_gym_ids",
    "register_tensor_env",
]


def __getattr__(name: str) -> Any:
    """Import an adapter when somebody asks for it."""
    if name in _ADAPTERS:
        return getattr(importlib.import_module(f"sb3_strl.envs.{_ADAPTERS[name]}"), name)
    raise AttributeError(f"module 'sb3_strl.envs' has no attribute '{name}'")
