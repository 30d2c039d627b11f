"""What the first optimiser in a process would load, seconds of it, is loaded before a test's time is taken."""

import torch._dynamo  # noqa: F401
