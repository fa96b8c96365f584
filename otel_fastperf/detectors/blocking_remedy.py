"""The remedy for code that blocks the event loop: what it calls, and who calls it, decide.

What it calls is known by the frame of a library below the application's line, and by the text of that line for what is
written in C.
"""

import re
from typing import Final

#: calls that wait: what to use in their place
_WAITING: Final = (
    (r"\b(time\.)?sleep\(", "Await `asyncio.sleep(...)` in place of `time.sleep(...)`"),
    (r"\brequests\.|\burllib3?\.|\bhttp\.client\.", "Await an async HTTP client, such as `httpx.AsyncClient`"),
    (r"\bhttpx\.", "Await `httpx.AsyncClient` in place of httpx's synchronous client"),
    (r"\bredis\.", "Await the client of `redis.asyncio`"),
    (r"\bboto(3|core)\.", "Await an async client, such as aioboto3's"),
    (r"\bpymongo\.", "Await pymongo's `AsyncMongoClient`"),
    (r"\bsubprocess\.|\bos\.(system|popen)\b", "Await `asyncio.create_subprocess_exec(...)`"),
    (r"\bsocket\.get(addrinfo|hostby\w+|nameinfo)|\bget(addrinfo|hostby\w+)\(", "Await the loop's own `getaddrinfo`"),
    (r"\bsmtplib\.", "Send mail in a background task that is `def`, or await an async client, such as aiosmtplib"),
    (r"\bselect\.|\bsocket\.|\.recv\(", "Await `asyncio.open_connection(...)` and its streams"),
    (
        r"\bpathlib\.|\bshutil\.|\btempfile\.|\bopen\(|\.(read|write)(_text|_bytes|lines?)?\(|\bos\.",
        "Await `anyio.open_file(...)` or `anyio.Path`",
    ),
    (r"\bthreading\.|\bqueue\.|\bconcurrent\.|\.(acquire|result|join)\(", "Await asyncio's own lock, queue or future"),
)
#: computations: what helps
_HASHING: Final = re.compile(r"bcrypt|argon2|passlib|pwdlib|pbkdf2|scrypt|hashpw|checkpw|\bcrypt\b")
_JSON: Final = re.compile(r"\bjson\.|\borjson\.|\bjson\b|\bdumps\(")
_PATTERN: Final = re.compile(r"\bre\.|\.(match|fullmatch|search|findall|finditer|sub|subn|split)\(")


OF_STARVATION: Final = (
    "Raise the CPU limit of the container, or start fewer workers: the process was stopped, throttled, or had to wait"
    " for a processor."
)
OF_OTHER_THREADS: Final = (
    "Move computations from threads, `def` endpoints included, to a ProcessPoolExecutor, or add workers."
)
OF_IMPORTS: Final = "Import these modules when the service starts, at the top of a module or in the lifespan."
OF_LOGGING: Final = (
    "Let a thread write the log: attach the slow handler to a `logging.handlers.QueueListener`, and only a"
    " `QueueHandler` to the logger."
)
OF_LIBRARIES: Final = (
    "Look at what the library does there, and do it in a thread (`await asyncio.to_thread(...)`) or, if it keeps the"
    " GIL, in a ProcessPoolExecutor."
)


def remedy_of_serializing(function: str) -> str:
    """For the work of the framework on the return value of `function`."""
    return (
        f"Return fewer rows from {function}: page the list. FastAPI validates and serializes each of them on the event"
        " loop. If all are needed, stream them, or return a Response of rows without a model."
    )


def remedy_of_reading(function: str) -> str:
    """For the work of the framework on the parameters of `function`."""
    return (
        f"Accept less in one request of {function}: bound the body and its lists. FastAPI parses and validates them on"
        " the event loop. If all is needed, read the body as a stream and parse it in a ProcessPoolExecutor."
    )


def remedy_of_awaiting(function: str, library: str) -> str:
    """For a coroutine of a library that blocks, awaited in `function`."""
    return (
        f"`{library}` is awaited in {function}, but blocks inside: use a client that does not, or run it on an event"
        " loop of its own in a thread."
    )


def remedy_of_waiting(function: str, code: str, offloaded: str) -> str:
    """For a call that waits in the line `code` of `function`; see `offload` for `offloaded`."""
    use = next((use for pattern, use in _WAITING if re.search(pattern, code)), "")
    use = use or f"Await an async client instead of the blocking call in {function}"
    return f"{use}, {offloaded}."


def remedy_of_computing(function: str, code: str, *, keeps_gil: bool, offloaded: str) -> str:
    """For a computation in the line `code` of `function`."""
    if _HASHING.search(code):
        return (
            f"Hash off the event loop: {offloaded}. The hash functions release the GIL while they compute, so a thread"
            " is enough."
        )
    if _JSON.search(code):
        return (
            f"Encode or decode less JSON at once in {function}: page or stream the data, or do it in a"
            " ProcessPoolExecutor. A faster encoder, such as orjson, shortens it; a thread does not help, because JSON"
            " is encoded with the GIL."
        )
    if _PATTERN.search(code):
        return (
            f"Simplify the regular expression in {function} so that it cannot backtrack (no nested or adjacent"
            " quantifiers that match the same text), or bound the length of its input. The `re` module keeps the GIL,"
            " so a thread does not help."
        )
    if keeps_gil:
        return (
            f"Run the call into C code in {function} in a ProcessPoolExecutor, or on smaller pieces of data. It keeps"
            " the GIL, so a thread does not help."
        )
    return (
        f"Move the computation in {function} to another process with `loop.run_in_executor` and a ProcessPoolExecutor,"
        " or at least off the event loop with `await asyncio.to_thread(...)`."
    )


def offload(function: str, coroutine: str, caller: str) -> str:
    """How to get a call in `function` off the event loop, given the coroutine that calls it and who calls that."""
    threaded = f"run the call in {function} with `await asyncio.to_thread(...)`"
    if caller == "endpoint":
        return f"{threaded}, or make the endpoint `def`, so that it runs in a thread"
    if caller == "dependency":
        return f"{threaded}, or make the dependency {coroutine} `def`, so that it runs in a thread"
    where = f" in the coroutine {coroutine}" if coroutine and coroutine != function else ""
    return f"{threaded}{where}"
