"""The workers of one service: how they find each other, ask each other, and keep what dead ones have counted."""

from otel_fastperf.workers.family import Gathering, WorkerAnswer, Workers
from otel_fastperf.workers.kinship import can_be_known

__all__ = ["Gathering", "WorkerAnswer", "Workers", "can_be_known"]
