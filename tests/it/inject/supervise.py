"""Lets system calls of a server fail, for tests: by seccomp's user notification, so that one counter covers all threads.

    supervise.py check                   says by its exit code whether this machine can do it
    supervise.py watch SOCKET ROOT       prints `ready`, takes one server, and then lines on its standard input
    supervise.py exec SOCKET PROGRAM...  becomes PROGRAM, watched by the other one
    supervise.py without ERRNO CALL[,CALL...] PROGRAM...
                                         becomes PROGRAM, for which each of the calls fails

Lines: `arm CLASS ERRNO N [on] [of=PATH]` makes the N-th call of the class fail, of those whose file has PATH in its own, and
with `on` every later one, too. `arm count` only counts. `disarm` answers what came of it, as one line of JSON. Of the calls that have a file, only those in ROOT count.
"""
import ctypes
import errno
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import time

# Where a call has its file: `p` a path, `d` a directory's descriptor and a path, `f` a descriptor, each with the place of
# its argument; none: the call has no file, or any will do.
CALLS = {
    "open": {"open": "p0", "openat": "d0", "openat2": "d0", "creat": "p0"},
    "write": {"write": "f0", "pwrite64": "f0", "writev": "f0", "pwritev": "f0", "pwritev2": "f0",
              "copy_file_range": "f2", "sendfile": "f0", "splice": "f2"},
    "read": {"read": "f0", "pread64": "f0", "readv": "f0"},
    "fsync": {"fsync": "f0", "fdatasync": "f0"},
    "syncfs": {"syncfs": "f0"},
    "rename": {"rename": "p1", "renameat": "d2", "renameat2": "d2"},
    "unlink": {"unlink": "p0", "unlinkat": "d0", "rmdir": "p0"},
    "mkdir": {"mkdir": "p0", "mkdirat": "d0"},
    "symlink": {"symlink": "p1", "symlinkat": "d1"},
    "link": {"link": "p1", "linkat": "d2"},
    "statfs": {"statfs": "p0", "fstatfs": "f0"},
    "chmod": {"chmod": "p0", "fchmod": "f0", "fchmodat": "d0"},
    "truncate": {"ftruncate": "f0"},
    "utime": {"utimensat": "d0"},
    "readlink": {"readlink": "p0", "readlinkat": "d0"},
    "stat": {"stat": "p0", "lstat": "p0", "newfstatat": "d0", "statx": "d0"},
    "getdents": {"getdents64": "f0"},
    "send": {"sendto": None, "sendmsg": None},
    "recv": {"recvfrom": None, "recvmsg": None},
    "connect": {"connect": None},
    "clone": {"clone": None, "clone3": None, "fork": None, "vfork": None},
    "pidfd": {"pidfd_open": None},
    "pipe": {"pipe2": None, "pipe": None},
    "socket": {"socket": None, "socketpair": None},
    "dup": {"fcntl": None},
    "epoll": {"epoll_create1": None, "eventfd2": None},
}
# Several classes as one: what a full disk refuses (a rename within a directory takes no space), and what a process without descriptors is refused.
GROUPS = {
    "disk": {"open", "write", "mkdir", "symlink", "link"},
    "fds": {"open", "pipe", "socket", "dup", "epoll", "pidfd"},
}
NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "stat": 4, "lstat": 6, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20,
        "pipe": 22, "sendfile": 40, "socket": 41, "connect": 42, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47,
        "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "fcntl": 72, "fsync": 74, "fdatasync": 75,
        "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88,
        "readlink": 89, "chmod": 90, "fchmod": 91, "statfs": 137, "fstatfs": 138, "getdents64": 217, "openat": 257,
        "mkdirat": 258, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266,
        "readlinkat": 267, "fchmodat": 268, "splice": 275, "utimensat": 280, "eventfd2": 290, "epoll_create1": 291, "pipe2": 293,
        "pwritev": 296, "syncfs": 306, "renameat2": 316, "copy_file_range": 326, "pwritev2": 328, "statx": 332,
        "pidfd_open": 434, "clone3": 435, "openat2": 437,
    },
    "aarch64": {
        "eventfd2": 19, "epoll_create1": 20, "fcntl": 25, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37,
        "renameat": 38, "statfs": 43, "fstatfs": 44, "ftruncate": 46, "fchmod": 52, "fchmodat": 53, "openat": 56,
        "pipe2": 59, "getdents64": 61, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
        "pwritev": 70, "sendfile": 71, "splice": 76, "readlinkat": 78, "newfstatat": 79, "fsync": 82, "fdatasync": 83, "utimensat": 88,
        "socket": 198, "socketpair": 199, "connect": 203, "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212,
        "clone": 220, "syncfs": 267, "renameat2": 276, "copy_file_range": 285, "pwritev2": 287, "statx": 291,
        "pidfd_open": 434, "clone3": 435, "openat2": 437,
    },
}
# The same on all machines: calls that came after Linux 5.0.
SINCE_5 = {"pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "faccessat2": 439}
SECCOMP = {"x86_64": 317, "aarch64": 277}
PIDFD_GETFD = 438
NEW_LISTENER = 1 << 3
NOTIFY, FAIL = 0x7FC00000, 0x00050000
RECEIVE, SEND, SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
CONTINUE = 1
F_DUPFD_CLOEXEC = 1030

machine = platform.machine()
numbers = NUMBERS.get(machine, {})
libc = ctypes.CDLL(None, use_errno=True)
# The class of a call, its name, and where its file is, by its number.
calls = {numbers[name]: (kind, name, where) for kind, all in CALLS.items() for name, where in all.items() if name in numbers}


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def install(tests, action, flags):
    """The filter of this process and of all that it becomes or starts: what is done at each of these calls."""
    program = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    for at, number in enumerate(tests):
        program.append(struct.pack("HBBI", 0x15, len(tests) - at, 0, number))
    program.append(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    program.append(struct.pack("HBBI", 0x06, 0, 0, action))
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    header = ctypes.create_string_buffer(header)
    check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    check(libc.syscall(SECCOMP[machine], 1, flags, header), "seccomp")


def become(path, command):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    # Whoever watches is not an ancestor: where Yama is strict, it has to be named. Elsewhere this is refused.
    watcher = int(client.recv(64))
    libc.prctl(0x59616D61, watcher, 0, 0, 0)
    client.send(b"installing")
    install(sorted(calls), NOTIFY, NEW_LISTENER)
    # Only calls that the filter lets pass: `recvfrom` would have to be answered by who has no listener yet.
    os.set_blocking(client.fileno(), True)
    select.select([client], [], [])
    os.execvp(command[0], command)


def without(code, names, command):
    known = {**numbers, **SINCE_5}
    install(sorted(known[name] for name in names.split(",")), FAIL | getattr(errno, code), 0)
    os.execvp(command[0], command)


class Watch:
    def __init__(self, listener, server, root):
        self.listener, self.server, self.root = listener, server, root
        self.memory = None
        self.disarm()

    def disarm(self):
        self.kinds, self.counts, self.hits = None, {}, []

    def arm(self, kind, code=None, n=0, on=False, of=""):
        self.disarm()
        self.of = of
        self.kinds = None if kind == "count" else GROUPS.get(kind, {kind})
        self.all, self.armed = kind == "count", True
        self.kind, self.code, self.n, self.on = kind, code, n, on

    def text(self, address):
        if self.memory is None:
            self.memory = os.open(f"/proc/{self.server}/mem", os.O_RDONLY)
        return os.pread(self.memory, 4096, address).split(b"\0", 1)[0].decode(errors="replace")

    def file(self, where, args):
        at = int(where[1])
        if where[0] == "f":
            return self.descriptor(args[at])
        base, path = "cwd", args[at]
        if where[0] == "d":
            fd = args[at] & 0xFFFFFFFF
            base = "cwd" if fd == 0xFFFFFF9C else f"fd/{fd}"
            path = args[at + 1]
        # A call that takes a path may also mean the file of its descriptor, without one.
        path = self.text(path) if path else ""
        if path.startswith("/"):
            return path
        base = os.readlink(f"/proc/{self.server}/{base}")
        return os.path.join(base, path) if path else base

    def descriptor(self, fd):
        try:
            return os.readlink(f"/proc/{self.server}/fd/{fd & 0xFFFFFFFF}")
        except OSError:
            return ""

    def thread(self, pid):
        with open(f"/proc/{self.server}/task/{pid}/comm") as comm:
            return comm.read().strip()

    def judge(self, pid, number, args):
        """The error that a call gets; none if it goes on."""
        kind, name, where = calls[number]
        if not (self.all if self.kinds is None else kind in self.kinds):
            return 0
        if name == "fcntl" and args[1] != F_DUPFD_CLOEXEC:
            return 0
        # Children have the filter, too.
        if not os.path.exists(f"/proc/{self.server}/task/{pid}"):
            return 0
        if kind == "recv" and self.thread(pid).startswith(("deploy-", "process-", "run-as")):
            # Rust's library hears so from a new child, and panics where it cannot. No disk and no network fails there.
            return 0
        path = ""
        if where is not None:
            path = self.file(where, args)
            if not path.startswith(self.root) or self.of not in path:
                return 0
        # A disk without space refuses to make a file, not to open one.
        if kind == "open" and self.code == errno.ENOSPC:
            flags = args[1] if name == "open" else args[2]
            if name == "openat2" or not flags & os.O_CREAT:
                return 0
        key = kind if self.all else self.kind
        count = self.counts[key] = self.counts.get(key, 0) + 1
        if self.all and kind == "open" and where and args[1 if name == "open" else 2] & os.O_CREAT:
            self.counts["create"] = self.counts.get("create", 0) + 1
        if self.all or count < self.n or (count > self.n and not self.on):
            return 0
        if len(self.hits) < 20:
            self.hits.append(f"{self.thread(pid)} {name} {path.removeprefix(self.root)}".strip())
        return self.code

    def notified(self):
        notice = bytearray(80)
        try:
            fcntl.ioctl(self.listener, RECEIVE, notice)
        except OSError:
            # Whoever called has gone.
            return
        id, pid, _, number, _, _, *args = struct.unpack("QIIiIQ6Q", notice)
        code = 0
        try:
            if self.kinds is not None or self.all:
                code = self.judge(pid, number, args)
        except OSError:
            pass
        answer = struct.pack("QqiI", id, 0, -code, 0 if code else CONTINUE)
        try:
            fcntl.ioctl(self.listener, SEND, bytearray(answer))
        except OSError:
            pass

    all = False

    def told(self, line):
        words = line.split()
        if words[0] == "arm" and words[1] == "count":
            self.arm("count")
        elif words[0] == "arm":
            of = next((word.removeprefix("of=") for word in words[4:] if word.startswith("of=")), "")
            self.arm(words[1], getattr(errno, words[2]), int(words[3]), "on" in words[4:], of)
        else:
            answer = json.dumps({"counts": self.counts, "hits": self.hits})
            self.all = False
            self.disarm()
            return answer
        return "armed"


def take(path):
    """Waits for one server, and takes its listener over."""
    house = socket.socket(socket.AF_UNIX)
    house.bind(path)
    house.listen(1)
    print("ready", flush=True)
    client, _ = house.accept()
    server = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    client.send(str(os.getpid()).encode())
    client.recv(64)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for fd in os.listdir(f"/proc/{server}/fd"):
            if os.readlink(f"/proc/{server}/fd/{fd}") == "anon_inode:seccomp notify":
                pidfd = os.pidfd_open(server)
                listener = check(libc.syscall(PIDFD_GETFD, pidfd, int(fd), 0), "pidfd_getfd")
                os.close(pidfd)
                return client, server, listener
        time.sleep(0.002)
    raise SystemExit("the filter does not appear")


def watch(path, root):
    client, server, listener = take(path)
    try:
        # The thread that waits and the one that answers take turns: so says this where the kernel knows it.
        fcntl.ioctl(listener, SET_FLAGS, 1)
    except OSError:
        pass
    watch = Watch(listener, server, root)
    client.send(b"go")
    client.close()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(0, select.POLLIN)
    print("watching", flush=True)
    while True:
        for fd, event in poll.poll():
            if fd == listener and event & select.POLLIN:
                watch.notified()
            elif fd == listener:
                return
            else:
                line = sys.stdin.readline()
                if not line:
                    os.kill(server, signal.SIGKILL)
                    return
                print(watch.told(line), flush=True)


def possible():
    """Whether the kernel and this Python have what is needed; nothing is changed."""
    action = ctypes.create_string_buffer(struct.pack("I", NOTIFY))
    check(libc.syscall(SECCOMP[machine], 2, 0, action), "user notification")
    pidfd = os.pidfd_open(os.getpid())
    os.close(check(libc.syscall(PIDFD_GETFD, pidfd, 0, 0), "pidfd_getfd"))


if __name__ == "__main__":
    if machine not in NUMBERS:
        raise SystemExit(f"the numbers of the system calls of {machine} are not known here")
    if sys.argv[1] == "check":
        possible()
    elif sys.argv[1] == "watch":
        watch(sys.argv[2], sys.argv[3])
    elif sys.argv[1] == "without":
        without(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        become(sys.argv[2], sys.argv[3:])
