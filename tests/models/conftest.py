"""Put the helper module of this folder on the path, and free its programs at its end."""

import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parent))


def pytest_runtest_teardown(item, nextitem):
    """The largest programs of all tests serve no other folder, and would stay in memory."""
    if nextitem is None or nextitem.path.parent != item.path.parent:
        jax.clear_caches()
