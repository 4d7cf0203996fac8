"""Record a trace of scripted play: keys pressed in the window of `worldsim play`, with the limits a person has.

No person plays. A script looks at the frames that the window shows and at nothing else, sees fireballs, reacts late,
holds keys for a while, waits, and errs. The file does not say who played, so its name must. All chance comes from the
seed, but play goes by the clock: a second run with the same seed gives another trace.

python docs/tools/play_like_a_person.py --seconds 120 --seed 1 --out traces/scripted-1.json
SDL_VIDEODRIVER=dummy python docs/tools/play_like_a_person.py --out scripted.json    # without a display
worldsim bench doom-take-cover --speculate --streams scripted.json
"""

import argparse
import threading
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pygame

from worldsim import World
from worldsim.bench.traces import Trace
from worldsim.cli.output import require_writable
from worldsim.envs.play.status import Settings
from worldsim.envs.play.window import Window
from worldsim.envs.sources.doom_take_cover import fireball_ahead

# (median, spread of the logarithm) of times in seconds. Reaction times are log-normal (Ulrich and Miller 1993, Journal
# of Mathematical Psychology 37, 513); to press one key at the sight of anything takes 231 ms on average (Woods et al.
# 2015, Frontiers in Human Neuroscience 9:131), to choose between two takes longer. The rest is chosen, not measured.
REACTION, FASTEST = (0.25, 0.25), 0.1  # what is faster is a lucky guess, not a reaction
HOLD, SHORTEST = (0.4, 0.6), 0.08  # how long a key is meant to stay down, and the shortest tap
PAUSE = (0.5, 0.7)  # of doing nothing
MOVE = (0.05, 0.3)  # of a finger from one key to the other
GLANCE = 0.03  # from one look at the frame to the next
LAPSE, SLIP = 0.08, 0.04  # chances to react twice as late, and to press the wrong key
OTHER = {"LEFT": "RIGHT", "RIGHT": "LEFT"}


class Person:
    """Decides which side to run to; `look` gives the frame that is on the screen now."""

    def __init__(self, seed, look):
        self.rng, self.look = np.random.default_rng(seed), look
        self.slowness = self.rng.lognormal(0, 0.1)  # people differ
        self.near = int(self.rng.integers(5, 10))  # height in pixels of a fireball that is worth running from
        self.calm = self.rng.uniform(0.3, 0.7)  # chance to do nothing for a while when nothing is near

    def draw(self, kind, least=0.0):
        median, spread = kind
        return max(least, self.slowness * median * self.rng.lognormal(0, spread))

    def escape(self, held):
        """The side to run to, or None where nothing is in the way."""
        frame = self.look()
        ways = [side for side in OTHER if not fireball_ahead(frame, right=side == "RIGHT", near=self.near)]
        if len(ways) == 2:
            return None
        return ways[0] if ways else held or str(self.rng.choice(list(OTHER)))

    def moves(self):
        """Forever: (seconds to wait, side whose key is down from then on, or None)."""
        held, left = None, self.draw(PAUSE)  # `left`: until what is being done was meant to end
        while True:
            wish = self.escape(held)
            if wish is not None and wish != held:
                # Until a reaction is over nothing else is reacted to, not even the danger's end.
                delay = self.draw(REACTION, FASTEST) * (2 if self.rng.random() < LAPSE else 1)
                wish = OTHER[wish] if self.rng.random() < SLIP else wish
            elif left > 0:
                pause = min(left, GLANCE)
                left -= pause
                yield pause, held
                continue
            else:
                delay = 0.0
                wish = wish or (None if self.rng.random() < self.calm else str(self.rng.choice(list(OTHER))))
            if held and wish and wish != held:
                yield delay, None
                delay = self.draw(MOVE)
            # Meant from the start, and not cut short when the danger is over: people run too far.
            held, left = wish, self.draw(HOLD, SHORTEST) if wish else self.draw(PAUSE)
            yield delay, held


def press_keys(window, seed, seconds):
    """Play in the window for so long, then press Escape; runs in a thread beside the window's own loop."""
    actions = window.spec.actions
    key = {side: pygame.key.key_code(actions.keys[actions.meanings.index(side)][0]) for side in OTHER}
    while not window.view and not window.closed:
        time.sleep(GLANCE)
    end, down = time.perf_counter() + seconds, None
    for wait, side in Person(seed, lambda: window.view[-1]).moves():
        time.sleep(max(0.0, min(wait, end - time.perf_counter())))
        if window.closed:
            return
        if time.perf_counter() >= end:
            break
        if side != down and down:
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key[down]))
        if side != down and side:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key[side]))
        down = side
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE))


def describe(trace, spec, seconds):
    """What was played; a pace far below the world's own means that the machine was busy, and the trace is of no use."""
    played = trace.actions(spec.actions)
    runs = [(action, len(list(run))) for _, piece in trace.pieces for action, run in groupby(piece)]
    holds = [1000 * steps / spec.steps_per_second for action, steps in runs if action]
    low, middle, high = np.percentile(holds or [0], (10, 50, 90))
    return (
        f"{len(played)} steps in {len(trace.pieces)} episodes, {np.mean(played == 0):.0%} of them idle, "
        f"{len(played) / seconds:.1f} a second where the world's own pace is {spec.steps_per_second:.1f}; "
        f"{len(holds)} holds, half of them longer than {middle:.0f} ms, 80 % from {low:.0f} to {high:.0f} ms"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="doom-take-cover", help="shipped name, local folder or hub id")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to play")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode, and of the player's habits")
    parser.add_argument("--out", type=Path, default=Path("scripted.json"), help="trace to write, scripted-NAME.json")
    args = parser.parse_args()
    if "scripted" not in args.out.stem or args.out.suffix != ".json":
        parser.error(f"--out {args.out}: call it scripted-NAME.json, so that nobody takes it for a person's")
    require_writable(args.out)

    world = World.from_pretrained(args.world)
    if missing := [side for side in OTHER if side not in world.spec.actions.meanings]:
        parser.error(f"the world {world.spec.name!r} has no action {missing[0]}; give one of take cover")
    window = Window(world, Settings(seed=args.seed, trace=args.out, speculate=True))
    player = threading.Thread(target=press_keys, args=(window, args.seed, args.seconds), name="scripted-player")
    player.start()
    try:
        window.run()
    finally:
        window.closed = True
        player.join()
    print(f"wrote {args.out}, scripted play: {describe(Trace.load(args.out), world.spec, args.seconds)}")
    if (median := window.latency.milliseconds(50)) is not None:
        print(f"key to frame: median {median:.0f} ms, p95 {window.latency.milliseconds(95):.0f}, of the last presses")


if __name__ == "__main__":
    main()
