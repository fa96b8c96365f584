"""The drill of a bad night: the stack and the demo under load, and one fault after the other.

`python -m tests.deploy.night` runs it with the clock of the shipped rules and writes the table in deploy/README.md;
tests/deploy/test_night.py runs the same with a faster one.
"""
