"""The window on a real X server, with keys that come through it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 120.0
MISSING = [tool for tool in ("Xvfb", "xdotool") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: apt-get install xvfb xdotool")


@pytest.fixture
def display():
    """The name of a fresh X display."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait(PATIENCE)


class Desktop:
    """The toy's window in a process of its own, and xdotool to press its keys."""

    def __init__(self, display, folder):
        self.log, self.errors = folder / "log", folder / "stderr"
        self.log.write_text("")
        self.environment = {
            **os.environ,
            "DISPLAY": display,
            "SDL_VIDEODRIVER": "x11",
            "OMP_NUM_THREADS": "1",
        }
        script = Path(__file__).with_name("run_toy_window.py")
        with open(self.errors, "w") as stderr:
            command = [sys.executable, str(script), str(self.log)]
            self.game = subprocess.Popen(command, env=self.environment, stderr=stderr)

    def tool(self, *words):
        done = subprocess.run(["xdotool", *words], env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def until(self, done, act=lambda: None):
        """Repeat `act` until `done`: without a window manager, keys before the focus get lost."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, self.log.read_text()[-500:]
            assert self.game.poll() is None or done(), self.errors.read_text()
            act()
            time.sleep(0.05)


def test_keys_of_an_x_server_reach_the_world(display, tmp_path):
    desk = Desktop(display, tmp_path)
    try:
        desk.until(lambda: desk.tool("search", "--pid", str(desk.game.pid)))
        window = desk.tool("search", "--pid", str(desk.game.pid)).splitlines()[0]
        desk.until(lambda: desk.tool("getwindowfocus") == window, lambda: desk.tool("windowfocus", window))
        for key, line in (("Left", "action 1"), ("Right", "action 2"), ("r", "seed 1")):
            desk.until(lambda line=line: line in desk.log.read_text(), lambda key=key: desk.tool("key", key))
        desk.until(lambda: desk.game.poll() is not None, lambda: desk.tool("key", "Escape"))
    finally:
        desk.game.kill()
        desk.game.wait(PATIENCE)
    assert desk.game.returncode == 0, desk.errors.read_text()
    (colours,) = [line for line in desk.log.read_text().splitlines() if line.startswith("colours ")]
    assert int(colours.removeprefix("colours ")) > 20
