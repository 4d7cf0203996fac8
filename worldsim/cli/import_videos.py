"""`worldsim import`: makes an episode store of video files and a table of actions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from worldsim.data.importing import import_videos as write_videos


def import_videos(
    videos: Annotated[Path, tyro.conf.Positional],
    /,
    actions: Path,
    out: Path,
    height: int = 64,
    width: int = 64,
    source: str = "import",
) -> None:
    """Make an episode store of video files and a table of the actions that were played in them.

    Each video is an episode. The table is a CSV file with a row for each action and the columns file (or episode: the
    video's name, with or without its ending), step (from 0: the action between that frame and the next), action (a
    whole number) or action_0, action_1, ... (numbers), and, if they are known, reward and terminated.

    Args:
        videos: folder of the videos (mp4, or anything else that FFmpeg reads).
        actions: the table.
        out: folder of the store; must be empty or absent.
        height: height of the frames in the store.
        width: width of the frames in the store.
        source: name of what was recorded; stores that are trained on together need the same.
    """
    store = write_videos(videos, actions, out, height=height, width=width, source=source)
    print(
        f"imported {len(store)} episodes, {store.num_steps} steps at {store.meta.fps:g} a second into {out}; go on "
        f"with worldsim train tokenizer --data {out} --out RUN"
    )
