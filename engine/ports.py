"""TCP ports of the gateways: reserved by the command before anything else starts, bound by the gateways that come and go.

As Linux does it: sockets of one user that all ask for SO_REUSEPORT share a port, and connections go to those that listen.
"""

from __future__ import annotations

import errno
import socket


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket that keeps the port, as long as it is open, for `bind_reserved` of the same user. 0 = any free port.

    It never listens: connections go to the gateway, or are refused while there is none. Raises OSError where the port is taken.
    """
    try:
        # As somebody who shares with nobody: the kernel remembers of a port how its first socket asked for it.
        holder = _bound(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        holder = _bound(host, port, socket.SO_REUSEADDR)  # connections of the last engine may linger there for a minute
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return holder


def bind_reserved(host: str, port: int) -> socket.socket:
    """A socket to listen on, on a port that another process of the same user reserved."""
    return _bound(host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def url_of(host: str, port: int) -> str:
    """http://HOST:PORT, an IPv6 address in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(host: str, port: int, *options: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
