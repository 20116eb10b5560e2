"""Memory: sequences equal steps, state is explicit, bad input is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_strl import PPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import PolicyState
from sb3_strl.common.sequences import EpisodeMap
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.memory import Memory, MemorySpec
from tests.envs.robot import RobotToy
from tests.envs.toy import PointMass

T, N = 11, 5


def _starts(p: float = 0.25) -> th.Tensor:
    return th.rand(T, N, generator=th.Generator().manual_seed(5)) < p


def _policy(kind: str = "lstm", dtype: th.dtype = th.float64, **kwargs: object) -> StrlPolicy:
    th.manual_seed(0)
    env = RobotToy(N)
    options = {"net_arch": [8], "obs_segments": env.obs_segments, "empirical_normalization": True}
    rnn = {"type": kind, "hidden_size": 6, "num_layers": 2}
    policy = StrlPolicy(
        env.observation_space,
        env.action_space,
        lambda _: 1e-3,
        **{**options, "rnn": rnn, **kwargs},  # type: ignore[arg-type]
    )
    return policy.to(dtype).train(False)


def _rollout(policy: StrlPolicy, dtype: th.dtype = th.float64) -> dict[str, th.Tensor]:
    generator = th.Generator().manual_seed(1)
    spaces_of = policy.observation_space.spaces  # type: ignore[attr-defined]
    return {
        group: th.randn(T, N, *space.shape, generator=generator, dtype=dtype)
        for group, space in spaces_of.items()
    }


@pytest.fixture(autouse=True)
def _readers_keep_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let observations stay float64, so that 1e-5 and less means something."""
    monkeypatch.setattr("sb3_strl.policies.stages._as_vector", lambda value, _: value)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_packed_sequences_equal_steps(kind: str, layers: int, p: float) -> None:
    memory = Memory(3, MemorySpec(type=kind, hidden_size=4, num_layers=layers)).double()
    x = th.randn(T, N, 3, dtype=th.float64)
    starts = _starts(p)
    state = PolicyState(actor=memory.initial_state(N)).map(th.rand_like)
    plan = EpisodeMap(starts, T).plan()
    heads = starts.flatten()[plan.heads]
    before = state.map(lambda leaf: leaf[:, plan.heads % N]).reset(heads)
    packed, ends = memory(x.flatten(0, 1)[plan.rows], before.actor, plan.batch_sizes)
    stepped, last = [], []
    for t in range(T):
        state = state.reset(starts[t])
        out, after = memory(x[t], state.actor)
        state = PolicyState(actor=after)
        stepped.append(out)
        last.append(after if kind == "gru" else after[0])
    expected = th.stack(stepped).flatten(0, 1)[plan.rows]
    assert th.allclose(packed, expected, atol=1e-12)
    hidden = ends if kind == "gru" else ends[0]
    tails = th.stack([last[int(row) // N][:, int(row) % N] for row in plan.tails], 1)
    assert th.allclose(hidden, tails, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("critic", [True, False])
def test_sequence_forward_equals_stepwise_forward(kind: str, critic: bool) -> None:
    estimator = {"obs_components": ["proprio"], "target_components": ["velocity"]}
    rnn = {"type": kind, "hidden_size": 6, "num_layers": 2, "critic": critic}
    policy = _policy(kind, rnn=rnn, estimator={**estimator, "replace_prob": 1.0})
    obs, starts = _rollout(policy), _starts()
    state = policy.initial_state(N).map(th.rand_like)
    first = state
    actions, values, log_probs = [], [], []
    for t in range(T):
        now = {group: value[t] for group, value in obs.items()}
        a, v, logp, state = policy(now, state=state, episode_starts=starts[t])
        actions.append(a)
        values.append(v)
        log_probs.append(logp)
    got = policy.evaluate_actions(obs, th.stack(actions), first, starts)
    assert th.allclose(got[0], th.cat(values), atol=1e-5, rtol=0)
    assert th.allclose(got[1], th.cat(log_probs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [th.bool, th.int64, th.float32])
def test_reset_zeroes_the_finished_rows_only(dtype: th.dtype) -> None:
    state = PolicyState(actor=th.ones(2, 4, 3), critic=(th.ones(1, 4, 3), th.ones(1, 4, 3)))
    after = state.reset(th.tensor([0, 0, 0, 1]).to(dtype))
    for leaf in (after.actor, *after.critic):  # type: ignore[misc]
        assert leaf.sum((0, 2)).tolist() == [leaf.shape[0] * 3.0] * 3 + [0.0]
    assert after.estimator is None


def test_reset_ends_what_is_not_finite() -> None:
    state = PolicyState(actor=th.full((1, 2, 3), th.nan))
    after = state.reset(th.tensor([True, False])).actor
    assert isinstance(after, th.Tensor)
    assert (after[:, 0] == 0).all()
    assert after[:, 1].isnan().all()


def _model(alias: str, **kwargs: object) -> PPO:
    options = {"net_arch": [8], "rnn": {"hidden_size": 6}, **kwargs}
    return PPO(alias, PointMass(N), n_steps=6, policy_kwargs=options, seed=0)


@pytest.mark.parametrize("alias", ["MlpLstmPolicy", "MlpGruPolicy"])
def test_predict_hands_the_state_around(alias: str) -> None:
    model = _model(alias)
    env = PointMass(N)
    obs = env.reset()
    action, state = model.predict(obs, deterministic=True)
    assert isinstance(state, PolicyState)
    leaf = state.actor[0] if alias == "MlpLstmPolicy" else state.actor
    assert isinstance(leaf, np.ndarray)
    assert leaf.shape == (1, N, 6)
    again, other = model.predict(obs, state, np.zeros(N, bool), deterministic=True)
    assert not np.allclose(again, action)  # it remembers
    fresh, _ = model.predict(obs, other, np.ones(N, bool), deterministic=True)
    assert np.array_equal(fresh, action)  # and forgets
    mixed, _ = model.predict(obs, state, np.array([1, 0, 0, 0, 0]), deterministic=True)
    assert np.array_equal(mixed[0], action[0])
    assert np.array_equal(mixed[1:], again[1:])
    tensors = {key: th.as_tensor(value) for key, value in obs.items()}
    direct, tensor_state = model.predict(tensors, deterministic=True)
    assert isinstance(direct, th.Tensor)
    assert np.array_equal(direct.numpy(), action)
    assert isinstance(tensor_state, PolicyState)
    single, _ = model.predict({key: value[0] for key, value in obs.items()}, deterministic=True)
    assert np.allclose(single, action[0], atol=1e-6)


def test_feed_forward_policies_have_no_state() -> None:
    model = PPO("MlpPolicy", PointMass(2), n_steps=4)
    assert model.predict(PointMass(2).reset())[1] is None
    assert not model.policy.is_recurrent


def test_works_in_evaluate_policy() -> None:
    model = _model("MlpLstmPolicy")
    rewards, _ = evaluate_policy(
        model, PointMass(3), n_eval_episodes=3, return_episode_rewards=True, warn=False
    )
    env = PointMass(3)
    obs, state, starts, total = env.reset(), None, np.ones(3, bool), np.zeros(3)
    alive = np.ones(3)
    while alive.any():
        actions, state = model.predict(obs, state, starts, deterministic=True)
        obs, reward, starts, _ = env.step(actions)
        total += alive * reward
        alive = alive * ~starts
    assert np.allclose(sorted(total), sorted(rewards), atol=1e-4)


def test_critic_without_memory() -> None:
    model = _model("MlpLstmPolicy", rnn={"hidden_size": 6, "critic": False})
    assert model.policy.critic_memory is None
    assert model.policy.initial_state(2).critic is None
    model.learn(60)


@pytest.mark.parametrize(
    ("rnn", "message"),
    [
        ({"type": "lsmt"}, "unknown type 'lsmt'.*Did you mean 'lstm'"),
        ({"hidden_size": 0}, "hidden_size is 0 and num_layers 1. Both must be positive"),
    ],
)
def test_bad_memory_is_refused(rnn: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPO("StrlPolicy", PointMass(2), policy_kwargs={"rnn": rnn})
    with pytest.raises(TypeError, match=r"unknown key 'hiden_size'.*Did you mean 'hidden_size'"):
        PPO("StrlPolicy", PointMass(2), policy_kwargs={"rnn": {"hiden_size": 3}})


def test_minibatches_must_hold_whole_sequences() -> None:
    with pytest.raises(ValueError, match=r"n_minibatches is 3.*there are 2: 2 environments"):
        PPO("MlpLstmPolicy", PointMass(2), n_steps=4, n_minibatches=3)
    with pytest.raises(ValueError, match="batch_size is 8, less than one sequence of 16 steps"):
        PPO("MlpLstmPolicy", PointMass(2), n_steps=16, batch_size=8)
    PPO("MlpLstmPolicy", PointMass(2), n_steps=16, batch_size=8, sequence_length=8)


def test_evaluate_actions_names_wrong_shapes() -> None:
    model = _model("MlpLstmPolicy")
    obs = {key: th.as_tensor(value) for key, value in PointMass(N).reset().items()}
    with pytest.raises(ValueError, match=r"episode_starts has shape \(2, 3\)"):
        model.policy.evaluate_actions(obs, th.zeros(N, 2), None, th.zeros(2, 3))


def test_image_policy_with_memory() -> None:
    space = spaces.Dict({"policy": spaces.Box(0, 255, (3, 36, 36), np.uint8)})
    policy = StrlPolicy(
        space, spaces.Box(-1, 1, (2,)), lambda _: 0.0, rnn={"hidden_size": 4}, visual={}
    )
    action, state = policy.predict({"policy": np.zeros((2, 3, 36, 36), np.uint8)})
    assert action.shape == (2, 2)
    assert isinstance(state, PolicyState)


def test_a_compiler_leaves_it_alone() -> None:
    """It would compile again for every new set of sequence lengths."""
    memory = Memory(3, MemorySpec(type="lstm", hidden_size=4))
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = th.compile(memory, backend=backend)
    for batch_sizes in ([2, 1], [2, 2, 1, 1]):
        packed = th.zeros(sum(batch_sizes), 3), memory.initial_state(2), th.tensor(batch_sizes)
        assert compiled(*packed)[0].shape == (sum(batch_sizes), 4)
    assert not graphs


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_state_belongs_to_as_many_environments_as_there_are_observations(kind: str) -> None:
    policy = _policy(kind, th.float32)
    obs = {group: rows[0].numpy() for group, rows in _rollout(policy, th.float32).items()}
    _, state = policy.predict(obs)
    fewer = {group: rows[:3] for group, rows in obs.items()}
    with pytest.raises(StrlValueError, match="is that of 5 environments, but there are 3 observ"):
        policy.predict(fewer, state=state)


def test_a_compiler_leaves_it_alone_when_it_comes_from_a_pickle(tmp_path: Path) -> None:
    """Whose class was never constructed in this process."""
    file = tmp_path / "memory.pkl"
    file.write_bytes(pickle.dumps(Memory(3, MemorySpec(type="gru", hidden_size=4))))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "memory = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "sys.exit(not hasattr(type(memory).forward, '_torchdynamo_disable'))"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, timeout=120)
