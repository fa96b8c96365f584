"""Whoever runs, tests or observes apps in his own way keeps doing so."""
