"""Images and clips on disk: contact sheets (PNG) and H.264 video (MP4), through Pillow and PyAV."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from PIL import Image

from worldsim.errors import InvalidInput
from worldsim.io.files import Draft, write_atomically, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from worldsim.spec import WorldSpec

AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)


def enlarge(images: np.ndarray, scale: int) -> np.ndarray:
    """Repeat every pixel `scale` times in both directions: (..., H, W, 3) -> (..., H * scale, W * scale, 3)."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2)


def contact_sheet(rows: Sequence[np.ndarray], *, scale: int = 2, gap: int = 2) -> np.ndarray:
    """Lay out rows of images, each (N, H, W, 3) uint8, as one image on a white ground."""
    strips = []
    for row in rows:
        padded = np.pad(enlarge(row, scale), ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        strips.append(np.concatenate(list(padded), axis=1))
    width = max(strip.shape[1] for strip in strips)
    strips = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(strips, axis=0)


def save_image(path: Path | str, image: np.ndarray) -> None:
    """Write one image (H, W, 3) uint8, whole or not at all; the format follows the file's ending.

    Raises InvalidInput where it cannot be written, and for an ending that is no image's.
    """
    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None:
        raise InvalidInput(f"image path {str(path)!r} has no ending that is known; let it end in .png")
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind)
    write_atomically(path, data.getvalue())


def save_figure(path: Path | str, figure: Figure, *, dpi: int = 100) -> None:
    """Write a plot, whole or not at all, as `save_image` writes a image."""
    data = io.BytesIO()
    figure.savefig(data, dpi=dpi, format=Path(path).suffix[1:])
    write_atomically(path, data.getvalue())


@dataclass(frozen=True)
class Sound:
    """What the sound track of a clip is made of."""

    rate: int  # samples a second
    channels: int


def _aac_rate(rate: int) -> int:
    """The rate of a track: that of the sound, or the next one above it that AAC knows, to which it is resampled."""
    return next((known for known in AAC_RATES if known >= rate), AAC_RATES[-1])


def sound_track(spec: WorldSpec) -> Sound | None:
    """The sound track of a clip of this world; None where it gives no sound."""
    return None if spec.audio is None else Sound(spec.audio_rate, spec.audio.shape[1])


class VideoWriter:
    """Write images (H, W, 3) uint8 to an MP4 as they come; use as a context manager.

    The file appears when it is closed; a full disk leaves what was there. Raises InvalidInput for a path that is no
    MP4 or cannot be written, and for a image that does not fit the clip.
    """

    def __init__(self, path: Path | str, fps: float, *, scale: int = 1, sound: Sound | None = None) -> None:
        """`sound` gives the clip a track of that rate and so many channels, which `write_sound` fills."""
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise InvalidInput(f"video path {str(path)!r} does not end in .mp4; give it that ending")
        self._scale = scale
        with writing(self.path):
            self._draft = Draft(self.path)
            self._draft.partial.open("wb").close()  # PyAV opens it only with the first image
            self._container = av.open(str(self._draft.partial), mode="w")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "16", "preset": "veryfast"}
        self._sound = None if sound is None else self._container.add_stream("aac", rate=_aac_rate(sound.rate))
        if self._sound is not None and sound is not None:
            self._sound.layout = "mono" if sound.channels == 1 else "stereo"
            self._rate = sound.rate
        self._channels, self._samples = (0 if sound is None else sound.channels), 0
        self._early: list[np.ndarray] = []  # sound before the first image, which says what the file's header holds
        self._size: tuple[int, ...] | None = None
        self._finished = self._closed = False

    def write(self, image: np.ndarray) -> None:
        """Append one image; all images of a clip have the same size."""
        kind = image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        if not kind or self._size not in (None, image.shape) or min(image.shape[:2]) * self._scale < 2:
            raise InvalidInput(
                f"image has dtype {image.dtype} and shape {image.shape}; a clip takes uint8 images (H, W, 3), "
                "all of one size, of 2 x 2 pixels or more"
            )
        first, self._size = self._size is None, image.shape
        image = enlarge(image, self._scale)
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # H.264 with 4:2:0 wants even sides
        if first:
            self._stream.width, self._stream.height = width, height
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        with self._or_nothing():
            self._container.mux(self._stream.encode(frame))
        early, self._early = self._early, []
        for samples in early:
            self.write_sound(samples)

    def write_sound(self, samples: np.ndarray) -> None:
        """Append samples (N, channels) int16 to the sound track; the clip is made with `sound` then."""
        if self._sound is None or samples.dtype != np.int16 or samples.shape[1:] != (self._channels,):
            raise InvalidInput(
                f"sound has dtype {samples.dtype} and shape {samples.shape}; this clip takes int16 samples "
                f"(N, {self._channels})"
            )
        if self._size is None:
            self._early.append(samples)
            return
        layout = self._sound.layout.name
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = self._rate, self._samples
        frame.time_base = Fraction(1, self._rate)
        self._samples += len(samples)
        with self._or_nothing():
            self._container.mux(self._sound.encode(frame))

    def finish(self) -> None:
        """Encode what is left, so that `close` needs no more space; may be called twice."""
        if self._finished or self._closed:
            return
        self._finished = True
        with self._or_nothing():
            if self._size is not None:
                streams: list[Any] = [self._stream, self._sound]
                for stream in filter(None, streams):
                    self._container.mux(stream.encode(None))
            self._container.close()

    def close(self) -> None:
        """Finish the file and put it in its place; may be called twice."""
        self.finish()
        if not self._closed:
            self._closed = True
            with self._or_nothing():
                self._draft.put_in_place()

    def discard(self) -> None:
        """Leave what was at the path before; may be called twice, and after `close`, when it does nothing."""
        if not self._closed:
            self._closed = True
            self._clear()

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Where the disk fails, take away what was written and raise InvalidInput."""
        with writing(self.path):
            try:
                yield
            except OSError:
                self._closed = True
                self._clear()
                raise

    def _clear(self) -> None:
        with contextlib.suppress(OSError):  # of the encoder, which would write on
            self._container.close()
        self._draft.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where the block failed, its error is the one to tell.
        with contextlib.suppress(*((InvalidInput,) if kind else ())):
            self.close()


def save_video(path: Path | str, images: Iterable[np.ndarray], fps: float, *, scale: int = 1) -> None:
    """Write images (T, H, W, 3) uint8 as an MP4 at `fps` images a second."""
    with VideoWriter(path, fps, scale=scale) as writer:
        for image in images:
            writer.write(image)
