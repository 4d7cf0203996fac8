import numpy as np
import pytest

from worldsim.evaluate.metrics import (
    frechet_distance,
    gradient,
    interval,
    laplacian_variance,
    mean_square_error,
    psnr,
    ratio,
    ssim,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def frames(rng, count=3):
    return rng.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    grey = np.full_like(black, 51)  # a fifth of white: mean square error 0.04
    assert mean_square_error(black, grey) == pytest.approx([0.04, 0.04])
    assert psnr(mean_square_error(black, grey)) == pytest.approx(13.979, abs=1e-3)


def test_psnr_averages_errors_so_one_still_frame_does_not_make_it_infinite():
    assert psnr(np.array([0.0, 0.02])) == pytest.approx(20.0)


def test_ssim_is_one_for_equal_frames_and_falls_with_noise(rng):
    real = frames(rng)
    noisy = (real * 0.7 + frames(rng) * 0.3).astype(np.uint8)
    assert ssim(real, real) == pytest.approx(np.ones(3), abs=1e-5)
    assert (ssim(real, noisy) < 0.95).all()
    assert (ssim(real, noisy) > ssim(real, frames(rng))).all()


def test_ssim_of_two_flat_frames_is_the_luminance_term(rng):
    black, white = np.zeros((1, 24, 32, 3), np.uint8), np.full((1, 24, 32, 3), 255, np.uint8)
    assert ssim(black, white) == pytest.approx([1e-4 / (1 + 1e-4)], rel=1e-3)


def test_interval_holds_the_mean_and_narrows_with_more_units(rng):
    few, many = rng.normal(5, 1, 20), rng.normal(5, 1, 2000)
    low, high = interval(lambda i: float(few[i].mean()), len(few))
    assert low < few.mean() < high
    narrow = interval(lambda i: float(many[i].mean()), len(many))
    assert narrow[1] - narrow[0] < (high - low) / 4


def test_interval_leaves_out_resamples_without_a_value():
    low, high = interval(lambda i: ratio(1, int((i == 0).sum())), 2)
    assert low == 0.5 and high == 1.0


def test_interval_of_one_unit_is_its_value():
    assert interval(lambda i: float(i.sum()) + 3, 1) == [3, 3]


@pytest.mark.filterwarnings("error")
def test_interval_without_any_value_is_not_a_number_and_says_nothing():
    assert np.isnan(interval(lambda i: np.nan, 4)).all()


def test_ssim_leaves_out_windows_that_reach_over_the_edge():
    real = np.full((1, 24, 32, 3), 128, np.uint8)
    changed = real.copy()
    changed[:, 0, 0] = 255  # seen by the one window whose corner it is
    whole = changed.copy()
    whole[:, 12, 16] = 255  # seen by all windows of the middle
    assert 1 - ssim(real, changed)[0] < 1e-4 < 1e-2 < 1 - ssim(real, whole)[0]


def test_ratio_of_nothing_is_not_a_number():
    assert np.isnan(ratio(3, 0))


def test_frechet_distance_of_shifted_clouds_is_the_squared_shift(rng):
    cloud = rng.normal(size=(500, 4))
    assert frechet_distance(cloud, cloud) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(cloud, cloud + np.array([3, 0, 4, 0])) == pytest.approx(25, rel=1e-6)
    assert frechet_distance(cloud, 2 * cloud) > 1


def test_blurring_lowers_both_measures_of_sharpness(rng):
    sharp = frames(rng)
    blurred = ((sharp.astype(np.int16) + np.roll(sharp, 1, axis=1) + np.roll(sharp, 1, axis=2)) // 3).astype(np.uint8)
    assert (laplacian_variance(blurred) < laplacian_variance(sharp)).all()
    assert gradient(blurred).mean() < gradient(sharp).mean()
