"""TCP ports of the gateways: reserved by the command before anything else starts, bound by the gateways that come and go."""

from __future__ import annotations

import socket


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket that keeps the port from everybody but `bind_reserved`, as long as it is open. 0 = any free port.

    It never listens: connections go to the gateway, or are refused while there is none. Raises OSError where the port is taken.
    """
    holder = _bound(host, port)
    # Bound as anybody would, so that a taken port is seen. From here on only sockets that ask for it (and are of the same user)
    # may join: an outgoing connection, which takes ports from the same range, may not, nor another engine.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return holder


def bind_reserved(host: str, port: int) -> socket.socket:
    """A socket to listen on, on a port that another process of the same user reserved."""
    return _bound(host, port, socket.SO_REUSEPORT)


def _bound(host: str, port: int, *options: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        for option in (socket.SO_REUSEADDR, *options):
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
