"""
Every block of code in README and docs runs, page by page.

The Python blocks and the ``strl`` commands of a page run in an empty folder, one after another; the
Python blocks share their names. A training of more than ``MAX_STEPS`` steps is cut to two rollouts.
A block that must not run has a comment above it that says why: ``<!-- not run: a reason -->``.
Other commands (``pip``, ``make``, ``python``, ``torchrun``) are parsed: their files, options and
targets must be there.
"""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_strl import PPO, make_vec
from sb3_strl.cli.main import build_parser, main
from tests.docs.pages import LANGUAGES, ROOT, SHELLS, Block, blocks, pages
from tests.integration.zoo_tools import restore_zoo

MAX_STEPS = 4096
Names = dict[str, Any]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runnable(page: Path) -> list[Block]:
    kinds = ("python", *SHELLS)
    found = [b for b in blocks(page) if b.language in kinds and b.reason is None]
    return [b for b in found if b.language == "python" or any(strl_commands(b))]


def lines_of(block: Block) -> list[str]:
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def strl_commands(block: Block) -> list[list[str]]:
    found = [shlex.split(line, comments=True) for line in lines_of(block)]
    return [words[1:] for words in found if words[0] == "strl"]


PAGES = [page for page in pages() if runnable(page)]
NEEDS = {
    "docs/guide/callbacks.md": ("optuna",),
    "docs/guide/datasets.md": ("pyarrow", "matplotlib"),
    "docs/guide/command_line.md": (
        *("onnx", "onnxruntime", "tqdm"),
        *("rl_zoo3", "optuna", "pandas", "requests"),
    ),
    "docs/guide/export.md": ("onnx", "onnxruntime"),
    "docs/guide/imitation.md": ("imitation", "pyarrow", "datasets", "tqdm", "tensorboard"),
    "docs/guide/teacher_student.md": ("rl_zoo3", "requests"),
}

# ---------------------------------------------------------------- what a page may take as given


def a_repository(names: Names) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "x", "--allow-empty"], check=True)


def a_simulator(names: Names) -> None:
    names["thing"] = gym.make_vec("Pendulum-v1", num_envs=4)


def a_walk(names: Names) -> None:
    small = ["--n-envs", "4", "--steps", "96", "--quiet"]
    assert main(["train", "--config", "examples/walk.yml", *small, "--out", "runs/walk"]) == 0


def a_walk_and_one_behind_vec_normalize(names: Names) -> None:
    a_walk(names)
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    model = PPO("MlpPolicy", env, n_steps=8, n_minibatches=1).learn(8)
    model.save("logs/strl_ppo/ENV_1/ENV")
    Path("logs/strl_ppo/ENV_1/ENV").mkdir()
    env.save("logs/strl_ppo/ENV_1/ENV/vecnormalize.pkl")


def a_run_of_st_rl(names: Names) -> None:
    config: dict[str, Any] = {
        "num_steps_per_env": 8, "max_iterations": 3, "num_envs": 16,
        "policy": {
            "class_name": "ActorCritic", "actor_hidden_dims": [7], "critic_hidden_dims": [6],
            "activation": "elu",
        },
        "algorithm": {"class_name": "PPO", "num_mini_batches": 4},
    }  # fmt: skip
    env = make_vec("sb3_strl/Walker-v0", 2)
    state = {"std": th.ones(6)}
    for name, group, widths in (("actor", "policy", (7, 6)), ("critic", "critic", (6, 1))):
        width = env.observation_space[group].shape[0]
        for layer, out in zip((0, 2), widths, strict=True):
            state[f"{name}.{layer}.weight"] = 0.1 * th.randn(out, width)
            state[f"{name}.{layer}.bias"] = th.zeros(out)
            width = out
    Path("logs/walk/params").mkdir(parents=True)
    for path in ("logs/walk/params/agent.yaml", "agent.yaml"):
        Path(path).write_text(yaml.safe_dump(config))
    th.save({"model_state_dict": state, "iter": 2, "optimizer_state_dict": {}}, "model_1000.pt")


def three_skills(names: Names) -> None:
    env = make_vec("sb3_strl/Walker-v0", 4, seed=0)
    model = PPO("MlpPolicy", env, n_steps=4, policy_kwargs={"net_arch": [8]})
    Path("runs/fast").mkdir(parents=True)
    Path("runs/fast/config.json").write_text("{}")
    for path in ("stand.zip", "walk.zip"):
        model.policy.save(path)
    model.save("runs/fast/model_100_steps.zip")
    names.update(obs=env.reset(), state=None, episode_start=None)


GIVEN: dict[str, Callable[[Names], None]] = {
    "docs/guide/callbacks.md": a_repository,
    "docs/guide/export.md": a_walk_and_one_behind_vec_normalize,
    "docs/guide/migration.md": a_run_of_st_rl,
    "docs/guide/mutex.md": three_skills,
    "docs/guide/simulators.md": a_simulator,
}

# ---------------------------------------------------------------- what a page promises


def callbacks_left_their_files(names: Names) -> None:
    assert Path("best/best_model.zip").exists()
    assert Path("closest/evaluations.npz").exists()
    found = sorted(path.name for path in Path("checkpoints").iterdir())
    assert found == ["model_2.zip", "model_4.zip"]
    assert len(list(Path("logs/git").iterdir())) == 2


def commands_left_their_files(names: Names) -> None:
    for path in ("walk.gif", "robot/model.onnx", "runs/walk/model.zip", "runs/walk-more/model.zip"):
        assert Path(path).stat().st_size > 1000, path
    assert Path("logs/appo/sb3_strl-Walker-v0_1/sb3_strl-Walker-v0.zip").is_file()


def datasets_are_what_they_should_be(names: Names) -> None:
    assert names["recorder"].total_episodes >= 20
    assert names["collector"].student is not None
    assert names["model"].is_pretrained
    assert len(list(Path("back").glob("trajectory_*"))) == 32
    assert Path("walk.png").is_file()
    assert names["report"].passed, str(names["report"])


def the_robot_is_told_where_to_go(names: Names) -> None:
    assert names["joint_targets"].shape == (6,)
    assert max(parity.max_error for parity in names["report"].parities) <= 1e-5


def imitators_imitate(names: Names) -> None:
    obs, acts = names["demos"][0].obs[:-1], names["demos"][0].acts
    for learner in ("cloning", "student"):
        played = names[learner].policy.predict(obs, deterministic=True)[0]
        assert (played == acts).mean() > 0.7, learner
    assert names["source"].sample_features(256).shape == (256, 4)


def a_configuration_became_a_model(names: Names) -> None:
    assert names["model"].n_iterations == 1
    assert type(names["model"].policy).__name__ == "MlpGruPolicy"
    assert "algorithm.clip_param" in str(names["migration"].report)


def the_student_went_on(names: Names) -> None:
    assert len(names["report"].copied) > 10
    assert not names["report"].skipped
    assert not names["report"].unused


PROMISED: dict[str, Callable[[Names], None]] = {
    "docs/guide/callbacks.md": callbacks_left_their_files,
    "docs/guide/command_line.md": commands_left_their_files,
    "docs/guide/datasets.md": datasets_are_what_they_should_be,
    "docs/guide/export.md": the_robot_is_told_where_to_go,
    "docs/guide/imitation.md": imitators_imitate,
    "docs/guide/migration.md": a_configuration_became_a_model,
    "docs/guide/teacher_student.md": the_student_went_on,
}

# ---------------------------------------------------------------- Python


@pytest.fixture
def _short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = PPO.learn

    def briefly(self: PPO, total_timesteps: int, *args: Any, **options: Any) -> PPO:
        short = 2 * self.n_steps * self.n_envs
        return learn(
            self, total_timesteps if total_timesteps <= MAX_STEPS else short, *args, **options
        )

    monkeypatch.setattr(PPO, "learn", briefly)


@pytest.mark.integration
@pytest.mark.usefixtures("_short_trainings")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("mujoco", *NEEDS.get(name_of(page), ())):
        pytest.importorskip(package)
    if "rl_zoo3" in NEEDS.get(name_of(page), ()):
        restore_zoo(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    names: Names = {"__name__": "page"}
    GIVEN.get(name_of(page), lambda names: None)(names)
    for block in runnable(page):
        if block.language in SHELLS:
            run_commands(block)
            continue
        code = "\n" * block.line + block.text  # so that a traceback names the line of the page
        exec(compile(code, str(page), "exec"), names)
    PROMISED.get(name_of(page), lambda names: None)(names)


def run_commands(block: Block) -> None:
    for words in strl_commands(block):
        few = ["--n-trials", "1", "-n", "100"] if "-optimize" in words else []
        assert main([*words, *few]) == 0, f"{block}: {words}"


def test_blocks_that_do_not_run_say_why() -> None:
    found = [block for page in pages() for block in blocks(page) if block.reason is not None]
    assert [str(block) for block in found if len(block.reason or "") < 10] == []


def test_a_marked_block_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a robot of flesh -->\n\n```python\nboom\n```\n\n"
        "```python\nfine = 1\n```\n"
        "<!-- a remark -->\n```python\nfine = 2\n```\n<!-- not run: -->\n```python\nboom\n```\n"
    )
    assert [block.reason for block in blocks(page)] == ["needs a robot of flesh", None, None, ""]
    assert [block.text for block in runnable(page)] == ["fine = 1", "fine = 2"]


def test_tables_of_this_module_name_pages_that_exist() -> None:
    assert {*NEEDS, *GIVEN, *PROMISED} <= {name_of(page) for page in PAGES}


def test_languages_are_those_that_are_looked_at() -> None:
    odd = [(str(b), b.language) for p in pages() for b in blocks(p) if b.language not in LANGUAGES]
    assert odd == []


# ---------------------------------------------------------------- commands


def commands() -> Iterator[tuple[Block, str]]:
    for page in pages():
        for block in blocks(page):
            if block.language in SHELLS and block.reason is None:
                yield from ((block, line) for line in lines_of(block))


def is_parsed_by_strl(arguments: list[str]) -> None:
    if arguments[0] != "zoo":  # rl_zoo3's own parser, which runs
        build_parser().parse_args(arguments)
        return
    assert arguments[1] in ("train", "enjoy")
    algorithm = arguments[arguments.index("--algo") + 1]
    task = arguments[arguments.index("--env") + 1]
    assert f"\n{task}:" in (ROOT / "zoo_configs" / f"{algorithm}.yml").read_text()


def is_a_program(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        path = ROOT / (arguments[1].replace(".", "/") + ".py")
        arguments = arguments[1:]
    else:
        path = ROOT / arguments[0]
    known = "\n".join(p.read_text() for p in [path, *path.parent.glob("*.py")])
    assert path.is_file()
    for option in arguments[1:]:
        if option.startswith("--"):
            assert f'"{option.split("=")[0]}"' in known, option


def is_known_to_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [word for word in arguments if "=" not in word and word not in targets] == []


def names_extras(arguments: list[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = re.findall(r"(?:\.|sb3_strl)\[([\w,]+)\]", " ".join(arguments))
    assert {e for extras in asked for e in extras.split(",")} <= {*config["options.extras_require"]}


def starts_processes(arguments: list[str]) -> None:
    if "-m" in arguments:
        module, *rest = arguments[arguments.index("-m") + 1 :]
        assert module == "sb3_strl"
        is_parsed_by_strl(rest)


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "strl": is_parsed_by_strl,
    "python": is_a_program,
    "make": is_known_to_make,
    "pip": names_extras,
    "torchrun": starts_processes,
    "uv": names_extras,
    "printf": lambda arguments: None,
}


@pytest.mark.parametrize(
    ("block", "line"), [pytest.param(b, x, id=f"{b}-{x[:30]}") for b, x in commands()]
)
def test_a_command_is_understood(block: Block, line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program in PROGRAMS, f"{block}: {program}"
    PROGRAMS[program](arguments)
