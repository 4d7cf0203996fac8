import pytest

from worldsim.evaluate.verdict import outlook, verdict


def row(psnr=30.0, copy=25.0, shuffled=27.0, tokenizer=32.0, width=0.5):
    figures = {"psnr": psnr, "copy_psnr": copy, "shuffled_psnr": shuffled, "tokenizer_psnr": tokenizer}
    for rival, value in (("copy", copy), ("shuffled", shuffled)):
        figures[f"above_{rival}"] = psnr - value
        figures[f"above_{rival}_ci"] = [psnr - value - width, psnr - value + width]
    return figures


def told(one=None, sixteen=None, **parts):
    report = {
        "horizons": {"1": row(**(one or {})), "16": row(**(sixteen or {}))},
        "actions": {"real_accuracy": 0.9, "real_accuracy_ci": [0.85, 0.95], "dream_accuracy": 0.8,
                    "most_frequent_action": 0.4},
        "rewards": {"steps": 16, "real_mean": 0.1, "real_deviation": 1.0,
                    "teacher_forced": {"correlation": 0.9, "correlation_ci": [0.8, 0.95], "bias": 0.0},
                    "dream": {"bias": 0.1, "bias_ci": [-0.2, 0.4]}},
        "endings": {"real": {"hazard": 0.01}, "teacher_forced": {"recall_within_2": 0.8}},
    }  # fmt: skip
    return "\n".join(verdict(report | parts))


def test_a_good_world_can_do_all_of_it():
    text = told()
    assert "cannot" not in text and text.count("It can ") == 5
    assert "predict: one step ahead its frames are 5.0 dB better than repeating the last one" in text
    assert "16 steps ahead its frames are 3.0 dB better" in text


def test_a_world_that_is_worse_than_copying_is_told_so_with_the_tokenizer_to_blame():
    text = told(one={"psnr": 24, "tokenizer": 24.5})
    assert "cannot predict yet" in text and "-1.0 dB" in text and "train the tokenizer longer" in text
    assert "To make it better" not in text  # it is said already


def test_a_world_that_is_worse_than_copying_though_its_tokenizer_is_good_needs_dynamics():
    assert "the tokenizer would allow 32.0 dB; train the dynamics longer" in told(one={"psnr": 24})


def test_a_gain_whose_interval_holds_0_is_none():
    assert "cannot predict yet" in told(one={"width": 5.5})


def test_ignored_actions_ask_for_more_varied_ones():
    text = told(sixteen={"shuffled": 30.2})
    assert "cannot obey actions yet: 16 steps ahead" in text and "record more varied actions" in text


def test_the_tokenizer_as_the_limit_is_named():
    assert "31.5 dB and the tokenizer alone 32.0 dB, which is the limit" in told(one={"psnr": 31.5})


def test_a_world_far_below_its_tokenizer_needs_time_for_the_dynamics():
    assert "give the dynamics more time" in told(one={"tokenizer": 36.0})


@pytest.mark.parametrize(
    ("hazard", "recall", "wanted"),
    [
        (0.0, float("nan"), "cannot say when episodes end: no held-out episode does"),
        (0.01, 0.1, "cannot foresee endings: of those of real episodes it expects 10%"),
        (0.01, float("nan"), "it expects none"),
    ],
)
def test_endings_that_are_not_learned_are_told(hazard, recall, wanted):
    assert wanted in told(endings={"real": {"hazard": hazard}, "teacher_forced": {"recall_within_2": recall}})


def test_rewards_that_are_not_learned_and_dreams_that_pay_too_much_are_told():
    rewards = {
        "steps": 16, "real_mean": 0.1, "real_deviation": 1.0, "dream": {"bias": 9.0, "bias_ci": [8.0, 10.0]},
        "teacher_forced": {"correlation": 0.1, "correlation_ci": [-0.1, 0.3], "bias": 0.5},
    }  # fmt: skip
    text = told(rewards=rewards)
    assert "cannot predict rewards" in text and "over 16 steps its dreams give 9 more" in text


def test_rewards_that_are_always_the_same_are_only_judged_by_their_size():
    nothing = float("nan")
    constant = {"steps": 16, "real_mean": 1.0, "real_deviation": 0.0, "dream": {"bias": 0.0, "bias_ci": [0, 0]}}
    head = {"correlation": nothing, "correlation_ci": [nothing, nothing]}
    assert "rewards" not in told(rewards={**constant, "teacher_forced": {**head, "bias": 0.01}})
    assert "cannot predict rewards" in told(rewards={**constant, "teacher_forced": {**head, "bias": -0.5}})


def test_a_probe_judges_dreams_only_where_it_can_tell_real_frames():
    box = {"real_correlation": 0.8, "real_correlation_ci": [0.7, 0.9], "dream_correlation": 0.1}
    assert "cannot show what actions do" in told(actions=box)
    assert "It can show what actions do" in told(actions={**box, "dream_correlation": 0.7})
    assert "show what actions do" not in told(actions={**box, "real_correlation_ci": [0.1, 0.9]})


def test_the_outlook_follows_the_power_law_up_to_the_tokenizer():
    curve = [{"step": step, "one_step_mse": 4 * step**-0.5} for step in range(20, 1001, 20)]
    report = {"horizons": {"1": row(psnr=20.0, tokenizer=30.0), "16": row()}}
    text = outlook(report, curve, 1000, 4.0)  # four times the steps, half the excess of 0.009 over 0.001
    assert "20.0 dB now would become about 22.6 dB" in text and "power 0.50" in text and "extrapolation" in text
    assert "about 30.0 dB" in outlook(report, curve, 1000, 1e9)  # the ceiling


def test_the_outlook_of_a_curve_that_rises_promises_nothing():
    curve = [{"step": step, "one_step_mse": step**0.5} for step in range(20, 1001, 20)]
    assert "would become about 20.0 dB" in outlook({"horizons": {"1": row(psnr=20.0)}}, curve, 1000, 20.0)


def test_too_few_steps_are_not_extrapolated():
    assert "cannot be foreseen from 60 steps" in outlook({"horizons": {"1": row()}}, [], 60, 20.0)
