# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bytes of an archive: of a file or a part of one, hashed as they are read, decompressed, bounded, and read ahead.

Decompressors run in a thread beside the one that writes files: Python lets them run at the same time.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import queue
import signal
import threading
import time
import zlib

from .tarstream import ArchiveError

CHUNK = 1 << 18
_AHEAD = 16  # chunks
_RATIO_FROM = 64 << 20  # bytes that come out before the ratio of compression counts
_MEMORY = 128 << 20  # bytes that a decompressor may take
MAGIC = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


class Region:
    """A part of an open file, by default all of it; it is read by position, so that many may share the descriptor."""

    def __init__(self, fd, start=0, size=None):
        self.fd, self.start = fd, start
        self.size = os.fstat(fd).st_size - start if size is None else size

    def read(self, at, count):
        """Bytes from a position; fewer at the end."""
        return os.pread(self.fd, max(0, min(count, self.size - at)), self.start + at)

    def chunks(self):
        """All of it; what is cut off while it is read ends it."""
        at = 0
        while at < self.size:
            chunk = self.read(at, CHUNK)
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    def all(self, most, what):
        """The whole content, of something small."""
        if self.size > most:
            raise ArchiveError("%s has %d bytes, and %d are allowed" % (what, self.size, most))
        return b"".join(self.chunks())

    def compression(self):
        """gzip, xz, zstd or None, by its first bytes, not by its name."""
        head = self.read(0, 6)
        return next((name for magic, name in MAGIC if head.startswith(magic)), None)

    def digest(self):
        """sha256:… of the content."""
        found = hashlib.sha256()
        for chunk in self.chunks():
            found.update(chunk)
        return "sha256:" + found.hexdigest()


class Plain:
    """What a region holds, decompressed; ``digest()`` and ``diff_id()`` are known when all of it was taken.

    ``size`` and ``ratio`` bound what comes out: bytes, and how many of them for one that is read. Used by ``with``, for after an
    error its thread would live as long as somebody knows that error, and a process with two threads can join no mount namespace.
    """

    def __init__(self, region, size, ratio):
        self._region, self._size, self._ratio, self._given_by = region, size, ratio, None
        self._stored, self._plain = hashlib.sha256(), None
        self.taken = self.given = 0

    def digest(self):
        return "sha256:" + self._stored.hexdigest()

    def diff_id(self):
        return "sha256:" + (self._plain or self._stored).hexdigest()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self._given_by is not None:
            self._given_by.close()

    def __iter__(self):
        kind = self._region.compression()
        if kind is None:
            self._given_by = _ahead(self._raw(), self._bounded)
        else:
            self._plain = hashlib.sha256()
            given = _Zstd(self._raw()) if kind == "zstd" else (self._gzip if kind == "gzip" else self._xz)()
            self._given_by = _ahead(given, self._bounded, self._plain.update)
        return self._given_by

    def _raw(self):
        for chunk in self._region.chunks():
            self._stored.update(chunk)
            self.taken += len(chunk)
            yield chunk
        if self.taken != self._region.size:
            raise ArchiveError("it was cut short while it was read")

    def _bounded(self, chunk):
        self.given += len(chunk)
        if self.given > self._size:
            raise ArchiveError("it holds more than %d bytes" % self._size, advice="Raise limits.size if that is as it should be")
        if self.given > _RATIO_FROM and self.given > self._ratio * self.taken:
            raise ArchiveError("it is compressed more than 1:%d" % self._ratio, advice="Raise limits.ratio if that is as it should be")

    def _gzip(self):
        member = None
        for chunk in self._raw():
            while chunk:
                if member is None:
                    member = zlib.decompressobj(31)
                try:
                    plain = member.decompress(chunk, CHUNK)
                except zlib.error as exc:
                    raise ArchiveError("its compressed data is damaged (%s)" % exc) from None
                if plain:
                    yield plain
                if member.eof:  # another member may follow, and nothing else
                    chunk, member = member.unused_data, None
                else:
                    chunk = member.unconsumed_tail
                    if not chunk and not plain:
                        break
        while member is not None and not member.eof:
            plain = member.decompress(b"", CHUNK)
            if not plain:
                raise ArchiveError("its compressed data is cut short")
            yield plain

    def _xz(self):
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)
        for chunk in self._raw():
            while chunk or not (stream.eof or stream.needs_input):
                if stream.eof:  # pylint: disable=using-constant-test  # another stream may follow, and nothing else
                    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)
                try:
                    plain = stream.decompress(chunk, CHUNK)
                except lzma.LZMAError as exc:
                    raise ArchiveError("its compressed data is damaged (%s)" % exc) from None
                chunk = stream.unused_data
                if plain:
                    yield plain
        if not stream.eof:
            raise ArchiveError("its compressed data is cut short")


class _Zstd:
    """By the host's tool, fed by a thread; Python has no zstd before 3.14. It is started before there are threads."""

    def __init__(self, chunks):
        self._chunks, self._wrong = chunks, []
        source, self._feed = os.pipe2(os.O_CLOEXEC)
        self._out, sink = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                for fd, number in ((source, 0), (sink, 1), (os.open("/dev/null", os.O_WRONLY), 2)):
                    os.dup2(fd, number)
                os.execvpe("zstd", ["zstd", "-dcq", "-M128MB"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
            finally:
                os._exit(127)
        os.close(source)
        os.close(sink)

    def __iter__(self):
        feeder = _started(self._write)
        try:
            while True:
                chunk = os.read(self._out, CHUNK)
                if not chunk:
                    break
                yield chunk
        finally:
            os.close(self._out)  # it ends by that when we do not want more
            status = os.waitpid(self._pid, 0)[1]
            _ended(feeder)
        if self._wrong:
            raise self._wrong[0]
        if status == 127 << 8:
            raise ArchiveError("it is compressed by zstd, and the tool cannot be run", advice="Install zstd on the host")
        if status:
            raise ArchiveError("its compressed data is damaged or cut short")

    def _write(self):
        try:
            for chunk in self._chunks:
                while chunk:
                    chunk = chunk[os.write(self._feed, chunk):]
        except OSError as exc:
            if exc.errno != errno.EPIPE:
                self._wrong.append(exc)
        except ArchiveError as exc:
            self._wrong.append(exc)
        finally:
            os.close(self._feed)


def _started(act):
    """A thread that does it; ``_ended`` waits for it."""
    thread = threading.Thread(target=act, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise OSError(errno.EAGAIN, "no thread can be started") from exc
    return thread


def _ended(thread):
    """Wait until the kernel knows it no more, which is a little after Python does."""
    thread.join()
    while os.path.exists("/proc/self/task/%d" % thread.native_id):
        time.sleep(0.0001)


def _ahead(chunks, *acts):
    """What an iterable gives, taken by a thread that is some chunks ahead and does ``acts`` with each; what is raised is raised here."""
    waiting, stop = queue.Queue(_AHEAD), threading.Event()

    def take():
        last, source = None, iter(chunks)
        try:
            for chunk in source:
                for act in acts:
                    act(chunk)
                if stop.is_set():
                    break
                waiting.put(chunk)
        except BaseException as exc:  # whoever waits is told
            last = exc
        finally:
            source.close()
        waiting.put(last)

    thread = _started(take)
    try:
        while True:
            chunk = waiting.get()
            if chunk is None:
                return
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        stop.set()
        while thread.is_alive():
            try:
                waiting.get(timeout=0.01)
            except queue.Empty:
                pass
        _ended(thread)
