"""The address that a server listens on."""

import ipaddress
import os
import socket

from diffpo_jax.system.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that nobody else can; 0 takes a port that is free.

    Raises:
      UserError: the address is in use, is not this machine's, or may not be taken.
    """
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host={host}: {reason}. Give an address of this machine.") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2_048)
    except OSError as error:
        listening.close()
        reason = os.strerror(error.errno) if error.errno else error
        raise UserError(
            f"cannot listen on {host}, port {port}: {reason}. Choose another --port or --host, or "
            "stop what uses it."
        ) from error
    return listening


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url(listening: socket.socket) -> str:
    """The address of a socket for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
