"""Pictures and clips on disk: contact sheets (PNG) and H.264 video (MP4), through Pillow and PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from worldsim.errors import InvalidInput


def enlarge(pictures: np.ndarray, scale: int) -> np.ndarray:
    """Repeat every pixel `scale` times in both directions: (..., H, W, 3) -> (..., H * scale, W * scale, 3)."""
    return pictures.repeat(scale, axis=-3).repeat(scale, axis=-2)


def contact_sheet(rows: Sequence[np.ndarray], *, scale: int = 2, gap: int = 2) -> np.ndarray:
    """Lay out rows of pictures, each (N, H, W, 3) uint8, as one picture on a white ground."""
    strips = []
    for row in rows:
        padded = np.pad(enlarge(row, scale), ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        strips.append(np.concatenate(list(padded), axis=1))
    width = max(strip.shape[1] for strip in strips)
    strips = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(strips, axis=0)


def save_picture(path: Path | str, picture: np.ndarray) -> None:
    """Write one picture (H, W, 3) uint8; the format follows the file's ending."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


class VideoWriter:
    """Write pictures (H, W, 3) uint8 to an MP4 as they come; use as a context manager.

    Raises InvalidInput for a path that is no MP4 or cannot be written, and for a picture that does not fit the clip.
    """

    def __init__(self, path: Path | str, fps: float, *, scale: int = 1) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise InvalidInput(f"video path {str(path)!r} does not end in .mp4; give it that ending")
        self._scale = scale
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("wb").close()  # PyAV opens it only with the first picture
        except OSError as error:
            raise InvalidInput(f"cannot write video {str(path)!r} ({error}); give another path") from error
        self._container = av.open(str(self.path), mode="w")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "16", "preset": "veryfast"}
        self._size: tuple[int, ...] | None = None
        self._closed = False

    def write(self, picture: np.ndarray) -> None:
        """Append one picture; all pictures of a clip have the same size."""
        kind = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3
        if not kind or self._size not in (None, picture.shape) or min(picture.shape[:2]) * self._scale < 2:
            raise InvalidInput(
                f"picture has dtype {picture.dtype} and shape {picture.shape}; a clip takes uint8 pictures (H, W, 3), "
                "all of one size, of 2 x 2 pixels or more"
            )
        first, self._size = self._size is None, picture.shape
        picture = enlarge(picture, self._scale)
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # H.264 with 4:2:0 wants even sides
        if first:
            self._stream.width, self._stream.height = width, height
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush the encoder and finish the file; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._size is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def save_video(path: Path | str, pictures: Iterable[np.ndarray], fps: float, *, scale: int = 1) -> None:
    """Write pictures (T, H, W, 3) uint8 as an MP4 at `fps` pictures a second."""
    with VideoWriter(path, fps, scale=scale) as writer:
        for picture in pictures:
            writer.write(picture)
