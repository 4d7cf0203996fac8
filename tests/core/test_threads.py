import os
import subprocess
import sys
import threading

import pytest
import torch

from worldsim.runtime import threads
from worldsim.runtime.threads import ThreadSettings, release_pool


def in_a_thread(function):
    """What it gives in a fresh thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_settings_of_a_thread_hold_in_another():
    before = torch.get_num_threads()
    with torch.autocast("cpu", dtype=torch.float16):
        torch.set_num_threads(2)
        here = ThreadSettings.here()
    assert here == ThreadSettings(2, (("cpu", torch.float16),))

    def there():
        with here.applied():
            found = ThreadSettings.here()
        return found, torch.is_autocast_enabled("cpu")

    torch.set_num_threads(1)
    assert in_a_thread(there) == (here, False)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch computes with another OpenMP")
def test_helpers_end_and_come_back():
    code = (
        "import os, sys, torch\nfrom worldsim.runtime.threads import release_pool\n"
        "torch.set_num_threads(max(2, len(os.sched_getaffinity(0))))\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count()\na = torch.ones(1 << 20)\na + a\nwith_helpers = count()\nrelease_pool()\n"
        "import time\ntime.sleep(0.2)\nafter = count()\nassert torch.equal(a + a, 2 * a)\n"
        "print(with_helpers > before, after == before, count() == with_helpers)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "True True True\n", done.stderr


def test_where_there_is_nothing_to_release_nothing_happens(monkeypatch):
    monkeypatch.setattr(threads, "_pause", lambda: None)
    before = torch.get_num_threads()
    release_pool()
    assert torch.get_num_threads() == before and (torch.ones(1 << 20) + 1).sum() == 1 << 21
