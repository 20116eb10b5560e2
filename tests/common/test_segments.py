"""Names become columns, exactly once, or an error that says why not."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.segments import ObsLayout, get_subobs, group_spaces, is_image_group
from tests.envs.toy import box

TWO = spaces.Dict({"policy": box(6), "critic": box(4)})


def test_segments_lie_one_after_another_in_the_declared_order() -> None:
    layout = ObsLayout(box(7), {"b": (2, 2), "a": 3})
    placed = [(s.name, s.group, s.start, s.stop, s.shape) for s in layout.segments["policy"]]
    assert placed == [("b", "policy", 0, 4, (2, 2)), ("a", "policy", 4, 7, (3,))]
    obs = th.arange(14.0).view(2, 7)
    assert get_subobs(obs, layout.find("a", ["policy"])).tolist() == [[4, 5, 6], [11, 12, 13]]


def test_a_group_without_segments_is_one_segment_of_its_own_name() -> None:
    layout = ObsLayout(TWO, {"critic": {"x": 1, "y": 3}})
    assert [(s.name, s.shape) for s in layout.segments["policy"]] == [("policy", (6,))]
    assert [(s.name, s.start) for s in layout.of(["policy", "critic"])] == [
        ("policy", 0),
        ("x", 0),
        ("y", 1),
    ]


def test_flat_segments_divide_the_only_group_whatever_its_name() -> None:
    layout = ObsLayout(spaces.Dict({"proprio": box(5)}), {"joints": 3, "gravity": 2})
    assert [s.name for s in layout.segments["proprio"]] == ["joints", "gravity"]


def test_flat_segments_of_a_dict_divide_the_policy_group() -> None:
    layout = ObsLayout(TWO, {"a": 2, "b": 4})
    assert [s.name for s in layout.segments["policy"]] == ["a", "b"]
    assert [s.name for s in layout.segments["critic"]] == ["critic"]


def test_numpy_sizes_become_plain_integers() -> None:
    segment = ObsLayout(box(6), {"a": (np.int64(2), np.int64(3))}).segments["policy"][0]
    assert all(type(size) is int for size in (*segment.shape, segment.size, segment.stop))


def test_layout_as_plain_data_builds_the_same_layout() -> None:
    given = {"policy": {"a": (2, 2), "b": 2}}
    layout = ObsLayout(TWO, given)
    assert layout.to_dict() == {
        "policy": {"a": [2, 2], "b": [2]},
        "critic": {"critic": [4]},
    }
    assert ObsLayout(TWO, layout.to_dict()).segments == layout.segments


def test_images_and_discrete_groups() -> None:
    image = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    space = spaces.Dict({"image": image, "mode": spaces.Discrete(4), "window": box(2, 3)})
    layout = ObsLayout(space)
    assert layout.segments["image"][0].shape == (3, 8, 8)
    assert layout.segments["mode"][0].size == 4  # one-hot
    assert layout.segments["window"][0].shape == (6,)
    assert "image" not in layout.to_dict()
    assert is_image_group(image)
    assert not is_image_group(box(2, 3))
    assert list(group_spaces(box(2))) == ["policy"]
    with pytest.raises(StrlValueError, match=r"group 'image' of shape \(3, 8, 8\) is an image"):
        ObsLayout(space, {"image": {"left": 96, "right": 96}})


@pytest.mark.parametrize(
    ("segments", "error", "message"),
    [
        ({"a": 2, "b": 3}, StrlValueError, r"\{'a': 2, 'b': 3\} add up to 5 columns, but .* 6"),
        ({"a": 7}, StrlValueError, "add up to 7 columns"),
        ({"a": 6, "b": 0}, StrlValueError, r"'b' of group 'policy' has shape \(0,\)"),
        ({"polcy": {"a": 6}}, StrlKeyError, r"'polcy'\. Did you mean 'policy'\?"),
        ({"policy": {"a": "x"}}, StrlTypeError, r"'a' has the shape 'x'\. Expected a whole number"),
        ({"policy": {"a": [2.5]}}, StrlTypeError, r"'a' has the shape \[2.5\]"),
        ({"policy": {"a": None}}, StrlTypeError, r"'a' has the shape None"),
        ({"policy": {"a": 6}, "critic": 4}, StrlTypeError, r"'critic' are 4\. Expected \{segment"),
    ],
)
def test_a_layout_that_cannot_be_says_why(segments, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ObsLayout(TWO, segments)


def test_flat_segments_of_several_groups_must_say_which() -> None:
    space = spaces.Dict({"a": box(2), "b": box(2)})
    with pytest.raises(StrlValueError, match=r"\['x'\] do not say which group they divide"):
        ObsLayout(space, {"x": 2})


def test_unknown_and_ambiguous_names() -> None:
    layout = ObsLayout(TWO, {"policy": {"x": 6}, "critic": {"x": 4}})
    with pytest.raises(StrlValueError, match=r"share the segment names \['x'\]"):
        layout.of(["policy", "critic"])
    with pytest.raises(StrlKeyError, match=r"no observation group 'critc'\. Did you mean 'critic'"):
        layout.of(["critc"])
    with pytest.raises(StrlKeyError, match=r"here: unknown segment 'z'\. The groups .* have: \['x"):
        layout.find("z", ["policy"], "here")
