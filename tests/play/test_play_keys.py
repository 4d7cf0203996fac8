import numpy as np
import pytest

from worldsim import ActionSpec
from worldsim.envs.play.keys import COMMANDS, ActionKeys, HeldKeys, bind_commands, parse_script
from worldsim.errors import InvalidInput

WALK = ActionSpec(
    n=5,
    meanings=("NOOP", "FORWARD", "TURN_LEFT", "TURN_RIGHT", "FORWARD_LEFT"),
    keys=((), ("up",), ("left",), ("right",), ("up", "left")),
)


@pytest.mark.parametrize(
    ("held", "action"),
    [
        ((), 0),
        (("up",), 1),
        (("left", "right"), 3),  # the key pressed last wins
        (("right", "left"), 2),
        (("left", "up"), 4),  # keys held together win over one of them
        (("up", "left", "right"), 4),
        (("x",), 0),
    ],
)
def test_held_keys_mean_an_action(held, action):
    np.testing.assert_array_equal(ActionKeys(WALK).action(held), np.array([action], np.int64))


def test_a_world_without_keys_is_played_with_digits():
    keys = ActionKeys(ActionSpec(n=3))
    assert keys.names == ("1", "2")
    assert [keys.action(held)[0] for held in ((), ("1",), ("2",))] == [0, 1, 2]
    assert keys.table() == [(("1",), "action 1"), (("2",), "action 2")]


def test_a_continuous_world_is_played_with_pairs_of_keys():
    keys = ActionKeys(ActionSpec(low=(-1.0, 0.0), high=(1.0, 4.0)))
    np.testing.assert_array_equal(keys.action(()), np.array([[0, 0]], np.float32))
    np.testing.assert_array_equal(keys.action(("left", "up")), np.array([[-1, 4]], np.float32))
    np.testing.assert_array_equal(keys.action(("left", "right", "down")), np.array([[0, 0]], np.float32))


def test_a_continuous_world_may_name_its_keys():
    keys = ActionKeys(
        ActionSpec(low=(-1.0, 0.0, 2.0), high=(1.0, 1.0, 4.0), keys=(("left", "right"), ("", "up"), ("", "")))
    )
    assert keys.names == ("left", "right", "up")
    assert keys.action(()).tolist() == [[0, 0, 3]] and keys.action(("up", "left")).tolist() == [[-1, 1, 3]]
    assert keys.table() == [(("left", "right"), "action 0: down, up"), (("up",), "action 1: up")]
    with pytest.raises(InvalidInput, match="a pair for each"):
        ActionKeys(ActionSpec(low=(-1.0, 0.0), high=(1.0, 1.0), keys=(("left", "right"),)))


def test_held_keys_turn_a_wheel_and_let_it_spring_back():
    keys = ActionKeys(ActionSpec(low=(-1.0,), high=(1.0,)))
    wheel, turned = None, []
    for held in ((), ("right",), ("right",), ("right",), ("right",), (), ("left",)):
        wheel = keys.towards(wheel, keys.action(held), 0.1)
        turned.append(float(wheel[0, 0]))
    assert turned == pytest.approx([0, 0.5, 1, 1, 1, 0, -0.5])
    buttons = ActionKeys(ActionSpec(n=3))
    assert buttons.towards(np.array([0]), buttons.action(("1",)), 0.01).tolist() == [1]


def test_keys_for_some_actions_only_are_refused():
    with pytest.raises(InvalidInput, match="keys for 1 of 2 actions"):
        ActionKeys(ActionSpec(n=2, keys=((),)))


def test_action_keys_go_before_commands_and_every_command_keeps_one():
    letters = ("p", "n", "r", "space", ".", "-")
    actions = ActionKeys(ActionSpec(n=7, keys=((), *((key,) for key in letters))))
    bound = bind_commands(actions)
    assert set(bound) == {command.name for command in COMMANDS}
    assert all(bound.values())
    assert not set(letters) & {key for keys in bound.values() for key in keys}


def test_actions_that_take_all_keys_of_a_command_are_refused():
    with pytest.raises(InvalidInput, match="quit"):
        bind_commands(ActionKeys(ActionSpec(n=2, keys=((), ("escape",)))))


def test_a_tap_between_two_steps_counts_for_one_step():
    held = HeldKeys()
    held.press("left", 1.0)
    held.release("left")
    assert held.sample() == (("left",), 1.0)
    assert held.sample() == ((), None)


def test_a_tap_of_one_key_while_another_is_held_comes_last():
    held = HeldKeys()
    held.press("left", 1.0)
    assert held.sample() == (("left",), 1.0)
    held.press("right", 2.0)
    held.release("right")
    assert held.peek() == ("left", "right")
    assert held.sample() == (("left", "right"), 2.0)
    assert held.sample() == (("left",), None)


def test_the_oldest_unseen_press_is_reported():
    held = HeldKeys()
    held.press("left", 1.0)
    held.press("up", 2.0)
    assert held.sample()[1] == 1.0


def test_a_script_becomes_keys_for_each_step():
    steps = parse_script("left*2 noop up+left", ["left", "up"])
    assert steps == [("left",), ("left",), (), ("up", "left")]


@pytest.mark.parametrize("text", ["jump*3", "left*0", "left*", "left*-1", "left**2", "*3", "left+*2"])
def test_a_script_that_makes_no_sense_is_refused(text):
    with pytest.raises(InvalidInput, match="script word"):
        parse_script(text, ["left"])
