# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The keeper: the init of a pid namespace, a static program of our own that sleeps for ever.

It is an ELF image of some 200 bytes in a sealed memfd, executed by execveat(2): no file of the host can be reached, read
or overwritten through its /proc/PID/exe, and 1,000 keepers cost a stack page each. SIGCHLD is ignored before the exec, which
is inherited, so that the kernel reaps the namespace's orphans by itself. Signals without a handler do not reach an init.
"""

from __future__ import annotations

import fcntl
import os
import struct

NAME = b"keeper"

_BASE = 0x400000  # where the one segment is mapped
_ENTRY = 64 + 2 * 56  # behind the ELF header and two program headers
_PR_SET_DUMPABLE, _PR_SET_NAME = 4, 15
_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 0x1, 0x2, 0x10


def _x86_64(text):
    """``text`` is where the name will be."""
    return b"".join((
        b"\xbf" + struct.pack("<I", _PR_SET_DUMPABLE),  # mov  edi, PR_SET_DUMPABLE
        b"\x31\xf6",                                    # xor  esi, esi             0: /proc/PID/{exe,root,fd,mem} need privilege
        b"\xb8" + struct.pack("<I", 157),               # mov  eax, SYS_prctl
        b"\x0f\x05",                                    # syscall
        b"\xbf" + struct.pack("<I", _PR_SET_NAME),      # mov  edi, PR_SET_NAME
        b"\xbe" + struct.pack("<I", text),              # mov  esi, name            execveat would call it by the descriptor's number
        b"\xb8" + struct.pack("<I", 157),               # mov  eax, SYS_prctl
        b"\x0f\x05",                                    # syscall
        b"\xb8" + struct.pack("<I", 34),                # mov  eax, SYS_pause       <- loop
        b"\x0f\x05",                                    # syscall
        b"\xeb\xf7",                                    # jmp  loop                 a debugger or a stop may interrupt it
    ))


def _aarch64(text):
    def movz(register, value, shift=0):
        return struct.pack("<I", 0xD2800000 | shift // 16 << 21 | value << 5 | register)

    svc = struct.pack("<I", 0xD4000001)
    return b"".join((
        movz(0, _PR_SET_DUMPABLE),                      # mov  x0, PR_SET_DUMPABLE
        movz(1, 0),                                     # mov  x1, 0
        movz(8, 167),                                   # mov  x8, SYS_prctl
        svc,                                            # svc  0
        movz(0, _PR_SET_NAME),                          # mov  x0, PR_SET_NAME
        movz(1, text >> 16, 16),                        # mov  x1, name, upper half
        struct.pack("<I", 0xF2800000 | (text & 0xFFFF) << 5 | 1),  # movk x1, name, lower half
        movz(8, 167),                                   # mov  x8, SYS_prctl
        svc,                                            # svc  0
        movz(0, 0),                                     # mov  x0, 0                <- loop: no descriptors
        movz(1, 0),                                     # mov  x1, 0                none of them
        movz(2, 0),                                     # mov  x2, 0                no time-out
        movz(3, 0),                                     # mov  x3, 0                no signal mask
        movz(8, 73),                                    # mov  x8, SYS_ppoll        (there is no pause here)
        svc,                                            # svc  0
        struct.pack("<I", 0x14000000 | (-6 & 0x3FFFFFF)),  # b loop
    ))


_MACHINES = {"x86_64": (62, _x86_64), "aarch64": (183, _aarch64)}  # EM_X86_64, EM_AARCH64


def image(machine):
    """The ELF file for a machine as uname(2) calls it. KeyError: there is none for it."""
    number, code = _MACHINES[machine]
    text = code(_BASE + _ENTRY + len(code(0)))
    size = _ENTRY + len(text) + len(NAME) + 1
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, number, 1, _BASE + _ENTRY, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)  # PT_LOAD, read and execute; fits 64 KiB pages
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK, not executable
    return header + load + stack + text + NAME + b"\0"


def descriptor():
    """A sealed memfd with the image of this machine, for execveat(2). The caller closes it."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(38, "there is no keeper for the machine %s: leave the type pid out" % machine)
    try:
        fd = os.memfd_create("keeper", _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_EXEC)
    except OSError:  # MFD_EXEC came with Linux 6.3
        fd = os.memfd_create("keeper", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    os.write(fd, image(machine))
    os.fchmod(fd, 0o111)
    fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    return fd
