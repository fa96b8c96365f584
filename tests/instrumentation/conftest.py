"""Fixtures for tests of the instrumentation."""

from tests.mariadb import mariadb_url
from tests.postgresql import postgresql_url

__all__ = ["mariadb_url", "postgresql_url"]
