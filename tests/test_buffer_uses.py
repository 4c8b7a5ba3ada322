"""A buffer is whatever the buffer protocol can be used for: what reads into memory, and what reads out of it."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import hashlib
import io
import mmap
import os
import socket
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
from penstock import Buffer, BufferPool

TEXT = b"some bytes from somewhere, and a few more of them"


@contextlib.contextmanager
def lent(nbytes: int = 100) -> Any:
    """A buffer full of something else, whose memory is back afterwards: nothing has kept an export."""
    pool = BufferPool()
    buffer = pool.acquire(nbytes)
    buffer[:] = b"\xee" * nbytes
    yield buffer
    assert repr(buffer).endswith("in use>"), "an export is left"
    buffer.release()
    assert pool.stats().in_use == 0


def rest_is_untouched(buffer: Buffer, used: int) -> bool:
    return bytes(buffer[used:]) == b"\xee" * (len(buffer) - used)


def test_socket_recv_into_and_send() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, lent() as buffer:
        theirs.sendall(TEXT)
        assert ours.recv_into(buffer) == len(TEXT)
        assert bytes(buffer[: len(TEXT)]) == TEXT
        assert rest_is_untouched(buffer, len(TEXT))
        with memoryview(buffer) as view:
            theirs.sendall(TEXT)
            assert ours.recv_into(view[len(TEXT) :], 4) == 4
            assert ours.recvfrom_into(view[90:], 10)[0] == 10
        assert bytes(buffer[len(TEXT) : len(TEXT) + 4]) == TEXT[:4]
        assert ours.send(buffer[:10]) == 10
        assert theirs.recv(100) == TEXT[:10]


@pytest.mark.skipif(not hasattr(socket.socket, "recvmsg_into"), reason="the platform has no recvmsg")
def test_socket_recvmsg_into_several() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, lent(5) as first, lent() as second:
        theirs.sendall(TEXT)
        assert ours.recvmsg_into([first, second])[0] == len(TEXT)
        assert bytes(first) + bytes(second[: len(TEXT) - 5]) == TEXT


def test_readinto_of_files_raw_buffered_and_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    opened: list[Any] = [io.BytesIO(TEXT), path.open("rb"), path.open("rb", buffering=0)]
    for file in opened:
        with file, lent() as buffer:
            assert file.readinto(buffer) == len(TEXT)
            assert bytes(buffer[: len(TEXT)]) == TEXT
            assert rest_is_untouched(buffer, len(TEXT))
    with lent(len(TEXT)) as buffer:
        buffer[:] = TEXT
        out = io.BytesIO()
        assert out.write(buffer) == len(TEXT)
        assert out.getvalue() == TEXT


@pytest.mark.skipif(not hasattr(os, "readv"), reason="the platform has no readv")
def test_os_readv_and_writev(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file, lent(7) as first, lent() as second:
        first[:] = TEXT[:7]
        second[: len(TEXT) - 7] = TEXT[7:]
        assert os.writev(file.fileno(), [first, second[: len(TEXT) - 7]]) == len(TEXT)
        first[:] = second[:7] = bytes(7)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert os.readv(file.fileno(), [first, second]) == len(TEXT)
        assert bytes(first) + bytes(second[: len(TEXT) - 7]) == TEXT
        assert rest_is_untouched(second, len(TEXT) - 7)


def test_numpy_reads_and_writes_the_same_memory() -> None:
    with lent(80) as buffer:
        octets = numpy.frombuffer(buffer, "u1")
        numbers = numpy.frombuffer(buffer, "<i8").reshape(2, 5)
        assert octets.flags.writeable
        assert octets.ctypes.data % 64 == 0
        numbers[:] = numpy.arange(10).reshape(2, 5)
        assert struct.unpack("<10q", buffer) == tuple(range(10))
        buffer[0] = 7
        assert numbers[0, 0] == 7
        part = numbers[1, 1:3]
        del numbers, octets
        with pytest.raises(BufferError, match="1 export"):
            buffer.release()
        assert part.tolist() == [6, 7]
        del part


def test_struct_packs_into_it_and_unpacks_from_it() -> None:
    with lent(24) as buffer:
        struct.pack_into("<qd", buffer, 8, -5, 0.5)
        assert struct.unpack_from("<qd", buffer, 8) == (-5, 0.5)
        assert [values for (values,) in struct.iter_unpack("<q", buffer[:16])] == [
            int.from_bytes(b"\xee" * 8, "little", signed=True),
            -5,
        ]
        with pytest.raises(struct.error):
            struct.pack_into("<q", buffer, 20, 1)


def test_ctypes_array_and_mmap() -> None:
    with lent(16) as buffer:
        numbers = (ctypes.c_uint32 * 4).from_buffer(buffer)
        numbers[1] = 0x01020304
        assert int.from_bytes(buffer[4:8], sys.byteorder) == 0x01020304
        with pytest.raises(BufferError):
            buffer.release()
        del numbers
        values = array.array("B")
        values.frombytes(buffer)
        assert len(values) == 16
        with mmap.mmap(-1, 4096) as mapped:
            mapped[:16] = buffer[:]
            assert mapped[4:8] == bytes(buffer[4:8])


def test_hashes_and_compression_read_it() -> None:
    with lent(len(TEXT)) as buffer:
        buffer[:] = TEXT
        assert hashlib.sha256(buffer).digest() == hashlib.sha256(TEXT).digest()
        assert zlib.crc32(buffer) == zlib.crc32(TEXT)
        assert zlib.decompress(zlib.compress(buffer)) == TEXT
        pieces: list[Any] = [buffer, b"!"]
        assert b"".join(pieces) == TEXT + b"!"
        assert bytearray(buffer) == TEXT
        assert TEXT.startswith(bytes(buffer[:4]))


def test_an_asyncio_buffered_protocol_receives_into_it() -> None:
    pool = BufferPool()

    class Reader(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = pool.acquire(16)
            self.received = bytearray()
            self.ended = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> Buffer:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.buffer[:nbytes]

        def eof_received(self) -> None:
            self.buffer.release()
            self.ended.set_result(None)

    async def receive() -> bytes:
        ours, theirs = socket.socketpair()
        with theirs:
            transport, reader = await asyncio.get_running_loop().create_connection(Reader, sock=ours)
            theirs.sendall(TEXT * 3)
            theirs.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(reader.ended, 60)
            transport.close()
        return bytes(reader.received)

    assert asyncio.run(receive()) == TEXT * 3
    assert pool.stats().in_use == 0
