import numpy as np
import pytest
from take_cover import blobs as found_blobs
from take_cover import tracks

LARGE, find_blobs, count_blobs = found_blobs.LARGE, found_blobs.find_blobs, found_blobs.count_blobs
GAP, follow = tracks.GAP, tracks.follow

BRIGHT, ORANGE, WALL = (255, 250, 180), (240, 150, 60), (140, 115, 95)


def room(count: int = 1, height: int = 64, width: int = 128) -> np.ndarray:
    return np.full((count, height, width, 3), WALL, np.uint8)


def disc(frames: np.ndarray, t: int, x: float, y: float, radius: float, colour=BRIGHT) -> None:
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]]
    frames[t][(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = colour


def test_walls_hold_no_blobs():
    assert len(find_blobs(room(3)).area) == 0


def test_two_discs_are_found_with_place_and_size():
    frames = room()
    disc(frames, 0, 30, 20, 3)
    disc(frames, 0, 90, 40, 6, ORANGE)
    blobs = find_blobs(frames)
    assert blobs.box.tolist() == [[27, 17, 34, 24], [84, 34, 97, 47]]
    assert blobs.centre.tolist() == [[30.5, 20.5], [90.5, 40.5]]
    assert blobs.diameter == pytest.approx([6, 12], rel=0.08)


def test_a_shape_whose_arms_meet_only_below_is_one_blob():
    frames = room()
    frames[0, 10:20, 10] = frames[0, 10:20, 20] = frames[0, 20, 10:21] = BRIGHT
    blobs = find_blobs(frames)
    assert blobs.area.tolist() == [31] and blobs.box.tolist() == [[10, 10, 21, 21]]


def test_pixels_that_touch_at_a_corner_are_one_blob():
    frames = room()
    frames[0, 5, 5] = frames[0, 6, 6] = frames[0, 7, 5] = BRIGHT
    assert find_blobs(frames).area.tolist() == [3]


def test_blobs_do_not_reach_from_one_frame_into_the_next():
    frames = room(2)
    frames[0, -1, 10:14] = frames[1, 0, 10:14] = BRIGHT
    blobs = find_blobs(frames)
    assert blobs.frame.tolist() == [0, 1] and blobs.area.tolist() == [4, 4]


def test_blobs_are_counted_in_every_frame_those_without_any_included():
    frames = room(4)
    disc(frames, 1, 30, 20, 3)
    disc(frames, 1, 90, 40, 3)
    disc(frames, 2, 30, 20, 3)
    assert count_blobs(frames).tolist() == [0, 2, 1, 0]
    assert count_blobs(room(2)).tolist() == [0, 0]


def test_a_single_bright_pixel_is_no_fireball():
    frames = room()
    frames[0, 30, 30] = BRIGHT
    assert len(find_blobs(frames).area) == 0


def test_the_shreds_inside_an_explosion_belong_to_it():
    frames = room()
    disc(frames, 0, 60, 30, 20, ORANGE)
    disc(frames, 0, 60, 30, 16, WALL)
    disc(frames, 0, 60, 30, 4)
    disc(frames, 0, 110, 30, 4)
    blobs = find_blobs(frames)
    assert len(blobs.area) == 2 and blobs.area.max() > LARGE
    assert blobs.area.sum() == (frames[0, ..., 0] > 200).sum()


def flight(places: list[tuple[float, float] | None], radius: float = 2) -> np.ndarray:
    frames = room(len(places))
    for t, place in enumerate(places):
        if place is not None:
            disc(frames, t, *place, radius)
    return frames


def test_a_blob_that_moves_is_one_track():
    tracks = follow(find_blobs(flight([(10 + 4 * t, 30) for t in range(12)])))
    assert (tracks.first.tolist(), tracks.last.tolist()) == ([0], [11])


def test_a_blob_hidden_for_a_moment_stays_one_track():
    places = [(10 + 2 * t, 30) for t in range(12)]
    hidden = [None if 5 <= t < 5 + GAP else place for t, place in enumerate(places)]
    assert len(follow(find_blobs(flight(hidden))).first) == 1


def test_a_blob_gone_for_long_comes_back_as_another():
    places = [(30, 30)] * 4 + [None] * (GAP + 1) + [(30, 30)] * 4
    assert follow(find_blobs(flight(places))).first.tolist() == [0, 4 + GAP + 1]


def test_two_blobs_side_by_side_are_two_tracks():
    frames = flight([(20 + 2 * t, 30) for t in range(8)])
    for t in range(8):
        disc(frames, t, 100 - 2 * t, 30, 2)
    assert len(follow(find_blobs(frames)).first) == 2


def test_a_flicker_is_no_track():
    assert len(follow(find_blobs(flight([None, (30, 30), None, None]))).first) == 0
