"""Make the README's image and clip: the real game above the dream, with the same start and actions.

worldsim record doom-take-cover --steps 12000 --out data/take-cover-held-out --seed 3000 --between --labels
python docs/tools/readme_figures.py data/take-cover-held-out --out docs
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldsim import World
from worldsim.data.episodes import Episodes

MARGIN, GAP = 32, 4  # pixels for the words, and between frames


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="recorded episodes that the world was not trained on")
    parser.add_argument("--world", default="doom-take-cover", help="shipped name, local folder or hub id")
    parser.add_argument("--episode", type=int, help="of the store (default: the first that is long enough)")
    parser.add_argument("--start", type=int, default=70, help="row from which the dream goes on")
    parser.add_argument("--context", type=int, default=16, help="real frames that the dream begins with")
    parser.add_argument("--ahead", type=int, nargs="+", default=[4, 8, 16, 32], help="steps in the frame")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the clip")
    parser.add_argument("--scale", type=int, default=3, help="pixels down to one of the world")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder")
    args = parser.parse_args()

    world, store = World.from_pretrained(args.world), Episodes.open(args.store)
    steps = max(*args.ahead, round(args.seconds * world.spec.steps_per_second))
    lengths = enumerate(store.lengths.tolist())
    long_enough = [i for i, length in lengths if length > args.start + steps and args.episode in (None, i)]
    if not long_enough:
        parser.error(f"no such episode with more than {args.start + steps} rows in {args.store}")
    real, dreamed = play_both(world, store.episode(long_enough[0]), args.start, args.context, steps)
    print(f"episode {long_enough[0]} of {len(store)}, {steps} steps from row {args.start} on")

    args.out.mkdir(parents=True, exist_ok=True)
    name = args.out / store.meta.source.removeprefix("doom-")
    write_frame(name.with_suffix(".png"), world.spec, args.scale, args.ahead, real, dreamed)
    write_clip(name.with_suffix(".webp"), world.spec, args.scale, real, dreamed)
    for path in (name.with_suffix(".png"), name.with_suffix(".webp")):
        print(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB")


def play_both(world, episode, start, context, steps):
    """The recorded frames after row `start`, and those dreamed with the recorded actions: a list a step."""
    seen = slice(max(0, start - context + 1), start + 1)
    taken = episode["action"][seen][1:]  # a row's action led to it
    state = world.reset(seed=0, frames=episode["rgb"][seen][None], actions=taken[None], age=[seen.start])
    real, dreamed = [], []
    for row in range(start + 1, start + 1 + steps):
        state, step = world.step(state, episode["action"][row : row + 1])
        between = step.extras.get("between", np.empty((1, 0)))[0]
        recorded = episode["between"][row] if "between" in episode else [episode["rgb"][row]] * len(between)
        real.append([*recorded, episode["rgb"][row]])
        dreamed.append([*between, step.frame[0]])
    return real, dreamed


def write_frame(path, spec, scale, ahead, real, dreamed):
    """The last frame of some steps."""
    columns = [[enlarge(row[n - 1][-1], spec, scale) for row in (real, dreamed)] for n in ahead]
    stack(columns, [f"{n / spec.steps_per_second:.1f} s ahead" for n in ahead]).save(path)


def write_clip(path, spec, scale, real, dreamed):
    """Every frame, at the pace of the game, as a WebP that moves on a web page."""
    pairs = [pair for step in zip(real, dreamed, strict=True) for pair in zip(*step, strict=True)]
    first, *others = [stack([[enlarge(frame, spec, scale) for frame in pair]]) for pair in pairs]
    milliseconds = round(1000 / (spec.steps_per_second * spec.frames_per_step))
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=60, method=4)


def enlarge(frame, spec, scale):
    """A frame (H, W, 3) in the shape it is meant to be seen in."""
    size = (round(spec.width * scale * spec.pixel_aspect), spec.height * scale)
    return Image.fromarray(frame).resize(size, Image.Resampling.NEAREST)


def stack(columns, titles=("",)):
    """Columns of (real, dreamed) frames with a title each, and the names of the rows at the left."""
    width, height = columns[0][0].size
    top = MARGIN if any(titles) else 0
    sheet = Image.new("RGB", (MARGIN + len(columns) * (width + GAP), top + 2 * (height + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=20)
    for row, word in enumerate(("real", "dreamed")):
        label = Image.new("RGB", (height, MARGIN), "white")
        ImageDraw.Draw(label).text((height // 2, MARGIN // 2), word, "black", font, anchor="mm")
        sheet.paste(label.rotate(90, expand=True), (0, top + row * (height + GAP)))
    for column, (frames, title) in enumerate(zip(columns, titles, strict=True)):
        left = MARGIN + column * (width + GAP)
        draw.text((left + width // 2, MARGIN // 2), title, "black", font, anchor="mm")
        for row, frame in enumerate(frames):
            sheet.paste(frame, (left, top + row * (height + GAP)))
    return sheet


if __name__ == "__main__":
    main()
