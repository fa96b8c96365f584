"""Tells the tasks and threads that work for a request apart."""

import asyncio
import threading


def current_worker(loop_thread: int) -> int:
    """Id of the current task or thread, unique among those of a request that are alive.

    `loop_thread` is the thread whose event loop serves the request.
    """
    thread = threading.get_ident()
    if thread != loop_thread:
        return thread
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # not an asyncio event loop
        return thread
