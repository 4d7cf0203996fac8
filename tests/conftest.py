"""What all tests share."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_a_terminal():
    """Tests end programs by signals, which `nohup` and shells that run tests in the background let them ignore."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
