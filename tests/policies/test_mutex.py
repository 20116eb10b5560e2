from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.policies import (
    ClimbMutexPolicy,
    FieldMutexPolicy,
    MlpGruPolicy,
    MlpLstmPolicy,
    MlpPolicy,
    MutexPolicy,
    MutexState,
    SubPolicy,
    load_policy,
    save_policy,
)
from sb3_strl.policies.mutex_sources import newest_model
from tests.envs.toy import PointMass
from tests.host_sync import no_host_sync
from tests.policies.mutex_tools import (
    ACTIONS,
    SEGMENTS,
    SPACE,
    CountingPolicy,
    EchoPolicy,
    FixedPolicy,
    observations,
)

COMMAND, LAST_ACTION = (9, 9), (12, 13)


def field(subs: list[Any], **options: Any) -> FieldMutexPolicy:
    return FieldMutexPolicy(subs, device="cpu", **{"env_action_scale": 1.0, **options})


def run(policy: MutexPolicy, ids: list[list[int]], **options: Any) -> list[th.Tensor]:
    """Actions of a sequence of selections, one row of ids per step."""
    state, actions = None, []
    for step in ids:
        action, state = policy.act(observations(step, **options), state)
        actions.append(action)
    return actions


# ---------------------------------------------------------------------- selection


def test_zeros_select_the_first_and_ids_the_others() -> None:
    policy = field([FixedPolicy(0.1 * i) for i in range(6)])
    action, _ = policy.act(observations([0, 1, 2, 3, 4, 5]))
    np.testing.assert_allclose(action[:, 0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-7)


def test_columns_of_the_id_are_an_argument() -> None:
    policy = field([FixedPolicy(0.1), FixedPolicy(0.2)], id_slice=[2, 3])
    action, _ = policy.act(observations([0, 1, 2]))
    np.testing.assert_allclose(action[:, 0], [0.1, 0.1, 0.2])


@pytest.mark.parametrize("broken", [[1.0, 1.0], [0.5, 0.5], [2.0, 0.0], [-1.0, 1.0], [np.nan, 0.0]])
def test_selections_that_are_not_one_hot_are_refused(broken: list[float]) -> None:
    policy = field([FixedPolicy(0.1), FixedPolicy(0.2), FixedPolicy(0.3)])
    obs = observations([0, 1])
    obs["policy"][1, 15:17] = th.tensor(broken)
    for given in (obs, {"policy": obs["policy"].numpy()}):
        with pytest.raises(StrlValueError, match="selection of environment 1 names no sub-policy"):
            policy.predict(given)
    action, _ = policy.act(obs)
    assert action[0].isfinite().all()
    assert action[1].isnan().all()


def test_an_id_without_sub_policy_is_refused() -> None:
    policy = field([FixedPolicy(0.1), FixedPolicy(0.2)])
    policy.predict(observations([1]))
    with pytest.raises(StrlValueError, match="Expected exactly one of 2"):
        policy.predict(observations([4]))
    both = observations([1])
    both["policy"][0, 18] = 1.0
    with pytest.raises(StrlValueError, match=r"or several. Expected exactly one of 2"):
        policy.predict(both)


def test_a_selector_may_return_indices_or_rows() -> None:
    subs = [FixedPolicy(0.1), FixedPolicy(0.2)]
    by_index = MutexPolicy(subs, lambda obs: (obs["policy"][:, 0] > 0).long(), device="cpu")
    by_row = MutexPolicy(subs, lambda obs: th.eye(2)[[1, 0]].expand(2, 2), device="cpu")
    obs = observations([0, 0])
    obs["policy"][1, 0] = 1.0
    np.testing.assert_allclose(by_index.act(obs)[0][:, 0], [0.1, 0.2])
    np.testing.assert_allclose(by_row.act(obs)[0][:, 0], [0.2, 0.1])
    with pytest.raises(StrlValueError, match="environment 0 names no sub-policy"):
        MutexPolicy(subs, lambda obs: th.tensor([2, 0]), device="cpu").predict(obs)


@pytest.mark.parametrize("wrong", [th.zeros(2), th.zeros(2, 3), th.tensor([True, False])])
def test_selections_of_another_kind_are_refused(wrong: th.Tensor) -> None:
    policy = MutexPolicy([FixedPolicy(), FixedPolicy()], lambda obs: wrong, device="cpu")
    with pytest.raises(StrlTypeError, match=r"the selection has shape .* Expected \(2,\) integer"):
        policy.act(observations([0, 0]))


def test_a_subclass_may_select() -> None:
    class Second(MutexPolicy):
        def select(self, obs: dict[str, th.Tensor]) -> th.Tensor:
            return th.ones(len(obs["policy"]), dtype=th.int64)

    policy = Second([FixedPolicy(0.1), FixedPolicy(0.2)], device="cpu")
    np.testing.assert_allclose(policy.act(observations([0]))[0], [[0.2, 0.2]])


def test_jumps_go_up_or_down_by_the_sign_of_the_last_entry() -> None:
    subs = [FixedPolicy(0.1 * i) for i in range(7)]
    policy = ClimbMutexPolicy(subs, jump_down_vel=0.5, device="cpu")
    for height, expected in ((0.3, 0.3), (-0.3, 0.6), (0.0, 0.6)):
        action, _ = policy.predict(observations([3, 2, 0], height=height))
        np.testing.assert_allclose(action[:, 0], [expected, 0.2, 0.0], atol=1e-7)


# ---------------------------------------------------------------------- units


def test_actions_are_scaled_to_the_environment() -> None:
    subs = [SubPolicy(FixedPolicy(0.8), 0.25), (FixedPolicy(0.8), [0.5, 0.1], None)]
    policy = field(subs, env_action_scale=[0.5, 1.0])
    action, _ = policy.act(observations([0, 1]))
    np.testing.assert_allclose(action, [[0.4, 0.2], [0.8, 0.08]], rtol=1e-6)


def test_a_sub_policy_without_scale_acts_in_the_environments() -> None:
    policy = field([FixedPolicy(0.8), FixedPolicy(0.4)], env_action_scale=0.5)
    np.testing.assert_allclose(policy.act(observations([0]))[0], [[0.8, 0.8]])


def test_sub_actions_are_clipped_to_the_bounds_of_their_training() -> None:
    subs = [SubPolicy(FixedPolicy(3.0), 0.5), FixedPolicy(0.0)]
    np.testing.assert_allclose(field(subs).act(observations([0]))[0], [[0.5, 0.5]])
    free = field(subs, clip_sub_actions=False)
    np.testing.assert_allclose(free.act(observations([0]))[0], [[1.5, 1.5]])
    np.testing.assert_allclose(free.predict(observations([0]))[0], [[1.0, 1.0]])


def test_an_infinite_action_of_the_unselected_has_no_say() -> None:
    broken = FixedPolicy([np.inf, np.nan])
    policy = field([FixedPolicy(0.1), broken], clip_sub_actions=False)
    np.testing.assert_allclose(policy.act(observations([0]))[0], [[0.1, 0.1]])


def test_every_sub_policy_sees_the_last_action_in_its_own_units() -> None:
    subs = [
        SubPolicy(EchoPolicy(LAST_ACTION), 0.5),
        SubPolicy(EchoPolicy(LAST_ACTION), [0.25, 1.0]),
    ]
    policy = field(subs, env_action_scale=[0.5, 1.0], clip_sub_actions=False)
    seen = policy.act(observations([0, 1], last_action=0.2))[0] / policy.units.ratio
    np.testing.assert_allclose(seen, [[0.2, 0.4], [0.4, 0.2]], rtol=1e-6)


def test_several_last_actions_are_recovered_alike() -> None:
    subs = [SubPolicy(EchoPolicy((10, 13)), 0.5), FixedPolicy(0.0)]
    policy = field(subs, env_action_scale=1.0, last_action_size=4, clip_sub_actions=False)
    obs = observations([0], last_action=0.2)
    obs["policy"][:, 10:12] = 0.1
    np.testing.assert_allclose(policy.act(obs)[0] / 0.5, [[0.2, 0.4]], rtol=1e-6)


def test_the_callers_observation_is_never_written_to() -> None:
    subs = [SubPolicy(EchoPolicy(COMMAND), 0.5, {"lin_vel": 2.0}), SubPolicy(FixedPolicy(), 0.1)]
    policy = field(subs, cmd_vel_mapping={0: 0.3, 1: [0.1, 0.2]})
    obs = observations([0, 1, 0], command=1.0, last_action=0.5)
    before = {name: values.clone() for name, values in obs.items()}
    policy.act(obs)
    policy.predict(obs)
    array = {name: values.numpy().copy() for name, values in before.items()}
    policy.predict(array)
    echo = EchoPolicy(COMMAND)
    field([echo, echo], cmd_vel_mapping={0: 0.3}, last_action_segment=None).act(obs)
    for given in (obs, array):
        np.testing.assert_array_equal(given["policy"], before["policy"])


def test_commands_are_replaced_in_the_sub_policys_units() -> None:
    echo = EchoPolicy(COMMAND)
    subs = [SubPolicy(echo, None, {"lin_vel": 2.0}), SubPolicy(echo), SubPolicy(echo)]
    policy = field(subs, cmd_vel_mapping={"0": 0.3, 1: 0.4})
    action, _ = policy.act(observations([0, 1, 2], command=0.7))
    np.testing.assert_allclose(action[:, 0], [0.6, 0.4, 0.7], rtol=1e-6)


def test_commands_of_ranges_are_drawn_for_every_environment_and_episode() -> None:
    th.manual_seed(0)
    echo = EchoPolicy(COMMAND)
    n = 200
    policy = field([echo, echo], cmd_vel_mapping={0: [0.2, 0.6]})
    obs = observations([0] * n, command=0.9)
    first, state = policy.act(obs)
    drawn = first[:, 0]
    assert drawn.min() >= 0.2
    assert drawn.max() <= 0.6
    assert len(drawn.unique()) > n // 2
    assert abs(float(drawn.mean()) - 0.4) < 0.03
    starts = th.arange(n) < 100
    second, _ = policy.act(obs, state, starts)
    np.testing.assert_array_equal(second[100:], first[100:])
    assert (second[:100] != first[:100]).any(dim=1).all()


def test_the_command_for_jumping_down() -> None:
    echo = EchoPolicy(COMMAND)

    def down(vel: Any, mapping: dict[Any, Any]) -> list[float]:
        policy = ClimbMutexPolicy([echo] * 5, jump_down_vel=vel, cmd_vel_mapping=mapping)
        actions, _ = policy.to("cpu").act(observations([3], command=0.9, height=-1.0))
        return actions[0].tolist()

    assert down(None, {3: 0.5}) == pytest.approx([0.5, 0.5])
    assert down(None, {"3": 0.5}) == pytest.approx([0.5, 0.5])
    assert down(0.25, {3: 0.5}) == pytest.approx([0.25, 0.25])
    assert down((0.125, 0.125), {}) == pytest.approx([0.125, 0.125])
    with pytest.raises(StrlValueError, match="no velocity of id 3 to copy"):
        down(None, {2: 0.5})


# ---------------------------------------------------------------------- window and memory


def test_weights_are_the_mean_of_the_window_and_full_at_once() -> None:
    policy = field([FixedPolicy(0.0), FixedPolicy(1.0)], action_smoothing_buffer_len=4)
    actions = run(policy, [[1], [1], [0], [0], [0], [0], [1]])
    gains = [float(action[0, 0]) for action in actions]
    np.testing.assert_allclose(gains, [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.25])


def test_the_window_begins_anew_in_environments_that_do() -> None:
    policy = field([FixedPolicy(0.0), FixedPolicy(1.0)], action_smoothing_buffer_len=4)
    _, state = policy.act(observations([1, 1]))
    action, _ = policy.act(observations([0, 0]), state, th.tensor([True, False]))
    np.testing.assert_allclose(action[:, 0], [0.0, 0.75])


def test_another_number_of_environments_begins_anew() -> None:
    policy = field([FixedPolicy(0.0), CountingPolicy(0.5)], action_smoothing_buffer_len=2)
    _, state = policy.act(observations([0, 0]))
    action, new = policy.act(observations([1, 1, 1]), state)
    np.testing.assert_allclose(action[:, 0], [0.51] * 3)
    assert new.window.shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("mode", "expected"),
    # Steps since the memory of sub-policy 1 was cleared, while it is selected in the last step.
    [("all", 1), (True, 1), ("when_skill", 3), ("none", 5), (False, 5), (None, 5)],
)
def test_memory_of_the_unselected_is_cleared(mode: Any, expected: int) -> None:
    subs = [FixedPolicy(0.0), CountingPolicy(), FixedPolicy(0.0)]
    policy = field(subs, reset_non_selected=mode)
    actions = run(policy, [[1], [2], [0], [0], [1]])
    assert float(actions[-1][0, 0]) == pytest.approx(0.01 * expected)


def test_memory_in_the_window_is_kept() -> None:
    policy = field([FixedPolicy(0.0), CountingPolicy()], action_smoothing_buffer_len=2)
    assert float(run(policy, [[1], [0], [1]])[-1][0, 0]) == pytest.approx(0.03 / 2)
    assert float(run(policy, [[1], [0], [0], [1]])[-1][0, 0]) == pytest.approx(0.01 / 2)


def test_the_first_sub_policy_is_kept_when_skills_act() -> None:
    policy = field([CountingPolicy(), FixedPolicy(0.0)], reset_non_selected="when_skill")
    assert float(run(policy, [[0], [1], [1], [0]])[-1][0, 0]) == pytest.approx(0.04)


def test_memory_is_cleared_environment_by_environment() -> None:
    policy = field([CountingPolicy(), CountingPolicy()])
    actions = run(policy, [[0, 1, 0], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(actions[-1][:, 0], [0.01, 0.01, 0.03])


def test_finished_episodes_clear_the_memory_of_all_sub_policies() -> None:
    policy = field([CountingPolicy(), CountingPolicy()], reset_non_selected="none")
    _, state = policy.act(observations([0, 0, 0, 0]))
    done = th.tensor([0, 0, 0, 1])
    action, state = policy.act(observations([0, 1, 0, 1]), state, done)
    np.testing.assert_allclose(action[:, 0], [0.02, 0.02, 0.02, 0.01])


def test_memory_is_explicit() -> None:
    policy = field([CountingPolicy(), FixedPolicy(0.0)])
    assert policy.is_recurrent
    obs = observations([0])
    _, state = policy.act(obs)
    again = [policy.act(obs, state)[0] for _ in range(2)]
    np.testing.assert_allclose(again[0], 0.02)
    assert th.equal(*again)
    assert isinstance(state, MutexState)
    assert state.sub_states[0].actor.shape == (1, 1, 1)
    assert state.sub_states[1] is None


def test_states_matter_exactly_where_something_is_remembered() -> None:
    subs = [FixedPolicy(0.0), FixedPolicy(0.1)]
    assert not field(subs).is_recurrent
    assert not field(subs, cmd_vel_mapping={0: 1.0}).is_recurrent
    assert field(subs, cmd_vel_mapping={0: (0.5, 1.0)}).is_recurrent
    assert field(subs, action_smoothing_buffer_len=2).is_recurrent


# ---------------------------------------------------------------------- faces


def test_arrays_and_tensors_agree_over_an_episode() -> None:
    subs = [SubPolicy(CountingPolicy(), 0.5), EchoPolicy(LAST_ACTION), FixedPolicy(0.3)]
    policy = field(subs, action_smoothing_buffer_len=3)
    generator = th.Generator().manual_seed(0)
    array_state: Any = None
    state: Any = None
    for step in range(12):
        ids = th.randint(0, 3, (4,), generator=generator).tolist()
        obs = observations(ids, last_action=0.1 * step)
        starts = th.rand(4, generator=generator) < 0.2
        expected, state = policy.predict(obs, state, starts)
        array = {"policy": obs["policy"].numpy()}
        action, array_state = policy.predict(array, array_state, starts.numpy())
        assert isinstance(action, np.ndarray)
        np.testing.assert_allclose(action, expected)
    assert isinstance(array_state, MutexState)
    assert isinstance(array_state.window, np.ndarray)
    array_state.commands.fill(9.0)  # the caller's own, not the policy's memory
    assert not policy.commands.low.any()
    np.testing.assert_allclose(array_state.sub_states[0].actor, state.sub_states[0].actor)


def test_one_observation_yields_one_action() -> None:
    policy = field([FixedPolicy(0.1), FixedPolicy(0.2)])
    action, _ = policy.predict({"policy": observations([1])["policy"][0].numpy()})
    np.testing.assert_allclose(action, [0.2, 0.2])


def test_a_missing_group_is_refused_and_others_are_ignored() -> None:
    policy = field([FixedPolicy(0.1), FixedPolicy(0.2)])
    obs = observations([1])
    policy.predict({"policy": obs["policy"].numpy(), "camera": np.zeros((1, 3))})
    for act in (policy.act, policy.predict):
        with pytest.raises(StrlKeyError, match="observation group 'policy' is missing"):
            act({"camera": obs["policy"]})


def test_acting_does_not_wait_for_the_device() -> None:
    subs = [SubPolicy(CountingPolicy(), 0.5), EchoPolicy(LAST_ACTION)]
    policy = field(subs, cmd_vel_mapping={1: (0.1, 0.2)}, action_smoothing_buffer_len=2)
    obs = observations([0, 1, 0])
    _, state = policy.act(obs)
    with no_host_sync():
        action, _ = policy.act(obs, state, th.tensor([True, False, False]))
    assert not action.requires_grad


def test_it_cannot_be_trained() -> None:
    given = FixedPolicy(0.1)
    policy = field([given, FixedPolicy(0.2)])
    obs = observations([0])
    with pytest.raises(StrlTypeError, match=r"forward: this policy selects .* cannot be trained"):
        policy(obs)
    with pytest.raises(StrlTypeError, match="evaluate_actions: this policy selects"):
        policy.evaluate_actions(obs, th.zeros(1, 2))
    policy.set_training_mode(True)
    assert not any(module.training for module in policy.modules())
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    # Frozen copies: the given policy goes its own way.
    assert given.value.requires_grad
    given.value.data.fill_(0.9)
    np.testing.assert_allclose(policy.act(obs)[0], [[0.1, 0.1]])


# ---------------------------------------------------------------------- layouts


def test_segments_are_found_by_name() -> None:
    """A sub-policy trained on fewer segments in another order sees what it was trained on."""
    space = spaces.Dict({"policy": spaces.Box(-np.inf, np.inf, (15,), np.float32)})
    small = EchoPolicy((1, 10), space=space, segments={"goal": (1,), "proprioception": (14,)})
    layout = {"policy": {"proprioception": (14,), "goal": (1,), "engaging_block": (8,)}}
    wide = spaces.Dict({"policy": spaces.Box(-np.inf, np.inf, (23,), np.float32)})
    sub = SubPolicy(small, 0.5)
    policy = field([sub, sub], observation_space=wide, obs_segments=layout, clip_sub_actions=False)
    obs = th.arange(23.0).unsqueeze(0)
    obs[:, 15:] = 0.0
    np.testing.assert_allclose(policy.act({"policy": obs})[0] / 0.5, [[0.0, 9.0]])
    obs[:, 0], obs[:, 12] = 0.4, 0.3
    echo = copy.deepcopy(small)
    echo.columns = [0, 13]
    policy = field([SubPolicy(echo, 0.5)] * 2, observation_space=wide, obs_segments=layout)
    # Column 14 is the goal, column 12 the last action but one in twice the units.
    np.testing.assert_allclose(policy.act({"policy": obs})[0] / 0.5, [[1.0, 0.6]])


def test_groups_that_do_not_act_are_not_needed() -> None:
    other = spaces.Box(-np.inf, np.inf, (30,), np.float32)
    names = ("critic", "ref_obs", "ref_motion")
    space = spaces.Dict({"policy": SPACE["policy"], **dict.fromkeys(names, other)})
    sub = MlpPolicy(space, ACTIONS, lambda _: 0.0, net_arch=[8], obs_segments=SEGMENTS)
    policy = field([sub, sub], observation_space=SPACE, obs_segments=SEGMENTS)
    assert policy.groups == ("policy",)
    obs = observations([0, 1])
    full = {**obs, **{name: th.zeros(2, 30) for name in names}}
    np.testing.assert_allclose(policy.predict(obs)[0], sub.predict(full, deterministic=True)[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"engaging_block": "engaging_blok"}, StrlKeyError, "Did you mean 'engaging_block'"),
        ({"last_action_segment": "actions"}, StrlKeyError, "unknown segment 'actions'"),
        (
            {"command_segment": "cmd", "cmd_vel_mapping": {0: 1.0}},
            StrlKeyError,
            "unknown segment 'cmd'",
        ),
        (
            {"command_index": 14, "cmd_vel_mapping": {0: 1.0}},
            StrlValueError,
            "the command is columns 14 to 14",
        ),
        ({"last_action_size": 16}, StrlValueError, "the last action is columns -2 to 13"),
        ({"last_action_size": 3}, StrlValueError, "Expected a multiple of 2"),
        ({"id_slice": (1, 9)}, StrlValueError, "obstacle's id is columns 1 to 8"),
        ({"id_slice": (1, 2)}, StrlValueError, "3 sub-policies need 2 ids"),
        ({"env_action_scale": 0.0}, StrlValueError, "env_action_scale is 0.0. Expected finite"),
        ({"env_action_scale": [1.0] * 3}, StrlValueError, "has 3 numbers. Expected one, or 2"),
        ({"cmd_vel_mapping": {3: 1.0}}, StrlValueError, "names sub-policy 3, but there are 3"),
        ({"cmd_vel_mapping": {0: [1.0, 0.5]}}, StrlValueError, r"cmd_vel_mapping\[0\] is"),
        ({"cmd_vel_mapping": {0: [1.0]}}, StrlValueError, "Expected a velocity, or"),
        ({"cmd_vel_mapping": {"walk": 1.0}}, StrlTypeError, "Expected the index"),
        ({"action_smoothing_buffer_len": 0}, StrlValueError, "Expected at least 1"),
        ({"reset_non_selected": "some"}, StrlValueError, "Expected 'all'"),
    ],
)
def test_wrong_arguments_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        field([FixedPolicy(), FixedPolicy(), FixedPolicy()], **options)


def test_sub_policies_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = FixedPolicy()
    with pytest.raises(StrlValueError, match=r"there are 1 sub-policies. Expected at least two"):
        field([one])
    with pytest.raises(StrlTypeError, match="Expected a list of policies"):
        field("model.zip")  # type: ignore[arg-type]
    with pytest.raises(StrlTypeError, match=r"a sub-policy is 3. Expected a policy, the path"):
        field([one, 3])
    with pytest.raises(StrlTypeError, match=r"nothing selects. Pass selector="):
        MutexPolicy([one, one])
    with pytest.raises(StrlTypeError, match="action space Discrete"):
        field([one, FixedPolicy(actions=spaces.Discrete(2))])
    wide = spaces.Box(-1.0, 1.0, (3,), np.float32)
    with pytest.raises(StrlValueError, match="actions of shapes"):
        field([one, FixedPolicy([0.0] * 3, actions=wide)])
    with pytest.raises(StrlValueError, match=r"action_scale of sub-policy 1 is -1.0"):
        field([one, SubPolicy(one, -1.0)])
    with pytest.raises(StrlValueError, match="Expected at least 5: open ground"):
        ClimbMutexPolicy([one] * 4, jump_down_vel=1.0)
    other = FixedPolicy(segments={"policy": {"proprioception": (13,), "engaging_block": (9,)}})
    with pytest.raises(StrlValueError, match="'proprioception' of group 'policy' has shape"):
        field([one, other])
    foreign = FixedPolicy(segments={"policy": {"proprioception": (14,), "terrain": (8,)}})
    with pytest.raises(StrlKeyError, match="sub-policy 1: unknown segment 'terrain'"):
        field([one, foreign])


# ---------------------------------------------------------------------- files


def mlp(seed: int, **options: Any) -> MlpPolicy:
    th.manual_seed(seed)
    given = {"net_arch": [8], "obs_segments": SEGMENTS, **options}
    return MlpPolicy(SPACE, ACTIONS, lambda _: 1e-3, **given)


def test_sub_policies_come_from_files(tmp_path: Path) -> None:
    subs = [mlp(0), mlp(1)]
    for number, sub in enumerate(subs):
        save_policy(sub, tmp_path / f"{number}.zip")
    policy = field([tmp_path / "0.zip", SubPolicy(str(tmp_path / "1.zip"), 0.5)])
    obs = observations([0, 1])
    obs["policy"][:, :12] = 1.0
    np.testing.assert_allclose(
        policy.predict(obs)[0],
        field([subs[0], SubPolicy(subs[1], 0.5)]).predict(obs)[0],
        rtol=1e-6,
    )


def test_the_newest_checkpoint_has_the_largest_number(tmp_path: Path) -> None:
    for name in (
        "model_900.zip",
        "model_01000.zip",
        "rl_model_950_steps.zip",
        "submodel_x9999.zip",
    ):
        (tmp_path / name).touch()
    (tmp_path / "models_5000.zip").touch()
    (tmp_path / "model_6000.zip.tmp").touch()
    assert newest_model(tmp_path).name == "model_01000.zip"
    (tmp_path / "rl_model_10000_steps.zip").touch()
    assert newest_model(tmp_path).name == "rl_model_10000_steps.zip"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StrlValueError, match="holds no checkpoint"):
        newest_model(empty)


def test_a_folder_brings_its_scales(tmp_path: Path) -> None:
    save_policy(mlp(0), tmp_path / "model_20.zip")
    config = {"control": {"action_scale": 0.25}, "normalization": {"obs_scales": {"lin_vel": 2.0}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    policy = field([tmp_path, SubPolicy(tmp_path, 0.5)], cmd_vel_mapping={0: 0.3})
    np.testing.assert_allclose(policy.units.ratio[:, 0], [0.25, 0.5])
    np.testing.assert_allclose(policy.commands.low, [0.6, 0.0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["field", "climb"])
def test_a_saved_policy_is_the_same(tmp_path: Path, kind: str) -> None:
    subs = [SubPolicy(mlp(i, empirical_normalization=i == 0), 0.1 + 0.1 * i) for i in range(5)]
    options: dict[str, Any] = {
        "env_action_scale": [0.5, 0.7],
        "cmd_vel_mapping": {1: 0.3, 3: (0.2, 0.4)},
        "action_smoothing_buffer_len": 2,
        "reset_non_selected": "when_skill",
        "id_slice": (1, 5),
        "device": "cpu",
    }
    cls = FieldMutexPolicy if kind == "field" else ClimbMutexPolicy
    policy = cls(subs, **options)
    policy.save(tmp_path / "mutex.zip")
    obs = observations([0, 1, 2, 3], last_action=0.3)

    def act(given: MutexPolicy) -> th.Tensor:
        th.manual_seed(0)
        _, state = given.act(obs)
        return given.act(observations([3, 2, 1, 0], height=-1.0), state)[0]

    for loaded in (cls.load(tmp_path / "mutex.zip", "cpu"), load_policy(tmp_path / "mutex.zip")):
        assert isinstance(loaded, cls)
        assert loaded.options == policy.options
        np.testing.assert_array_equal(act(loaded.to("cpu")), act(policy))


def by_sign(obs: dict[str, th.Tensor]) -> th.Tensor:
    return (obs["policy"][:, 0] > 0.0).long()


def test_a_selector_is_passed_again(tmp_path: Path) -> None:
    policy = MutexPolicy([mlp(0), mlp(1)], by_sign, device="cpu")
    policy.save(tmp_path / "mutex.zip")
    obs = observations([0, 1])
    obs["policy"][0, 0] = 1.0
    loaded = MutexPolicy.load(tmp_path / "mutex.zip", "cpu", selector=by_sign)
    np.testing.assert_array_equal(loaded.predict(obs)[0], policy.predict(obs)[0])
    with pytest.raises(StrlTypeError, match="saved with the selector 'by_sign'"):
        MutexPolicy.load(tmp_path / "mutex.zip", "cpu").predict(obs)
    with pytest.raises(StrlValueError, match="there is no file"):
        MutexPolicy.load(tmp_path / "other.zip")


# ---------------------------------------------------------------------- company


def test_mutex_policies_nest() -> None:
    inner = field([CountingPolicy(), FixedPolicy(0.2)], action_smoothing_buffer_len=2)
    outer = MutexPolicy([inner, FixedPolicy(0.3)], lambda obs: th.tensor([0, 1]), device="cpu")
    _, state = outer.act(observations([0, 0]))
    action, _ = outer.act(observations([1, 1]), state)
    np.testing.assert_allclose(action[:, 0], [(0.02 + 0.2) / 2, 0.3])


def test_evaluate_policy_plays_it_on_a_tensor_environment() -> None:
    env = PointMass(4, max_episode_length=10)
    th.manual_seed(0)
    subs = [
        MlpPolicy(env.observation_space, env.action_space, lambda _: 0.0, net_arch=[8])
        for _ in range(2)
    ]

    def select(obs: dict[str, th.Tensor]) -> th.Tensor:
        group = next(iter(obs.values()))
        return (group[:, 0] > 0.0).long()

    policy = MutexPolicy(subs, select, action_smoothing_buffer_len=3, device="cpu")
    rewards, lengths = evaluate_policy(policy, env, 8, return_episode_rewards=True)
    assert len(rewards) == 8
    assert set(lengths) == {10}


def test_policies_of_stable_baselines3_are_sub_policies() -> None:
    th.manual_seed(0)
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    subs = [ActorCriticPolicy(space, ACTIONS, lambda _: 0.0, net_arch=[8]) for _ in range(2)]
    policy = MutexPolicy(subs, lambda obs: (obs["policy"][:, 0] > 0.0).long(), device="cpu")
    obs = np.array([[-0.5, 0.1, 0.2], [0.5, 0.1, 0.2]], np.float32)
    expected = [sub.predict(obs, deterministic=True)[0][i] for i, sub in enumerate(subs)]
    np.testing.assert_allclose(policy.predict(obs)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("policy_class", [SACPolicy, TD3Policy])  # DDPG's is TD3's
@pytest.mark.parametrize("clip", [True, False])
def test_squashed_policies_act_between_their_bounds(policy_class: Any, clip: bool) -> None:
    th.manual_seed(0)
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    actions = spaces.Box(np.float32([-2.0, 1.0]), np.float32([2.0, 5.0]))
    squashed = policy_class(space, actions, lambda _: 0.0, net_arch=[8])
    plain = ActorCriticPolicy(space, actions, lambda _: 0.0, net_arch=[8])
    policy = MutexPolicy(
        [squashed, plain],
        lambda obs: (obs["policy"][:, 0] > 0.0).long(),
        clip_sub_actions=clip,
        device="cpu",
    )
    obs = np.array([[-0.5, 0.1, 0.2], [0.5, 0.1, 0.2]], np.float32)
    expected = [
        sub.predict(obs, deterministic=True)[0][i] for i, sub in enumerate((squashed, plain))
    ]
    np.testing.assert_allclose(policy.predict(obs)[0], expected, rtol=1e-6)


def test_recurrent_and_feed_forward_policies_mix() -> None:
    th.manual_seed(0)
    lstm = MlpLstmPolicy(SPACE, ACTIONS, lambda _: 0.0, net_arch=[8], obs_segments=SEGMENTS)
    policy = field([lstm, mlp(1)], reset_non_selected="none")
    state: Any = None
    alone: Any = lstm.initial_state(2)
    starts = th.ones(2, dtype=th.bool)
    for step in range(4):
        obs = observations([0, step % 2], command=0.3 * step)
        action, state = policy.act(obs, state, starts if step == 2 else None)
        given = starts if step in (0, 2) else ~starts
        expected, alone = lstm.act(obs, alone, given, True)
        np.testing.assert_allclose(action[0], expected[0].clamp(-1, 1).detach(), rtol=1e-5)
        if step % 2 == 0:
            np.testing.assert_allclose(action[1], expected[1].clamp(-1, 1).detach(), rtol=1e-5)


def test_memory_of_recurrent_policies_survives_arrays_and_files(tmp_path: Path) -> None:
    th.manual_seed(0)
    kinds: list[type[Any]] = [MlpLstmPolicy, MlpGruPolicy, MlpPolicy]
    options: dict[str, Any] = {"net_arch": [8], "obs_segments": SEGMENTS}
    subs = [kind(SPACE, ACTIONS, lambda _: 0.0, **options) for kind in kinds]
    policy = field(subs, action_smoothing_buffer_len=2)
    policy.save(tmp_path / "mutex.zip")
    loaded = FieldMutexPolicy.load(tmp_path / "mutex.zip", "cpu")
    state: Any = None
    array_state: Any = None
    for step in range(5):
        obs = observations([step % 3, 0, 2], command=0.5 * step)
        obs["policy"][:, :9] = th.randn(3, 9)
        starts = np.array([False, step == 2, False])
        expected, state = policy.predict(obs, state, th.from_numpy(starts))
        array = {"policy": obs["policy"].numpy()}
        action, array_state = loaded.predict(array, array_state, starts)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(array_state.sub_states[0].actor[1], np.ndarray)
    assert np.abs(array_state.sub_states[1].actor).max() > 0.0


def test_sub_policies_that_hold_a_graph_are_copied() -> None:
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    policy = ActorCriticPolicy(space, spaces.Box(-1.0, 1.0, (2,), np.float32), lambda _: 1e-3)
    policy(th.zeros(2, 3))  # not under no_grad, as imitation's trainers do
    mutex = MutexPolicy([policy, policy], selector=lambda obs: (obs["policy"][:, 0] > 0).long())
    assert mutex.predict(np.zeros((2, 3), np.float32))[0].shape == (2, 2)
