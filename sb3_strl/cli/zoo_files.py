"""Files with the zoo's hyperparameters: where they lie, and what may stand in them."""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_strl.algorithms import PPO
from sb3_strl.cli.config import check_hyperparameters, known_algorithms, read_yaml
from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known

_FOLDER = "zoo_configs"
_ZOO_KEYS = (
    *("n_timesteps", "n_envs", "policy", "normalize", "frame_stack", "env_wrapper"),
    *("vec_env_wrapper", "callback", "monitor_kwargs", "env_kwargs"),
)


def zoo_algorithms() -> dict[str, type[PPO]]:
    """Return the algorithms by the zoo's name; PPO is ``strl_ppo``, for ``ppo`` is SB3's."""
    return {
        f"strl_{name}" if name == "ppo" else name: cls for name, cls in known_algorithms().items()
    }


def default_config(algo: str) -> str:
    """
    Return the file with an algorithm's hyperparameters.

    :raises StrlValueError: if there is none
    """
    beside = Path(__file__).parents[2]  # a checkout, or the folder of pip install --target
    installed = (sys.prefix, sysconfig.get_path("data"), site.getuserbase(), beside)
    shared = (Path(root) / "share" / "sb3_strl" for root in installed)
    roots = list(dict.fromkeys((Path.cwd(), beside, *shared)))
    for root in roots:
        file = root / _FOLDER / f"{algo}.yml"
        if file.is_file():
            return str(file)
    raise StrlValueError(
        f"strl zoo: there is no {_FOLDER}/{algo}.yml in {[str(root) for root in roots]}. Expected "
        "one. Name a file with --conf-file."
    )


def check_options(where: str, algo: str, options: Mapping[str, Any]) -> None:
    """
    Refuse keys that neither the zoo nor the algorithm knows.

    :param where: who complains
    :param algo: the zoo's name of the algorithm
    :param options: of one task
    :raises StrlTypeError: on an unknown key; the nearest one is named
    """
    algorithm = zoo_algorithms()[algo]
    mine = {key: value for key, value in options.items() if key not in _ZOO_KEYS}
    policy_kwargs = mine.get("policy_kwargs")
    if isinstance(policy_kwargs, str):  # the zoo evaluates it, later
        del mine["policy_kwargs"]
    check_hyperparameters(where, algorithm, mine, _ZOO_KEYS)


def check_teacher(where: str, teacher: Any, env_id: str) -> None:
    """
    Refuse the path of a teacher where nothing lies yet.

    :param where: who complains
    :param teacher: what a configuration says
    :param env_id: the student's environment
    :raises StrlValueError: if it is the path of no file
    """
    path = teacher.get("path") if isinstance(teacher, Mapping) else teacher
    if isinstance(path, str) and not Path(path).is_file():
        parts = Path(path).parts
        algo = next((part for part in parts if part in zoo_algorithms()), "strl_ppo")
        raise StrlValueError(
            f"{where}: the teacher is '{path}', where there is no file. Expected a trained model. "
            f"Train it first, with strl zoo train --algo {algo} --env {env_id}, or name another: "
            """-params teacher:"'runs/teacher/model.zip'"."""
        )


def check_file(path: str | Path, algo: str) -> list[str]:
    """
    Check the hyperparameters of all tasks in a file.

    :param path: yaml in the zoo's format
    :param algo: the zoo's name of the algorithm
    :return: the tasks
    :raises StrlTypeError: on something that is no mapping, and on an unknown key; the nearest one
        is named
    """
    table = read_yaml(path)
    check_known(f"strl zoo {path}", "algorithm", [algo], list(zoo_algorithms()))
    for task, options in table.items():
        if not isinstance(options, dict):
            raise StrlTypeError(
                f"{path}: '{task}' is {options!r}. Expected a mapping of hyperparameters."
            )
        check_options(f"{path}: '{task}'", algo, options)
    return list(table)
