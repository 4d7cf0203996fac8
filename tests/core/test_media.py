"""Clips and contact sheets on disk: the right images, sizes and lengths."""

import av
import numpy as np
import pytest
from PIL import Image

from worldsim.errors import InvalidInput
from worldsim.io.media import VideoWriter, contact_sheet, enlarge, save_figure, save_image, save_video


def clip(count: int, height: int = 16, width: int = 32) -> np.ndarray:
    """Grey images, each brighter than the one before."""
    levels = np.linspace(20, 235, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def decode(path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return frames, float(container.streams.video[0].average_rate)


@pytest.mark.parametrize(("count", "fps"), [(1, 35), (40, 35), (7, 17.5)])
def test_a_clip_has_its_frames_in_order_at_its_speed(tmp_path, count, fps):
    save_video(tmp_path / "clips" / "a.mp4", clip(count), fps)
    frames, rate = decode(tmp_path / "clips" / "a.mp4")
    assert frames.shape == (count, 16, 32, 3) and rate == pytest.approx(fps)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), clip(count).mean((1, 2, 3)), atol=4)
    with av.open(str(tmp_path / "clips" / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(stream.duration * stream.time_base) == pytest.approx(count / fps, rel=0.01)


@pytest.mark.parametrize(("size", "shown"), [((17, 33), (16, 32)), ((16, 33), (16, 32)), ((3, 5), (2, 4))])
def test_odd_sides_lose_their_last_line(tmp_path, size, shown):
    images = clip(3, *size)
    images[:, : size[0] // 2] = 0
    save_video(tmp_path / "a.mp4", images, 10)
    frames, _ = decode(tmp_path / "a.mp4")
    assert frames.shape == (3, *shown, 3)
    assert frames[2, 0].mean() < 30 and frames[2, -1].mean() > 200


def test_a_clip_can_be_enlarged(tmp_path):
    save_video(tmp_path / "a.mp4", clip(2, 5, 7), 10, scale=3)
    assert decode(tmp_path / "a.mp4")[0].shape == (2, 14, 20, 3)


def test_frames_are_written_as_they_come_and_closing_twice_is_fine(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 10)
    for image in clip(5):
        writer.write(image)
    writer.close()
    writer.close()
    assert len(decode(tmp_path / "a.mp4")[0]) == 5


def test_a_clip_is_finished_even_when_its_maker_fails(tmp_path):
    with pytest.raises(ValueError, match="mid-clip"), VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for image in clip(4):
            writer.write(image)
        raise ValueError("mid-clip")
    assert len(decode(tmp_path / "a.mp4")[0]) == 4


@pytest.mark.parametrize("name", ["a.avi", "a", "a.mp4.txt"])
def test_another_ending_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(InvalidInput, match=r"\.mp4"):
        VideoWriter(tmp_path / "new" / name, 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p[:, :8], "size"), (lambda p: p[:-2], "size"), (lambda p: p[..., 0], "shape"),
        (lambda p: p.astype(np.float32), "float32"), (lambda p: p[:1], "size"),
    ],
)  # fmt: skip
def test_a_frame_of_another_kind_is_refused_and_the_clip_goes_on(tmp_path, change, reason):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(clip(1)[0])
        with pytest.raises(InvalidInput, match=reason):
            writer.write(change(clip(1)[0]))
        writer.write(clip(1)[0])
    assert len(decode(tmp_path / "a.mp4")[0]) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file/a\.mp4"):
        VideoWriter(tmp_path / "file" / "a.mp4", 10)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InvalidInput, match=r"folder\.mp4"):
        VideoWriter(tmp_path / "folder.mp4", 10)


def test_enlarging_repeats_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(image[None], 2)
    assert large.shape == (1, 4, 4, 3) and (large[0, ::2, ::2] == image).all() and (large[0, 1::2, 1::2] == image).all()


def test_a_contact_sheet_has_a_row_for_each_row():
    one, other = clip(3, 4, 6), 255 - clip(2, 4, 6)
    sheet = contact_sheet([one, other], scale=2, gap=3)
    assert sheet.shape == (2 * (4 * 2 + 3), 3 * (6 * 2 + 3), 3) and sheet.dtype == np.uint8
    assert (sheet[:8, :12] == one[0, 0, 0]).all() and (sheet[:8, 15:27] == one[1, 0, 0]).all()
    assert (sheet[11:19, 15:27] == other[1, 0, 0]).all()
    ground = np.ones(sheet.shape[:2], bool)
    for top, count in ((0, 3), (11, 2)):
        for i in range(count):
            ground[top : top + 8, i * 15 : i * 15 + 12] = False
    assert (sheet[ground] == 255).all()


def test_a_frame_is_read_back_as_it_was(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    save_image(tmp_path / "deep" / "a.png", image)
    assert (np.asarray(Image.open(tmp_path / "deep" / "a.png")) == image).all()


def test_a_frame_with_an_ending_that_is_none_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"a\.txt'.*\.png"):
        save_image(tmp_path / "a.txt", clip(1)[0])


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def save_plot(path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(np.random.default_rng(0).random(1000))
    save_figure(path, figure)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.png", lambda path: save_image(path, noise(1)[0])),
        ("a.png", save_plot),
        ("a.mp4", lambda path: save_video(path, noise(30), 10)),
        ("a.mp4", lambda path: save_video(path, noise(3), 10)),  # which is written when it is closed
    ],
)
@pytest.mark.parametrize("older", [None, b"older"])
def test_a_full_disk_leaves_what_was_there(tmp_path, full_disk, name, save, older):
    if older is not None:
        (tmp_path / name).write_bytes(older)
    with full_disk(4000), pytest.raises(InvalidInput, match=rf"cannot write .*{name}.*disk with space"):
        save(tmp_path / name)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if older is None else [older])
