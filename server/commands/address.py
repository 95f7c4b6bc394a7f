"""The listening socket, opened before any model is loaded so that a taken port fails at once."""

import errno
import socket


class AddressError(OSError):
    """The address cannot be listened on; the message names it and the remedy."""


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to host:port (0: any free port), not yet listening.

    Raises AddressError when the port is taken, needs privileges, or the host is not of this
    machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"--host {host}: no such address ({error})") from error
    family, kind, protocol, _, address = found[0]
    # asyncio sets TCP_NODELAY where the protocol is said only.
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise AddressError(_reason(host, port, error)) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The address that a client on this machine can use; `0.0.0.0` is shown as loopback."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another with --port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine"
    return f"cannot listen on {host}:{port}: {error.strerror}"
