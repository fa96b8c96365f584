"""The line at which a frame is, also where Python itself knows none, or one at which no code of the function is.

Another thread sees a running frame where it lets go of the interpreter: mostly as a function begins, and as a loop
jumps back. As it begins, Python says that it is at its first decorator. Up to 3.11, a jump after an `if` has no line.
"""

import dis
from functools import lru_cache
from itertools import takewhile
from types import CodeType, FrameType
from typing import Final

#: size of the cache for lines that are looked up
_MOST_LINES: Final = 512
_JUMPS: Final = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)


def line_of(frame: FrameType) -> int:
    """The line at which a frame is."""
    line, code = frame.f_lineno, frame.f_code
    return line if line and line != code.co_firstlineno else _looked_up(code, frame.f_lasti)


@lru_cache(_MOST_LINES)
def _looked_up(code: CodeType, at: int) -> int:
    instructions = tuple(dis.get_instructions(code))
    entry = next((each.offset for each in instructions if each.opname == "RESUME"), -1)
    if at <= entry:
        body = (_line(each) for each in instructions if each.offset > entry)
        return next(filter(None, body), code.co_firstlineno)
    before = tuple(takewhile(lambda each: each.offset <= at, instructions))
    if found := _line(before[-1]):
        return found
    return _line_before(before) or code.co_firstlineno


def _line_before(instructions: tuple[dis.Instruction, ...]) -> int:
    """The line from which the last of the instructions is reached: by a jump, or from the one before it."""
    last = len(instructions) - 1
    while last and instructions[last - 1].opname == "EXTENDED_ARG":
        last -= 1
    target, before = instructions[last].offset, instructions[:last][::-1]
    sources = [each for each in before if each.opcode in _JUMPS and each.argval == target]
    return next(filter(None, map(_line, (*sources, *before))), 0)


def _line(instruction: dis.Instruction) -> int:
    return (instruction.positions and instruction.positions.lineno) or 0
