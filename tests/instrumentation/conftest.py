"""Fixtures of the instrumentation's tests."""

from tests.postgresql import postgresql_url

__all__ = ["postgresql_url"]
