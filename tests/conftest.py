"""Fixtures of all tests."""

from pathlib import Path

import pytest

from common import log
from common.settings import LogSettings
from tests import processes

log.configure(LogSettings(level="error"))
pytest.register_assert_rewrite("tests.worker.engine_contract")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's folder."""
    return processes.demo_model()
