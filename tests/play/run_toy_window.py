"""Opens the window on the toy world; writes what reaches the world to the file named as argument."""

import sys

import pygame
from toy_game import ToyWorld

from worldsim.envs.play.status import Settings
from worldsim.envs.play.window import Window

if __name__ == "__main__":
    with open(sys.argv[1], "w", buffering=1) as log:

        class Telling(ToyWorld):
            def reset(self, seed, **options):
                log.write(f"seed {seed[0]}\n")
                return super().reset(seed, **options)

            def step(self, state, actions):
                log.write(f"action {actions[0]}\n")
                return super().step(state, actions)

        class Looking(Window):
            def close(self):
                if pygame.display.get_init():
                    screen = pygame.surfarray.array2d(pygame.display.get_surface())
                    log.write(f"colours {len(set(screen.flat))}\n")
                super().close()

        Looking(Telling(), Settings()).run(max_seconds=120)
