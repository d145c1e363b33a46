"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from common import log
from common.settings import LogSettings
from tests import processes

log.configure(LogSettings(level="error"))
# The same examples each time, so that a change is judged by itself; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("steady", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
pytest.register_assert_rewrite("tests.worker.engine_contract")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's folder."""
    return processes.demo_model()
