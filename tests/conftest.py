"""What every test relies on."""

import signal
import threading


def pytest_configure() -> None:
    """Ctrl-C works in tests: a shell that starts a job in the background has it ignored."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
