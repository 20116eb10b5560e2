"""Where steps come from: tensor environments, bridges to other interfaces, embedded tasks."""

from sb3_strl.envs.checker import check_tensor_env
from sb3_strl.envs.lazy import LazyArray, LazyInfos
from sb3_strl.envs.make_vec import make_vec
from sb3_strl.envs.numpy_bridge import NumpyBridge, as_tensor_env
from sb3_strl.envs.registration import register_gym_ids, register_tensor_env
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

__all__ = [
    "LazyArray",
    "LazyInfos",
    "NumpyBridge",
    "TensorVecEnv",
    "as_tensor_env",
    "check_tensor_env",
    "make_vec",
    "register_gym_ids",
    "register_tensor_env",
]
