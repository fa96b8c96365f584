"""The service's process: uvicorn on a socket that its parent opened, so no other program can take the port.

python -m demo.worker 7        7 is the socket's file descriptor
"""

import socket
import sys

import uvicorn


def main(descriptor: int) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    config = uvicorn.Config("demo.app:app", log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=descriptor)])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
