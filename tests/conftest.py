"""What every test relies on."""

import os
import signal
import threading


def pytest_configure() -> None:
    """Ctrl-C works in tests: a shell that starts a job in the background has it ignored.

    Servers that tests start as commands take any port for metrics: several run at a time.
    """
    os.environ.setdefault("HLSERVE_METRICS_PORT", "0")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
