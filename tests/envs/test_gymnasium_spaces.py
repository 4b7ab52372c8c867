"""Every space of Gymnasium through the codecs: declarations, exact values, bad values."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from nervex.envs.base_env import EnvElementInfo, LeafSpec, spec_tree
from nervex.envs.gymnasium_spaces import action_codec, observation_codec
from nervex.utils.errors import ConfigError, SpecError

INF = np.inf


def _observe(space: gymnasium.Space, value):
    element, encode = observation_codec(space, "observation space of 'T-v0'")
    return element, encode(value)


def _act(space: gymnasium.Space, value, scale_action: bool = True):
    element, decode = action_codec(space, "action space of 'T-v0'", scale_action)
    return element, decode(value)


def test_box_float64_becomes_float32_with_its_bounds():
    space = spaces.Box(np.array([-0.1, -INF, 0.0]), np.array([0.3, INF, 1e300]), dtype=np.float64)
    element, obs = _observe(space, np.array([0.3, 1.5, 2.0]))
    assert element.shape == 3
    assert obs.dtype == np.float32
    np.testing.assert_array_equal(obs, np.float32([0.3, 1.5, 2.0]))
    assert element.value["dtype"] is np.float32
    assert element.value["kind"] == "box"
    np.testing.assert_array_equal(element.value["min"], np.float32([-0.1, -INF, 0.0]))
    np.testing.assert_array_equal(element.value["max"], np.float32([0.3, INF, INF]))


def test_box_bounds_are_one_number_where_all_agree():
    element, _ = _observe(spaces.Box(-2.0, 5.0, (2, 3), np.float32), np.zeros((2, 3), np.float32))
    assert element == EnvElementInfo((2, 3), {"min": -2.0, "max": 5.0, "dtype": np.float32, "kind": "box"})


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float16, np.float32])
def test_box_keeps_other_dtypes_and_passes_the_array_on(dtype):
    value = np.arange(12, dtype=dtype).reshape(3, 2, 2)
    element, obs = _observe(spaces.Box(0, 255, (3, 2, 2), dtype), value)
    assert element.shape == (3, 2, 2)
    assert element.value["dtype"] is dtype
    assert obs is value


def test_box_with_one_scalar():
    element, obs = _observe(spaces.Box(0.0, 1.0, (), np.float64), 0.25)
    assert element.shape == ()
    assert obs.shape == ()
    assert obs.dtype == np.float32
    assert obs == 0.25


def test_a_wrong_dtype_of_an_integer_box_is_left_for_the_check_to_see():
    _, obs = _observe(spaces.Box(0, 9, (2,), np.uint8), np.array([0.5, 1.5]))
    assert obs.dtype == np.float64


@pytest.mark.parametrize(("start", "value", "hot"), [(0, 0, 0), (0, 3, 3), (5, 5, 0), (5, 8, 3), (-2, -1, 1)])
def test_discrete_observation_is_one_hot(start, value, hot):
    element, obs = _observe(spaces.Discrete(4, start=start), np.int64(value))
    assert element == EnvElementInfo(4, {"min": 0.0, "max": 1.0, "dtype": np.float32, "kind": "box"})
    np.testing.assert_array_equal(obs, np.eye(4, dtype=np.float32)[hot])
    assert obs.dtype == np.float32


@pytest.mark.parametrize("value", [4, 9])
def test_discrete_observation_out_of_range(value):
    with pytest.raises(SpecError, match=f"the env sent {value} for the observation space of 'T-v0', .* 5 to 8"):
        _observe(spaces.Discrete(4, start=5), value)


def test_one_hots_do_not_share_memory():
    _, encode = observation_codec(spaces.Discrete(3), "obs")
    first, second = encode(1), encode(1)
    first[:] = 7
    np.testing.assert_array_equal(second, [0, 1, 0])


def test_multi_discrete_observation_concatenates_one_hots():
    space = spaces.MultiDiscrete([2, 3, 1], start=[0, 10, -1])
    element, obs = _observe(space, np.array([1, 12, -1]))
    assert element.shape == 6
    np.testing.assert_array_equal(obs, np.float32([0, 1, 0, 0, 1, 1]))
    assert obs.dtype == np.float32


def test_multi_discrete_observation_of_two_dimensions_is_flattened_row_by_row():
    element, obs = _observe(spaces.MultiDiscrete([[2, 3], [2, 2]]), np.array([[0, 2], [1, 0]]))
    assert element.shape == 9
    np.testing.assert_array_equal(obs, np.float32([1, 0, 0, 0, 1, 0, 1, 1, 0]))


@pytest.mark.parametrize("value", [13, 9])
def test_multi_discrete_observation_out_of_range(value):
    with pytest.raises(SpecError, match=rf"sent \[1, {value}\] .* holds \[0, 10\] to \[1, 12\]"):
        _observe(spaces.MultiDiscrete([2, 3], start=[0, 10]), np.array([1, value]))


@pytest.mark.parametrize(("n", "shape"), [(3, 3), ((2, 2), (2, 2))])
def test_multi_binary_observation(n, shape):
    space = spaces.MultiBinary(n)
    value = space.sample()
    element, obs = _observe(space, value)
    assert element.shape == shape
    assert obs.dtype == np.float32
    np.testing.assert_array_equal(obs, value)


def test_nested_observation():
    space = spaces.Dict(
        {
            "arm": spaces.Dict({"angle": spaces.Box(-1, 1, (2,), np.float64), "grip": spaces.Discrete(2)}),
            "pair": spaces.Tuple([spaces.MultiBinary(2), spaces.Discrete(3, start=1)]),
        }
    )
    value = {"pair": (np.int8([0, 1]), 3), "arm": {"grip": 1, "angle": np.array([0.5, -0.5])}}
    element, obs = _observe(space, value)
    assert spec_tree(element) == {
        "arm": {
            "angle": LeafSpec((2,), np.dtype(np.float32), -1.0, 1.0, "box"),
            "grip": LeafSpec((2,), np.dtype(np.float32), 0.0, 1.0, "box"),
        },
        "pair": {
            "0": LeafSpec((2,), np.dtype(np.float32), 0.0, 1.0, "box"),
            "1": LeafSpec((3,), np.dtype(np.float32), 0.0, 1.0, "box"),
        },
    }
    np.testing.assert_array_equal(obs["arm"]["angle"], [0.5, -0.5])
    np.testing.assert_array_equal(obs["arm"]["grip"], [0, 1])
    np.testing.assert_array_equal(obs["pair"]["0"], [0, 1])
    np.testing.assert_array_equal(obs["pair"]["1"], [0, 0, 1])


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Graph(spaces.Discrete(2), None), "Graph"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]), "OneOf"),
    ],
)
def test_unsupported_spaces_name_the_supported_ones(space, name):
    supported = "supported are Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple: convert it with a wrapper"
    with pytest.raises(ConfigError, match=rf"observation space of 'T-v0' is {name}.*{supported}"):
        observation_codec(space, "observation space of 'T-v0'")
    with pytest.raises(ConfigError, match=rf"'goal' of the action space of 'T-v0' is {name}.*gymnasium.ActionWrapper"):
        action_codec(spaces.Dict({"goal": space}), "action space of 'T-v0'")


@pytest.mark.parametrize("start", [0, 3, -1])
def test_discrete_action_adds_the_start(start):
    space = spaces.Discrete(4, start=start)
    element, action = _act(space, 2)
    assert element == EnvElementInfo(4, {"min": 0, "max": 3, "dtype": np.int64, "kind": "discrete"})
    assert action == 2 + start
    assert type(action) is type(space.sample()) is np.int64


def test_discrete_actions_of_a_space_too_large_to_list():
    assert [_act(spaces.Discrete(5000, start=7), n)[1] for n in (0, 1023, 1024, 4999)] == [7, 1030, 1031, 5006]


@pytest.mark.parametrize("action", [-1, 4])
def test_discrete_action_out_of_range(action):
    with pytest.raises(SpecError, match=f"action {action} for the action space of 'T-v0' is not among its 4 actions"):
        _act(spaces.Discrete(4, start=2), action)


def test_multi_discrete_action():
    space = spaces.MultiDiscrete([2, 5], dtype=np.int32, start=[0, -2])
    element, action = _act(space, np.array([1, 4]))
    assert spec_tree(element, is_action=True).n == (2, 5)
    assert element.value["kind"] == "multi_discrete"
    np.testing.assert_array_equal(action, [1, 2])
    assert action.dtype == np.int32
    assert space.contains(action)


def test_multi_discrete_action_of_one_number_and_of_two_dimensions():
    element, action = _act(spaces.MultiDiscrete([3]), np.array([2]))
    assert spec_tree(element, is_action=True).shape == (1,)
    np.testing.assert_array_equal(action, [2])
    grid = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 0]])
    element, action = _act(grid, np.array([1, 2, 3, 4]))
    assert element.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(action, [[1, 3], [3, 4]])
    assert grid.contains(action)


def test_multi_discrete_action_out_of_range():
    with pytest.raises(SpecError, match=r"action \[1, 5\] is outside 0 to \[1, 4\]"):
        _act(spaces.MultiDiscrete([2, 5]), np.array([1, 5]))


def test_multi_binary_action_is_multi_discrete_of_twos():
    space = spaces.MultiBinary(3)
    element, action = _act(space, np.array([1, 0, 1]))
    assert element.shape == (2, 2, 2)
    assert element.value["kind"] == "multi_discrete"
    np.testing.assert_array_equal(action, [1, 0, 1])
    assert space.contains(action)


def test_box_action_is_scaled_from_minus_one_to_one():
    space = spaces.Box(np.float32([-2, 0, -1]), np.float32([2, 10, 3]), dtype=np.float32)
    element, decode = action_codec(space, "a")
    assert element == EnvElementInfo(3, {"min": -1.0, "max": 1.0, "dtype": np.float32, "kind": "box"})
    np.testing.assert_array_equal(decode(np.float32([-1, -1, -1])), [-2, 0, -1])
    np.testing.assert_array_equal(decode(np.float32([1, 1, 1])), [2, 10, 3])
    np.testing.assert_array_equal(decode(np.float32([0, 0, 0])), [0, 5, 1])
    np.testing.assert_array_equal(decode(np.float32([0.5, 0.5, 0.5])), [1, 7.5, 2])
    np.testing.assert_array_equal(decode(np.float32([-7, 7, 1.5])), [-2, 10, 3])
    assert decode(np.zeros(3)).dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-1e4, 1e4), st.floats(0, 1e4), st.floats(-1.5, 1.5), st.sampled_from([np.float32, np.float64, np.int32])
)
def test_scaled_action_is_always_inside_the_box(low, width, action, dtype):
    space = spaces.Box(np.asarray([low]).astype(dtype), np.asarray([low + width]).astype(dtype), dtype=dtype)
    _, decode = action_codec(space, "a")
    assert space.contains(decode(np.float32([action])))


def test_float64_box_action_arrives_as_float64():
    _, action = _act(spaces.Box(-4.0, 4.0, (2,), np.float64), np.float32([0.25, -0.5]))
    assert action.dtype == np.float64
    np.testing.assert_array_equal(action, [1.0, -2.0])


@pytest.mark.parametrize(
    ("low", "high", "scale_action"), [(-2.0, 2.0, False), (-INF, INF, True), (0.0, INF, True), (-INF, 1.0, True)]
)
def test_box_action_is_passed_on_where_it_is_not_scaled(low, high, scale_action):
    space = spaces.Box(low, high, (2,), np.float64)
    element, action = _act(space, np.float32([1.5, -30.25]), scale_action)
    assert (element.value["min"], element.value["max"]) == (low, high)
    assert action.dtype == np.float64
    np.testing.assert_array_equal(action, [1.5, -30.25])


def test_integer_box_action_is_rounded_and_clipped():
    space = spaces.Box(0, 10, (3,), np.uint8)
    np.testing.assert_array_equal(_act(space, np.float32([-1, 0.32, 1]))[1], [0, 7, 10])
    element, action = _act(space, np.float32([-3, 6.6, 300]), scale_action=False)
    np.testing.assert_array_equal(action, [0, 7, 10])
    assert action.dtype == np.uint8
    assert (element.value["min"], element.value["max"], element.value["dtype"]) == (0.0, 10.0, np.float32)


def test_box_action_of_two_dimensions_and_from_a_flat_row():
    _, decode = action_codec(spaces.Box(-2.0, 2.0, (2, 2), np.float32), "a")
    expected = [[2, -2], [1, 0]]
    np.testing.assert_array_equal(decode(np.float32([[1, -1], [0.5, 0]])), expected)
    np.testing.assert_array_equal(decode(np.float32([1, -1, 0.5, 0])), expected)


def test_nested_action():
    space = spaces.Dict(
        {
            "move": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(0.0, 4.0, (2,), np.float32)]),
            "keys": spaces.MultiBinary(2),
        }
    )
    element, action = _act(space, {"keys": np.array([1, 0]), "move": {"0": 2, "1": np.float32([-1, 0.5])}})
    assert spec_tree(element, is_action=True)["move"]["0"].n == 3
    assert action["move"][0] == 3
    np.testing.assert_array_equal(action["move"][1], [0, 3])
    np.testing.assert_array_equal(action["keys"], [1, 0])
    assert space.contains(action)


def test_the_space_is_not_shared_with_the_declaration():
    space = spaces.Box(np.float32([-1, 0]), np.float32([1, 2]), dtype=np.float32)
    element, _ = observation_codec(space, "obs")
    element.value["min"][:] = 99
    np.testing.assert_array_equal(space.low, [-1, 0])
