"""What every test run shares."""

import os

from hypothesis import settings

# Before numpy and torch are imported: many small tests on few cores; what a test computes with more, it says itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test depends on the speed of the machine, and every run tries the same examples.
settings.register_profile("same-everywhere", deadline=None, derandomize=True, database=None)
settings.load_profile("same-everywhere")
