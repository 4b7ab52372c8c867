"""Messages between a manager, its fork server and its env workers: a header of 8 bytes and an optional payload."""

import socket
import struct
from enum import IntEnum


class Kind(IntEnum):
    """What a message says. ``STEP`` and ``DONE``, the two of every step of all envs of a worker, carry no payload."""

    SETUP = 1  # pickled: what the receiver needs to begin
    SPAWN = 2  # with a file descriptor: fork a worker that talks over it
    REAP = 3  # process id as text: end that worker and say how it ended
    STEP = 4  # all envs of the worker; or those whose ids are the payload, int64
    CALL = 5  # pickled {env id: (method, args)}
    CLOSE = 6
    DONE = 7
    ENDED = 8  # JSON: {env id: the scalars of the info of an episode's last step}
    VALUE = 9  # of a call, pickled {env id: value}; else what was asked for
    FAULT = 10  # JSON: message, env_id, step, traceback
    ABSENT = 11  # text: the env has no such attribute
    ANEW = 12  # as STEP, with envs that are built anew and begin new episodes
    BROKEN = 13  # pickled {'values': {env id: value}, 'faults': {env id: a fault's JSON}}, when some envs failed


_HEADER = struct.Struct("<BBxxI")
HEADER_BYTES = _HEADER.size


def packed(kind: Kind, slot: int = 0, payload: bytes = b"") -> bytes:
    """Returns one message."""
    return _HEADER.pack(kind, slot, len(payload)) + payload


def receive(sock: socket.socket) -> tuple[Kind, int, bytes]:
    """Returns ``(kind, slot, payload)`` of the next message.

    Raises:
        EOFError: the other side is gone.
    """
    return unpacked(sock, _exactly(sock, HEADER_BYTES))


def unpacked(sock: socket.socket, header: bytes) -> tuple[Kind, int, bytes]:
    """Returns the message that begins with ``header``, whose payload is still to be received."""
    kind, slot, size = _HEADER.unpack(header)
    return Kind(kind), slot, _exactly(sock, size) if size else b""


def set_limit(sock: socket.socket, limit_s: float) -> None:
    """Makes single sends and receives fail with ``BlockingIOError`` after ``limit_s`` seconds.

    The socket stays a blocking one, so that a receive of what has arrived costs one system call.
    """
    limit_s = min(limit_s, 1e6)
    limit = struct.pack("@ll", int(limit_s), int(limit_s % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if len(data) == size:
        return data
    parts = bytearray(data)
    while data and len(parts) < size:
        data = sock.recv(size - len(parts))
        parts += data
    if len(parts) < size:
        raise EOFError("the other side of the socket is gone")
    return bytes(parts)
