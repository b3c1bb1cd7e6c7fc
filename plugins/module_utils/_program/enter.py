# Copyright: Bulkhead contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Enter a sandbox and become its command: `python3 -IS enter.py SPEC.json`.

The one entry of Bulkhead: service start, health checks, `bulkhead enter` and `bulkhead run` all come through here. The file stands
alone and uses builtin modules of C only (`os`, `json` and `ctypes` would double the 8 ms that Python itself takes), and whatever it
needs is imported before the first namespace is joined: what the sandbox's own tree offers is never loaded.

The order is fixed, for each step closes what an earlier one left open: non-dumpable (so that nobody inside reaches us through /proc),
files of the host, keyring, session, cgroup, namespaces, root, identity; then rlimits, bounding set, groups, user, capabilities, ambient,
no_new_privs, seccomp, exec. Failure to enter ends with one line on stderr and status 125; 126 and 127 are a command that cannot be run.
"""
from __future__ import annotations

import _ctypes
import _signal
import posix
import sys

CAPSET_VERSION = 0x20080522
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 23, 24, 38, 47
CLONE = {"time": 0x80, "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
         "pid": 0x20000000, "net": 0x40000000}
# keyctl and rt_sigaction are the calls used here whose numbers differ between machines
SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134, "loongarch64": 134, "ppc64le": 173, "s390x": 174}
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280, "armv7l": 311, "i686": 288}
SYS_CLONE3, SYS_CLOSE_RANGE, SYS_OPENAT2 = 435, 436, 437
CLONE_PARENT = 0x8000
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
PROC_SUPER_MAGIC = 0x9FA0
ENOENT, ENXIO, EAGAIN, ENOSYS, ELOOP, EPERM = 2, 6, 11, 38, 40, 1
SIGKILL, SIGALRM, TIOCNOTTY, TIOCSCTTY = 9, 14, 0x5422, 0x540E
ID_FILE_MAX = SPEC_MAX = 4 << 20
DIRECTORY = posix.O_PATH | posix.O_DIRECTORY
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """The entry is refused; args: the reason, the exit status."""


class Int(_ctypes._SimpleCData):
    _type_ = "i"


class Long(_ctypes._SimpleCData):
    _type_ = "l"


class Byte(_ctypes._SimpleCData):
    _type_ = "B"


class Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = Int


LIBC = _ctypes.dlopen(None, 2)
FUNCTIONS = {name: Function(_ctypes.dlsym(LIBC, name))
             for name in ("prctl", "setns", "unshare", "capget", "capset", "syscall", "fstatfs", "ioctl")}
doing = {"step": "read its spec", "name": ""}


def call(name, *arguments):
    """Call a function of the C library; raise OSError with its errno."""
    result = FUNCTIONS[name](*[Long(value) if isinstance(value, int) else value for value in arguments])
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, posix.strerror(number))
    return result


def memory(data):
    """The bytes in memory that a call may read and write, as (what to pass, the bytearray that sees it)."""
    class Block(_ctypes.Array):
        _type_, _length_ = Byte, len(data)
    return Block.from_buffer(data), data


def prctl(option, *arguments):
    return call("prctl", option, *(arguments + (0, 0, 0, 0))[:4])


def say(text):
    """Remember what is being done, for the one line of an error."""
    doing["step"] = text


def raw(text):
    return text.encode("utf-8", "surrogateescape")


def opened(path, flags=posix.O_RDONLY, top=None):
    return posix.open(raw(path), flags | posix.O_CLOEXEC, dir_fd=top)


def content(fd, limit):
    """What is in an open file, or None when it is larger than the limit in bytes; closes it."""
    parts, size = [], 0
    while size <= limit:
        part = posix.read(fd, 1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
    posix.close(fd)
    return b"".join(parts) if size <= limit else None


def load(path):
    """The JSON object in a file, read without the json package (whose regular expressions take 7 ms to import)."""
    text = (content(opened(path), SPEC_MAX) or b"").decode("utf-8", "surrogateescape").strip()
    try:
        from _json import make_scanner
    except ImportError:
        import json
        return json.loads(text)

    class Context:
        strict, object_hook, object_pairs_hook, memo = True, None, None, {}
        parse_float, parse_int, parse_constant = float, int, float
    spec, end = make_scanner(Context)(text, 0)
    if end != len(text) or not isinstance(spec, dict):
        raise ValueError("not one JSON object")
    return spec


# --- looking up files inside the root -------------------------------------------------------------------------------------------------

def resolve(path, flags):
    """Open a path as it is seen from our root, following no magic link of procfs. The root is already ours: `..` ends there."""
    how = b"".join(value.to_bytes(8, sys.byteorder) for value in (flags | posix.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
    top = opened("/", DIRECTORY)
    try:
        for attempt in range(64):
            try:
                return call("syscall", SYS_OPENAT2, top, raw(path) + b"\0", how, len(how))
            except OSError as error:
                if error.errno == ENOSYS:
                    return walk(top, path, flags)
                if error.errno != EAGAIN:
                    raise
        raise OSError(EAGAIN, posix.strerror(EAGAIN))
    finally:
        posix.close(top)


def walk(top, path, flags):
    """The same before Linux 5.6: component by component, each symbolic link read by us and none of procfs followed."""
    rest, links, here = path.split("/"), 0, opened(".", DIRECTORY, top)
    while rest:
        part = rest.pop(0)
        if part in ("", "."):
            continue
        nearer = opened(part, posix.O_PATH | posix.O_NOFOLLOW, here)
        if kind(nearer) != 0o120000:
            posix.close(here)
            here = nearer
            continue
        links += 1
        if links > 40 or on_procfs(nearer):
            raise OSError(ELOOP, posix.strerror(ELOOP))
        target = posix.readlink(b"", dir_fd=nearer).decode("utf-8", "surrogateescape")
        posix.close(nearer)
        rest = target.split("/") + rest
        if target.startswith("/"):
            posix.close(here)
            here = opened(".", DIRECTORY, top)
    if flags & posix.O_PATH:
        if flags & posix.O_DIRECTORY and kind(here) != 0o040000:
            raise OSError(20, posix.strerror(20))
        return here
    # A descriptor of O_PATH cannot be read, and procfs may be out of reach: open the path again and compare, so a swap is caught.
    found, again = posix.fstat(here), opened(path, flags, top)
    now = posix.fstat(again)
    posix.close(here)
    if (found.st_dev, found.st_ino) != (now.st_dev, now.st_ino):
        raise OSError(ELOOP, posix.strerror(ELOOP))
    return again


def kind(fd):
    """The type bits of an open file's mode."""
    return posix.fstat(fd).st_mode & 0o170000


def on_procfs(fd):
    block, seen = memory(bytearray(256))
    call("fstatfs", fd, block)
    return int.from_bytes(seen[:8], sys.byteorder) == PROC_SUPER_MAGIC


def id_file(path):
    """The lines of /etc/passwd or /etc/group of the root, as lists of fields; [] when it has none."""
    try:
        fd = resolve(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise
    if kind(fd) != 0o100000 or on_procfs(fd):
        raise Refused(f"{path} inside is not a regular file")
    data = content(fd, ID_FILE_MAX)
    if data is None:
        raise Refused(f"{path} inside is larger than {ID_FILE_MAX >> 20} MiB")
    return [line.split(":") for line in data.decode("utf-8", "surrogateescape").split("\n")]


def number(text, what):
    """A user or group id: plain decimal digits below 2^32-1 (which means "leave as it is" to the kernel), else refused."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and str(int(text)) == text and int(text) < 0xFFFFFFFF):
        raise Refused(f"{what} has a bad id {text!r}")
    return int(text)


def is_number(text):
    return text[:1] in "-+0123456789" or not text


def identity(spec):
    """(uid, gid, supplementary gids, name, home), from the root's own files and never through NSS."""
    user, group, extra = spec.get("user") or "root", spec.get("group"), spec.get("groups")
    if spec.get("probe"):
        return 0, 0, [], "root", "/"
    uid = number(user, "the user") if is_number(user) else None
    gid, name, home = None, user if uid is None else None, "/"
    for fields in id_file("/etc/passwd"):
        if len(fields) < 6 or (fields[0] != user if uid is None else fields[2] != user):
            continue
        uid, gid = number(fields[2], f"user {fields[0]}"), number(fields[3], f"user {fields[0]}")
        name, home = fields[0], fields[5] if fields[5].startswith("/") else "/"
        break
    else:
        if uid == 0 or user == "root":
            uid, gid, name = 0, 0, "root"
        elif uid is None:
            raise Refused(f"there is no user {user!r} in /etc/passwd inside")
    groups = id_file("/etc/group") if extra is None or not all(is_number(one) for one in extra + [group or "0"]) else []
    table = {fields[0]: fields for fields in groups if len(fields) > 3}

    def gid_of(one):
        if is_number(one):
            return number(one, "the group")
        if one not in table:
            raise Refused(f"there is no group {one!r} in /etc/group inside")
        return number(table[one][2], f"group {one}")
    if group is not None:
        gid = gid_of(group)
    if gid is None:
        raise Refused(f"user {user} is not in /etc/passwd inside, so its group must be given")
    if extra is None:
        extra = [one for one, fields in table.items() if name in fields[3].split(",")]
    return uid, gid, sorted({gid_of(one) for one in extra}), name or str(uid), home


# --- the steps ------------------------------------------------------------------------------------------------------------------------

def own_keyring():
    """Leave the caller's session keyring; a kernel or container without keys has none to leave."""
    syscall = KEYCTL.get(posix.uname().machine)
    try:
        if syscall:
            call("syscall", syscall, 1, 0)
    except OSError as error:
        if error.errno not in (ENOSYS, EPERM):
            raise


def own_session(tty):
    """No controlling terminal but, where asked for, the one made for us that is our input: there is nothing else to push
    characters into (CVE-2017-5226)."""
    try:
        posix.setsid()
    except OSError:  # we lead a process group already (tini made it): then give the terminal up, if there is one
        try:
            other = opened("/dev/tty", posix.O_RDWR)
        except OSError as error:
            if error.errno not in (ENXIO, ENOENT):
                raise
        else:
            call("ioctl", other, TIOCNOTTY, 0)
            posix.close(other)
    if tty:
        call("ioctl", 0, TIOCSCTTY, 0)


def write(path, text):
    fd = opened(path, posix.O_WRONLY)
    posix.write(fd, text)
    posix.close(fd)


def wait(child, spec):
    """Wait for the child in its pid namespace, pass signals on to it, end as it ends. 124: its time was up."""
    late = []

    def forward(signum, frame):
        if signum == SIGALRM:
            late.append(signum)
            signum = SIGKILL
        for target in (-child, child):  # the group, once the child leads one
            try:
                return posix.kill(target, signum)
            except OSError:
                pass
    for signum in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2, SIGALRM):
        _signal.signal(signum, forward)
    if spec.get("timeout"):
        _signal.alarm(int(spec["timeout"]))
    status = posix.waitpid(child, 0)[1]
    if late:
        return 124
    return posix.WEXITSTATUS(status) if posix.WIFEXITED(status) else 128 + posix.WTERMSIG(status)


def notifier():
    """A socket to the supervisor that waits for word of us (sd_notify(3)), opened while it can be reached; None without one."""
    address = posix.environ.get(b"NOTIFY_SOCKET")
    if not address:
        return None
    import _socket
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    sock.connect(b"\0" + address[1:] if address[:1] == b"@" else address)
    return sock


def hand_over(sock):
    """Have a sibling take our place, born in the pid namespace that was joined: the supervisor is its parent and waits for it.

    Returns in the sibling, which has to say when it is ready: the function that does so. We wait for that, and pass it on together with
    whom to wait for: one message is one change of state to the supervisor, and each takes as much of it as half a start. The sibling
    goes on once the supervisor has read that, so that it learns how the command ends, however soon that is. We end: nobody has to wait
    in between.
    """
    (told, tell), (heard, say_so) = posix.pipe(), posix.pipe()
    sibling = call("syscall", SYS_CLONE3, CLONE_PARENT.to_bytes(8, sys.byteorder) + bytes(56), 64)
    if not sibling:
        posix.close(tell)

        def ready():
            posix.write(say_so, b"1")
            if not posix.read(told, 1):
                raise Refused("whoever began to enter was killed")
        return ready
    posix.close(say_so)
    if not posix.read(heard, 1):
        posix._exit(125)  # it has said why
    seen, see = posix.pipe()
    sock.send(b"MAINPID=%d\nREADY=1" % sibling)
    sock.sendmsg([b"BARRIER=1"], [(1, 1, see.to_bytes(4, sys.byteorder))])  # SOL_SOCKET, SCM_RIGHTS
    posix.close(see)
    posix.read(seen, 1)  # ends when the supervisor has read all that came before, and closed it
    posix.write(tell, b"1")
    posix._exit(0)


def null_input():
    """Empty standard input. The host's own /dev/null is not let in: root inside could change its mode."""
    try:
        fd = resolve("/dev/null", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
        if kind(fd) == 0o020000 and posix.fstat(fd).st_rdev == 0x103:
            posix.dup2(fd, 0)
            return
    except OSError:
        pass
    posix.dup2(posix.pipe()[0], 0)


def capset(effective, permitted, inheritable):
    """Sets are whole numbers with one bit for each capability."""
    data = b"".join(((one >> shift) & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
                    for shift in (0, 32) for one in (effective, permitted, inheritable))
    call("capset", CAPSET_VERSION.to_bytes(4, sys.byteorder) + b"\0\0\0\0", data)


def permitted_now():
    """The capabilities that we have, as such a number."""
    block, data = memory(bytearray(24))
    call("capget", CAPSET_VERSION.to_bytes(4, sys.byteorder) + b"\0\0\0\0", block)
    low, high = (int.from_bytes(data[at:at + 4], sys.byteorder) for at in (4, 16))
    return high << 32 | low


def load_seccomp(program):
    """Install a filter: struct sock_fprog is its length in instructions (16 bits), padding, a pointer."""
    block = memory(bytearray(program))[0]
    length = (len(program) // 8).to_bytes(2, sys.byteorder) + b"\0" * 6
    prctl(PR_SET_SECCOMP, 2, length + _ctypes.addressof(block).to_bytes(8, sys.byteorder))


def drop(spec, uid, gid, groups, filters, limits):
    """Give up, for good and in this order, what the spec does not keep."""
    permitted = permitted_now()
    kept = sum(1 << bit for bit in spec.get("capabilities") or [])
    ambient = spec.get("ambient") or []
    raised = sum(1 << bit for bit in ambient)
    say("keep its capabilities")
    if kept & ~permitted:
        missing = ", ".join(str(bit) for bit in range(64) if (kept & ~permitted) >> bit & 1)
        raise Refused(f"the host itself does not have the capabilities numbered {missing}")
    for which, soft, hard in limits:
        say(f"set its rlimit {which}")
        setrlimit(which, soft, hard)
    say("limit its capabilities")
    for bit in range(64):
        try:
            prctl(PR_CAPBSET_READ, bit)
        except OSError:
            break
        if not kept >> bit & 1:
            prctl(PR_CAPBSET_DROP, bit)
    prctl(PR_SET_KEEPCAPS, 1)
    say("set its groups")
    posix.setgroups(groups)
    posix.setresgid(gid, gid, gid)
    say("set its user")
    posix.setresuid(uid, uid, uid)
    say("load its seccomp filter")
    unprivileged = spec.get("no_new_privs", True)
    if filters and not unprivileged:  # loading without no_new_privs takes a capability that is about to go
        capset(permitted, permitted, raised)
        load_seccomp(filters)
    say("set its capabilities")
    final = kept if uid == 0 else raised
    capset(final, final, raised)
    prctl(PR_SET_KEEPCAPS, 0)
    prctl(PR_CAP_AMBIENT, 4)  # clear all
    for bit in ambient:
        prctl(PR_CAP_AMBIENT, 2, bit)
    if unprivileged:
        say("set no_new_privs")
        prctl(PR_SET_NO_NEW_PRIVS, 1)


def setrlimit(which, soft, hard):
    import resource  # imported by enter() already
    resource.setrlimit(getattr(resource, "RLIMIT_" + which.upper()), (soft, hard))


def probe(target):
    """Ask a TCP port, or the HTTP server behind it, inside; the address is a literal, so no name service is asked."""
    import _socket  # imported by enter() already
    family = _socket.AF_INET6 if ":" in target["host"] else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    sock.settimeout(target.get("timeout", 5))
    sock.connect((target["host"], target["port"]))
    if target.get("path"):
        host = f"[{target['host']}]" if family == _socket.AF_INET6 else target["host"]
        sock.sendall(raw(f"GET {target['path']} HTTP/1.0\r\nHost: {host}:{target['port']}\r\nConnection: close\r\n\r\n"))
        answer = b""
        while b"\n" not in answer and len(answer) < 256:
            part = sock.recv(256)
            if not part:
                break
            answer += part
        words = answer.split()
        if not (len(words) > 1 and words[0].startswith(b"HTTP/") and words[1][:1] in (b"2", b"3")):
            raise Refused(f"it answered {answer[:40]!r}", 1)
    return 0


def execute(spec, environment):
    """Become the command, found by the PATH of its own environment inside."""
    command = [raw(one) for one in spec["command"]]
    variables = {raw(name): raw(value) for name, value in environment.items()}
    if b"/" in command[0]:
        places = [command[0]]
    else:
        places = [raw(place) + b"/" + command[0] for place in environment["PATH"].split(":") if place.startswith("/")]
    status, reason = 127, "not found"
    for place in places:
        try:
            posix.execve(place, command, variables)
        except OSError as error:
            if error.errno not in (ENOENT, 20):
                status, reason = 126, error.strerror
    raise Refused(f"cannot run {spec['command'][0]}: {reason}", status)


def enter(path):
    prctl(PR_SET_DUMPABLE, 0)
    spec = load(path)
    doing["name"] = spec.get("name") or path
    pins = {space: pin for space, pin in (spec.get("namespaces") or {}).items() if pin}
    files = {}
    for space, pin in pins.items():
        say(f"open its {space} namespace {pin}")
        files[space] = opened(pin)
    tasks = []
    for one in spec.get("cgroup") or []:
        say(f"open its cgroup {one}")
        tasks.append(opened(one, posix.O_WRONLY))
    filters = b""
    if spec.get("seccomp"):
        say(f"read its seccomp filter {spec['seccomp']}")
        filters = content(opened(spec["seccomp"]), 1 << 19)
        if not filters or len(filters) % 8:
            raise Refused(f"{spec['seccomp']} is no seccomp filter")
    limits = [(which, pair[0], pair[1]) for which, pair in sorted((spec.get("rlimits") or {}).items())]
    if limits:
        import resource  # noqa: F401  pylint: disable=unused-import
    if spec.get("probe"):
        import _socket  # noqa: F401  pylint: disable=unused-import
    say("reach its supervisor")
    sock = notifier() if spec.get("notify") else None

    def ready():
        sock.send(b"READY=1")

    parent = 0  # as it is seen from a pid namespace that it is not in
    forked = "pid" in files or spec.get("timeout")
    if forked:
        say("join its pid namespace")
        if "pid" in files:
            call("setns", files["pid"], CLONE["pid"])
        else:
            parent = posix.getpid()
        if sock:
            ready = hand_over(sock)
        else:
            child = posix.fork()
            if child:
                return wait(child, spec)
    say("take a session of its own")
    own_keyring()
    own_session(spec.get("tty"))
    if spec.get("oom_score_adj") is not None:
        say("set its oom_score_adj")
        write("/proc/self/oom_score_adj", b"%d" % spec["oom_score_adj"])
    if spec.get("nice") is not None:
        say("set its nice")
        posix.setpriority(posix.PRIO_PROCESS, 0, spec["nice"])
    say("open its output to it")
    for fd in (1, 2):  # /dev/stdout may be opened again by whoever it becomes; a pipe has no other way in than its own processes
        if kind(fd) == 0o010000 and posix.fstat(fd).st_uid == posix.geteuid():
            posix.fchmod(fd, 0o622)
    say("join its cgroup")
    for fd in tasks:
        posix.write(fd, b"0")
    if spec.get("started"):
        say("note what it was started with")
        try:
            posix.unlink(raw(spec["started"]))
        except FileNotFoundError:
            pass
        posix.link(raw(path), raw(spec["started"]))
    # Root of the host keeps the power to join the others until it becomes root of the user namespace; nobody else has it before that.
    order = ("time", "net", "uts", "ipc", "cgroup", "mnt")
    for space in order + ("user",) if posix.geteuid() == 0 else ("user",) + order:
        if space in files:
            say(f"join its {space} namespace {pins[space]}")
            call("setns", files[space], CLONE[space])
    if spec.get("unshare_cgroup"):
        say("make its cgroup namespace")
        call("unshare", CLONE["cgroup"])
    if spec.get("root"):
        say(f"enter its root {spec['root']}")
        posix.fchdir(opened(spec["root"], DIRECTORY))
        posix.chroot(".")
    posix.chdir("/")

    say("look up its user")
    uid, gid, groups, name, home = identity(spec)
    if spec.get("stdin", "null") == "null" and not spec.get("tty"):
        say("empty its standard input")
        null_input()
    drop(spec, uid, gid, groups, filters, limits)
    say(f"change to its directory {spec.get('cwd') or '/'}")
    posix.umask(spec.get("umask", 0o22))
    posix.fchdir(resolve(spec.get("cwd") or "/", DIRECTORY))
    if not posix.getcwd().startswith("/"):
        raise Refused("its directory lies outside of its root")
    if forked and not sock or spec.get("die_with_parent"):  # tini and we pass signals on, but nobody can pass on a KILL
        say("tie it to its parent")
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        if posix.getppid() != parent:
            raise Refused("its supervisor is gone")
    if sock:
        say("tell its supervisor")
        ready()
    environment = {"PATH": PATH, "HOME": home, "USER": name, "LOGNAME": name}
    environment.update(spec.get("environment") or {})
    say("leave nothing open")
    for signum in range(1, 65):
        if signum not in (SIGKILL, 19, 32, 33):
            _signal.signal(signum, _signal.SIG_DFL)
    for signum in (32, 33):  # the C library keeps these to itself, and passes on that its caller ignored them
        if posix.uname().machine in SIGACTION:
            call("syscall", SIGACTION[posix.uname().machine], signum, bytes(32), 0, 8)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    try:
        call("syscall", SYS_CLOSE_RANGE, 3, 0xFFFFFFFF, 0)
    except OSError:  # before Linux 5.9
        posix.closerange(3, 1 << 16)
    if filters and spec.get("no_new_privs", True):
        say("load its seccomp filter")
        load_seccomp(filters)
    if spec.get("probe"):
        say("reach it")
        try:
            return probe(spec["probe"])
        except OSError as error:
            raise Refused(f"cannot reach it: {error.strerror or error}", 1)
    say("run its command")
    return execute(spec, environment)


def main(arguments):
    """Never returns: all ends here, without a traceback (showing one would load modules from inside)."""
    path = arguments[1] if len(arguments) == 2 else ""
    status, reason = 125, "usage: enter.py SPEC.json"
    try:
        if path:
            status, reason = enter(path), ""
    except Refused as error:
        reason = str(error.args[0])
        status = error.args[1] if len(error.args) > 1 else 125
    except OSError as error:
        reason = f"cannot {doing['step']}: {error.strerror}"
    except BaseException as error:
        reason = f"cannot {doing['step']}: {type(error).__name__}: {error}"
    if reason:
        line = f"Cannot enter {doing['name'] or path}: {reason}."
        posix.write(2, raw(line.replace("\n", "?") + "\n"))
    posix._exit(status)


if __name__ == "__main__":
    main(sys.argv)
