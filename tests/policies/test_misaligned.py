"""Weights follow segment names, not columns."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.common.segments import ObsLayout
from sb3_strl.policies import StrlPolicy, read_policy_file, save_policy
from sb3_strl.policies.misaligned import load_misaligned_state_dict
from tests.envs.toy import box

OLD = {"a": 3, "b": (2, 2), "c": 5}
PERMUTED = {"c": 5, "a": 3, "b": (2, 2)}
WIDER = {"new": 2, "c": 5, "a": 3, "b": (2, 2), "late": 1}
NARROWER = {"c": 5, "a": 3}


def width(segments: dict) -> int:
    return sum(int(np.prod(shape)) for shape in segments.values())


def make(segments: dict, **options) -> StrlPolicy:
    space = box(width(segments))
    policy = StrlPolicy(
        space,
        box(2, bound=1.0),
        lambda _: 1e-3,
        obs_segments=segments,
        **{"net_arch": [8], **options},
    )
    policy.update_normalizers({"policy": th.randn(50, width(segments)) * 3.0 + 2.0})
    return policy


def data(n: int = 6) -> dict[str, th.Tensor]:
    return {name: th.randn(n, width({name: shape})) for name, shape in (WIDER | OLD).items()}


def arrange(parts: dict[str, th.Tensor], segments: dict) -> dict[str, th.Tensor]:
    return {"policy": th.cat([parts[name] for name in segments], -1)}


def outputs(policy: StrlPolicy, obs: dict) -> tuple[th.Tensor, th.Tensor]:
    policy.set_training_mode(False)
    state, starts = policy.initial_state(6), th.zeros(6, dtype=th.bool)
    actions = policy.act(obs, state, starts, deterministic=True)[0]
    return actions, policy.predict_values(obs)


def assert_same(one: StrlPolicy, here: dict, other: StrlPolicy, there: dict) -> None:
    parts = data()
    mine, theirs = outputs(one, arrange(parts, here)), outputs(other, arrange(parts, there))
    for left, right in zip(mine, theirs, strict=True):
        assert th.allclose(left, right, atol=1e-6)


OPTIONS = {
    "plain": {},
    "normalised": {"empirical_normalization": True},
    "linear": {"net_arch": []},
    "encoders": {"encoder": {"component_names": ["b", "a"], "output_size": [3, 4]}},
    "shared": {
        "encoder": {"component_names": ["b"], "critic_component_names": "shared"},
        "empirical_normalization": True,
    },
}
RECURRENT = {
    "lstm": {"rnn": {"type": "lstm", "hidden_size": 8}, "empirical_normalization": True},
    "gru": {"rnn": {"type": "gru", "hidden_size": 8}, "encoder": {"component_names": ["b"]}},
    "actor only": {"rnn": {"type": "gru", "hidden_size": 8, "critic": False}},
}
OPTIONS |= RECURRENT
READING = {"obs_components": ["c", "a"], "kwargs": {"hidden_sizes": [6]}}
OPTIONS["estimator"] = {
    "estimator": {**READING, "target_components": ["b"], "replace_prob": 0.5},
    "encoder": {"component_names": ["b"]},
    "empirical_normalization": True,
}
OPTIONS["adaptor with memory"] = {
    "adaptor": {**READING, "target_components": ["b"], "replace_prob": 0.5},
    "rnn": {"type": "lstm", "hidden_size": 8},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_permuted_segments_change_nothing(options: dict) -> None:
    source, target = make(OLD, **options), make(PERMUTED, **options)
    report = load_misaligned_state_dict(target, source.state_dict(), OLD)
    assert not report.skipped
    assert not report.unused
    assert all(not entry.new and not entry.dropped for entry in report.partial)
    assert_same(target, PERMUTED, source, OLD)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_new_segments_with_zero_columns_change_nothing(options: dict) -> None:
    source, target = make(OLD, **options), make(WIDER, **options)
    report = load_misaligned_state_dict(target, source.state_dict(), OLD, zero_new=True)
    assert not report.skipped
    assert {entry.new for entry in report.partial} == {("new", "late")}
    assert_same(target, WIDER, source, OLD)


def test_a_new_encoder_behind_zero_columns_changes_nothing() -> None:
    source = make(OLD, encoder={"component_names": ["b"]})
    target = make(WIDER, encoder={"component_names": ["b", "new"]})
    report = load_misaligned_state_dict(target, source.state_dict(), OLD, zero_new=True)
    assert {name.split(".")[2] for name, _ in report.skipped} == {"new"}
    assert_same(target, WIDER, source, OLD)


def test_new_columns_keep_their_initialisation() -> None:
    source, target = make(OLD), make(WIDER, empirical_normalization=True)
    before = copy.deepcopy(target.state_dict())
    load_misaligned_state_dict(target, source.state_dict(), OLD)
    name = "actor.model.0.weight"
    after = target.state_dict()[name]
    assert th.equal(after[:, :2], before[name][:, :2])
    assert th.equal(after[:, -1], before[name][:, -1])
    assert th.equal(after[:, 7:10], source.state_dict()[name][:, :3])


def test_vanished_segments_are_dropped() -> None:
    source, target = make(OLD), make(NARROWER)
    report = load_misaligned_state_dict(target, source.state_dict(), OLD)
    entry = next(entry for entry in report.partial if entry.name == "actor.model.0.weight")
    assert entry.copied == ("c", "a")
    assert entry.dropped == ("b",)
    weight = source.state_dict()["actor.model.0.weight"]
    expected = th.cat([weight[:, 7:], weight[:, :3]], -1)
    assert th.equal(target.state_dict()["actor.model.0.weight"], expected)


def test_a_segment_of_another_width_is_new() -> None:
    other = {"a": 3, "b": 6, "c": 5}
    source, target = make(OLD), make(other)
    report = load_misaligned_state_dict(target, source.state_dict(), OLD, zero_new=True)
    entry = next(entry for entry in report.partial if entry.name == "actor.model.0.weight")
    assert (entry.copied, entry.new, entry.dropped) == (("a", "c"), ("b",), ("b",))
    assert (target.state_dict()["actor.model.0.weight"][:, 3:9] == 0).all()


def test_an_encoder_whose_segment_changed_keeps_its_first_layer() -> None:
    encoder = {"component_names": ["c"], "kwargs": {"hidden_sizes": [4]}}
    source, target = make(OLD, encoder=encoder), make({**OLD, "c": 6}, encoder=encoder)
    report = load_misaligned_state_dict(target, source.state_dict(), OLD)
    name = "actor_reader.encoders.c.model.0.weight"
    assert report.skipped == [(name, "shape (4, 5) there, (4, 6) here")]
    assert "actor_reader.encoders.c.model.2.weight" in report.copied
    assert "actor.model.0.weight" in report.copied  # the latent is as wide as before


def test_encoders_that_the_source_did_not_share() -> None:
    encoder = {"component_names": ["b"]}
    source = make(OLD, encoder={**encoder, "critic_component_names": ["b"]})
    target = make(OLD, encoder={**encoder, "critic_component_names": "shared"})
    load_misaligned_state_dict(target, source.state_dict(), OLD)
    obs = arrange(data(), OLD)
    assert th.equal(outputs(target, obs)[0], outputs(source, obs)[0])
    own = make(OLD, encoder={**encoder, "critic_component_names": ["b"]})
    load_misaligned_state_dict(own, target.state_dict(), OLD)
    assert_same(own, OLD, target, OLD)


def test_actor_and_critic_have_layouts_of_their_own(tmp_path) -> None:
    def pair(policy: dict, critic: dict) -> StrlPolicy:
        groups = {"policy": box(width(policy)), "critic": box(width(critic))}
        return StrlPolicy(
            spaces.Dict(groups),
            box(2, bound=1.0),
            lambda _: 1e-3,
            net_arch=[8],
            obs_segments={"policy": policy, "critic": critic},
        )

    actor, critic = {"a": 3, "c": 5}, {"mass": 1, "c": 5, "a": 3}
    source, target = pair(actor, critic), pair(PERMUTED, {"a": 3, "mass": 1, "c": 5})
    save_policy(source, tmp_path / "p")
    state = read_policy_file(tmp_path / "p").state_dict
    nested = {"policy": actor, "critic": critic}
    for layouts in [
        (nested, None),
        (ObsLayout(source.observation_space, nested), None),
        (actor, critic),
        (nested, critic),
    ]:
        report = load_misaligned_state_dict(copy.deepcopy(target), state, *layouts)
        found = {entry.name: (entry.copied, entry.new) for entry in report.partial}
        assert found == {
            "actor.model.0.weight": (("c", "a"), ("b",)),
            "critic.model.0.weight": (("a", "mass", "c"), ()),
        }
    with pytest.raises(StrlValueError, match=r"source's critic has 8 .*has 9.*src_critic_layout"):
        load_misaligned_state_dict(target, state, actor)
    with pytest.raises(StrlKeyError, match=r"groups \['robot'\], but the policy reads \['policy'"):
        load_misaligned_state_dict(target, state, {"robot": actor})


def test_a_source_whose_critic_had_no_group() -> None:
    target = StrlPolicy(
        spaces.Dict({"policy": box(12), "critic": box(4)}),
        box(2, bound=1.0),
        lambda _: 1e-3,
        net_arch=[8],
        obs_segments={"policy": PERMUTED, "critic": {"mass": 1, "a": 3}},
    )
    report = load_misaligned_state_dict(target, make(OLD).state_dict(), {"policy": OLD})
    critic = next(entry for entry in report.partial if entry.name == "critic.model.0.weight")
    assert (critic.copied, critic.new, critic.dropped) == (("a",), ("mass",), ("b", "c"))


def test_image_groups_are_no_columns_of_the_vector() -> None:
    def seeing(segments: dict) -> StrlPolicy:
        groups = {
            "policy": box(width(segments)),
            "image": spaces.Box(0, 255, (1, 12, 12), np.uint8),
        }
        return StrlPolicy(
            spaces.Dict(groups),
            box(2, bound=1.0),
            lambda _: 1e-3,
            net_arch=[8],
            obs_groups={"actor": ["image", "policy"]},
            obs_segments={"policy": segments},
            encoder={"component_names": ["image"], "critic_component_names": ["image"]},
            empirical_normalization=True,
        )

    source, target = seeing(OLD), seeing(PERMUTED)
    image = th.randint(0, 255, (6, 1, 12, 12), dtype=th.uint8)
    for layout in (source.layout, {"image": {"image": (1, 12, 12)}, "policy": OLD}):
        load_misaligned_state_dict(target, source.state_dict(), layout)
        parts = data()
        mine = outputs(target, {"image": image, **arrange(parts, PERMUTED)})
        theirs = outputs(source, {"image": image, **arrange(parts, OLD)})
        assert th.allclose(mine[0], theirs[0], atol=1e-6)
        assert th.allclose(mine[1], theirs[1], atol=1e-6)


@pytest.mark.parametrize("there", [True, False])
def test_a_memory_on_one_side_only(there: bool) -> None:
    # The trunk reads 12 numbers on both sides, but not the same ones.
    memory = {"rnn": {"type": "gru", "hidden_size": 12}}
    source, target = make(OLD, **(memory if there else {})), make(OLD, **({} if there else memory))
    before = copy.deepcopy(target.state_dict())
    report = load_misaligned_state_dict(target, source.state_dict(), OLD)
    assert "memory on one side only" in dict(report.skipped)["actor.model.0.weight"]
    assert th.equal(target.state_dict()["actor.model.0.weight"], before["actor.model.0.weight"])
    assert "actor.model.2.weight" in report.copied


def test_an_error_leaves_the_policy_as_it_was() -> None:
    source, target = make(OLD), make(WIDER, empirical_normalization=True)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(StrlKeyError, match=r"has nothing for \['actor_reader.normalizer.mean'"):
        load_misaligned_state_dict(target, source.state_dict(), OLD, strict_missing=True)
    with pytest.raises(StrlValueError, match=r"source's actor has 9 columns .* has 12"):
        load_misaligned_state_dict(target, source.state_dict(), {"a": 3, "b": 6})
    with pytest.raises(StrlValueError, match="nothing of the source fits"):
        load_misaligned_state_dict(target, {"encoder.weight": th.zeros(2)}, OLD)
    after = target.state_dict()
    assert all(th.equal(value, after[name]) for name, value in before.items())


def test_other_hidden_widths_are_skipped() -> None:
    source, target = make(OLD, net_arch=[9]), make(PERMUTED)
    report = load_misaligned_state_dict(target, source.state_dict(), OLD)
    reasons = dict(report.skipped)
    assert reasons["actor.model.0.weight"] == "(9,) rows there, (8,) here"
    assert reasons["actor.model.0.bias"] == "shape (9,) there, (8,) here"
    assert "actor.model.2.bias" in report.copied


def test_the_report_is_a_table() -> None:
    source = make(OLD, empirical_normalization=True)
    report = load_misaligned_state_dict(make(WIDER, net_arch=[8, 8]), source.state_dict(), OLD)
    lines = {line.split()[0]: line for line in str(report).splitlines() if line.split()}
    assert "by segment  took c, a, b; new new, late" in lines["actor.model.0.weight"]
    assert lines["actor.model.0.bias"].endswith("copied")
    assert "not in the source" in lines["actor.model.4.weight"]
    assert "unused" in lines["actor_reader.normalizer.mean"]
    assert "shape (2, 8) there, (8, 8) here" in lines["actor.model.2.weight"]
