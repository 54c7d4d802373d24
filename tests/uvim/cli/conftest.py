"""The small models of the tools' tests."""

from tests.tools.conftest import load_once, weights  # noqa: F401
