"""Hostile programs, run for real, in both strengths of the sandbox.

Each program does something that it must not and behaves like a right solution only if that failed.
After each: its verdict, what it might have hurt, and a right solution in the same box.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fgit.common.errors import UserError
from fgit.sandbox import box as sandbox
from fgit.sandbox.box import Box, Limits
from fgit.sandbox.interpreter import others_may_read, probe
from fgit.sandbox.strength import why_not_bwrap
from fgit.sandbox.worker.cleaning import processes_below

REPOSITORY = Path(__file__).parents[3]
WORKER = REPOSITORY / "workflow/fgit/sandbox/worker"
LIMITS = Limits(memory_mb=700, disk_mb=48, processes=60)
SECRET = "a-secret-that-no-program-may-see"

SEES = "rlimits hides no files"
WRITES = "rlimits keeps nobody from writing where the user may"
NETWORK = "rlimits does not cut the network"
PROCESSES = "rlimits does not keep processes apart"
CALLS = "rlimits refuses no system calls"
SHARED = "rlimits shares /dev/shm with the machine"
# What rlimits covers, but not for root where it stays root.
ROOT = "root"


@dataclass(frozen=True)
class Attack:
    """A hostile program.

    Args:
        attack: the body of a function that returns something true if the attack worked; its result
            decides whether ``f`` returns the right value. Or, with a ``def f`` in it, the program.
        verdict: what the statuses of base and plus may be.
        only_bwrap: why nothing but bwrap covers this, or ROOT.
        inner: the verdicts under rlimits, where they are others.
    """

    attack: str
    verdict: tuple[str, ...] = ("pass",)
    only_bwrap: str = ""
    inner: tuple[str, ...] = ()
    kind: str = "humaneval"
    problem: dict = field(default_factory=dict)


PRELUDE = """
import ctypes, io, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def reads(path):
    try:
        descriptor = os.open(path, os.O_RDONLY)
        return os.read(descriptor, 4096)
    except OSError:
        return None
def writes(path):
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, b"written")
        return True
    except OSError:
        return False
"""
ZERO = {
    "entry_point": "find_zero",
    "prompt": "def find_zero(xs):\n",
    "canonical_solution": "    return -xs[0] / xs[1]\n",
    "base_input": [[[2, 1]]],
    "plus_input": [[[3, 1]]],
    "atol": 1e-4,
}
FLOAT = {"canonical_solution": "    return 2.0 * x\n", "atol": 1e-6}
BCB = {
    "prompt": "",
    "code_prompt": "def f(x):",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n"
    "    def test_one(self):\n        self.assertEqual(f(1), 2)\n"
    "    def test_two(self):\n        self.assertTrue(f(2) == 4)\n",
}
TESTS = {"test": "def check(g):\n    assert g(1) == 2\n    assert len([g(2)]) == 1\ncheck(f)\n"}

# In place of {HOME}, {PID} and so on stands what the fixture `machine` planted.
ATTACKS = {
    # ---------------------------------------------------------------- seeing
    "reads-ssh-key": Attack("return reads('{HOME}/.ssh/id_rsa')", only_bwrap=SEES, kind="tests"),
    "lists-home": Attack(
        "try: return '.ssh' in os.listdir('{HOME}')\n    except OSError: return False",
        only_bwrap=SEES,
        kind="tests",
    ),
    "reads-own-home": Attack("return reads(os.path.expanduser('~/.ssh/id_rsa'))", kind="tests"),
    "reads-project": Attack(
        "return reads('{PROJECT}/pyproject.toml')", only_bwrap=SEES, kind="tests"
    ),
    "reads-package": Attack(
        "try: import fgit\n    except ImportError: return False\n    return True",
        only_bwrap=SEES,
        kind="tests",
    ),
    "reads-working-folder": Attack("return reads('{CWD}/data.txt')", only_bwrap=SEES, kind="tests"),
    "reads-temporary-files": Attack(
        "return reads('{TMP}/other.txt')", only_bwrap=SEES, kind="tests"
    ),
    "reads-shadow": Attack("return reads('/etc/shadow')", only_bwrap=ROOT, kind="tests"),
    "reads-users": Attack("return b'root' in reads('/etc/passwd')", only_bwrap=SEES, kind="tests"),
    "reads-environment": Attack("return '{SECRET}' in str(os.environ)"),
    "reads-own-first-environment": Attack(
        "return '{SECRET}' in str(reads('/proc/self/environ'))",
    ),
    "reads-first-environment": Attack(
        "return reads('/proc/1/environ')", only_bwrap=ROOT, kind="tests"
    ),
    "reads-parents-environment": Attack(
        "return reads('/proc/{PID}/environ')", only_bwrap=SEES, kind="tests"
    ),
    "reads-parents-memory": Attack(
        "return writes('/proc/{PID}/mem') or reads('/proc/{PID}/maps')",
        only_bwrap=SEES,
        kind="tests",
    ),
    "reads-workers-memory": Attack(
        "return reads(f'/proc/{os.getppid()}/mem') or reads(f'/proc/{os.getppid()}/maps')",
        only_bwrap=ROOT,
    ),
    "sees-processes": Attack(
        "return len([name for name in os.listdir('/proc') if name.isdecimal()]) > 3",
        only_bwrap=PROCESSES,
        kind="tests",
    ),
    "sees-host-name": Attack(
        "return os.uname().nodename == '{HOST}'", only_bwrap=SEES, kind="tests"
    ),
    # ---------------------------------------------------------------- writing
    "writes-usr": Attack("return writes('/usr/fgit-test')", only_bwrap=WRITES, kind="tests"),
    "writes-etc": Attack("return writes('/etc/fgit-test')", only_bwrap=WRITES, kind="tests"),
    "writes-root": Attack("return writes('/fgit-test')", only_bwrap=WRITES, kind="tests"),
    "writes-dev": Attack("return writes('/dev/fgit-test')", only_bwrap=WRITES, kind="tests"),
    "writes-environment": Attack(
        "return writes(sys.prefix + '/fgit-test')", only_bwrap=WRITES, kind="tests"
    ),
    "writes-library": Attack(
        "return writes(os.path.dirname(os.__file__) + '/fgit_test.py')",
        only_bwrap=WRITES,
        kind="tests",
    ),
    "writes-home": Attack("return writes('{HOME}/fgit-test')", only_bwrap=WRITES, kind="tests"),
    "writes-working-folder": Attack(
        "return writes('{CWD}/fgit-test')", only_bwrap=WRITES, kind="tests"
    ),
    "writes-worker": Attack(
        "return writes('/box/scorers.py') or writes('/box/json.py')",
        only_bwrap=WRITES,
        kind="tests",
    ),
    "writes-kernel-settings": Attack(
        "return writes('/proc/sys/kernel/core_pattern')", only_bwrap=WRITES, kind="tests"
    ),
    "writes-disk": Attack(
        "return any(reads('/dev/' + name) for name in ('mem', 'kmem', 'sda', 'vda', 'kmsg'))",
        only_bwrap=ROOT,
        kind="tests",
    ),
    "makes-device": Attack(
        "return libc.mknod(b'mem', 0o20600, 0x101) == 0", only_bwrap=ROOT, kind="tests"
    ),
    "changes-permissions": Attack(
        "return libc.chmod(b'{HOME}/.ssh/id_rsa', 0o777) == 0 or "
        "libc.chmod(sys.executable.encode(), 0o777) == 0",
        only_bwrap=WRITES,
        kind="tests",
    ),
    # What is cleaned away afterwards is the link, not what it leads to.
    "links-to-victim": Attack(
        "os.symlink('{CWD}', os.environ['TMPDIR'] + '/folder')\n"
        "    os.symlink('{CWD}/data.txt', os.environ['TMPDIR'] + '/file')\n"
        "    os.makedirs('x')\n    os.symlink('{CWD}', 'x/folder')"
    ),
    # ---------------------------------------------------------------- the network
    "connects-tcp": Attack(
        "import socket\n    other = socket.socket()\n    other.settimeout(0.2)\n"
        "    return other.connect_ex(('127.0.0.1', {TCP})) == 0",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "connects-outside": Attack(
        "import socket\n    other = socket.socket()\n    other.settimeout(0.2)\n"
        "    import errno\n"
        "    return other.connect_ex(('192.0.2.1', 80)) != errno.ENETUNREACH",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "sends-udp": Attack(
        "import socket\n    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    other.sendto(b'{SECRET}', ('127.0.0.1', {UDP}))",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "asks-dns": Attack(
        "import socket\n    try:\n        return socket.getaddrinfo('example.com', 80)\n"
        "    except OSError:\n        return False",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "connects-unix-socket": Attack(
        "import socket\n    return socket.socket(socket.AF_UNIX).connect_ex('{SOCKET}') == 0",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "connects-abstract-socket": Attack(
        "import socket\n    return socket.socket(socket.AF_UNIX).connect_ex('\\0{ABSTRACT}') == 0",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "finds-docker": Attack(
        "import socket\n    return any(socket.socket(socket.AF_UNIX).connect_ex(path) == 0 for path"
        " in ('/var/run/docker.sock', '/run/docker.sock', '/run/dbus/system_bus_socket'))",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "opens-vsock": Attack(
        "import socket\n    try:\n        return socket.socket(40, socket.SOCK_STREAM)\n"
        "    except OSError:\n        return None",
        only_bwrap=NETWORK,
        kind="tests",
    ),
    "opens-raw-socket": Attack(
        "import socket\n    try: return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\n"
        "    except OSError: return False",
        only_bwrap=ROOT,
        kind="tests",
    ),
    # ---------------------------------------------------------------- processes, memory, time
    "fork-bomb": Attack(
        "def f(x):\n    while True:\n        libc.fork()",
        ("fail", "timeout"),
        ROOT,
        # The memory of processes of which each has the same pages seems larger than it is.
        inner=("fail", "timeout", "crashed"),
    ),
    "fork-bomb-of-sleepers": Attack(
        "while libc.fork() >= 0:\n        if os.getpid() != me: time.sleep(1000)\n"
        "    return False\nme = os.getpid()",
        only_bwrap=ROOT,
        inner=("pass", "crashed"),
    ),
    "thread-bomb": Attack(
        "import threading\n    for _ in range(10**6):\n"
        "        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        ("fail", "timeout"),
        ROOT,
    ),
    "memory-bomb": Attack(
        "kept = []\n    while True:\n        kept.append(bytearray(b'x' * 2**24))",
        ("crashed", "fail"),
    ),
    "memory-bomb-of-many": Attack(
        "for _ in range(20):\n        if libc.fork() == 0:\n"
        "            kept = bytearray(b'x' * 2**26)\n            time.sleep(1000)\n"
        "    time.sleep(5)",
        ("crashed",),
    ),
    "memory-of-nobody": Attack(
        "return libc.memfd_create(b'x', 0) >= 0 or libc.shmget(0, 2**20, 0o1600) >= 0",
        only_bwrap=CALLS,
        kind="tests",
    ),
    "kills-worker": Attack(
        "libc.kill(os.getppid(), 9)\n    time.sleep(0.1)", ("pass", "forged"), inner=("crashed",)
    ),
    "interrupts-worker": Attack("libc.kill(os.getppid(), 2)\n    time.sleep(0.05)"),
    "stops-worker": Attack(
        "if os.getppid() == 1: libc.kill(os.getppid(), 19)", only_bwrap=PROCESSES
    ),
    "kills-all": Attack("libc.kill(-1, 9)", ("pass", "forged"), PROCESSES),
    "kills-fgit": Attack("return libc.kill({PID}, 0) == 0", only_bwrap=PROCESSES, kind="tests"),
    "leaves-daemon": Attack(
        "if libc.fork() == 0:\n        libc.setsid()\n        if libc.fork() == 0:\n"
        "            os.closerange(3, 256)\n"  # or the check would wait for it
        "            while True:\n                time.sleep(0.02)\n"
        "                writes(os.environ['TMPDIR'] + '/daemon')\n        libc._exit(0)",
    ),
    "leaves-killer": Attack(
        "if libc.fork() == 0:\n        libc.setsid()\n        if libc.fork() == 0:\n"
        "            while True:\n                libc.kill(-1, 9)\n        libc._exit(0)",
        # It may end the check that it is in, but no later one.
        ("pass", "timeout", "fail", "forged"),
        PROCESSES,
    ),
    "leaves-program": Attack(
        "import _posixsubprocess\n    if libc.fork() == 0:\n        libc.setsid()\n"
        "        os.execv('/bin/sleep', ['sleep', '98765'])"
    ),
    # ---------------------------------------------------------------- the disk
    "fills-folder": Attack(
        "for number in range(100):\n        writes_big(f'{number}')\n"
        "    return sum(os.stat(name).st_blocks * 512 for name in os.listdir()) > 50 * 2**20\n"
        "def writes_big(path):\n    try:\n"
        "        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)\n"
        "        for _ in range(10): os.write(descriptor, bytes(2**20))\n"
        "    except OSError: pass",
        ("pass", "forged"),  # its outputs do not fit into the folder either
        "rlimits looks at its folder's size only once a second",
    ),
    "fills-folder-and-waits": Attack(
        "import signal\n    signal.setitimer(signal.ITIMER_REAL, 0)\n    for number in range(20):\n"
        "        descriptor = os.open(f'{number}', os.O_WRONLY | os.O_CREAT)\n"
        "        for _ in range(10): os.write(descriptor, b'x' * 2**20)\n    time.sleep(5)",
        ("fail",),
        inner=("crashed",),
    ),
    "fills-shared-memory": Attack(
        "try:\n        for number in range(100):\n"
        "            descriptor = os.open(f'/dev/shm/{number}', os.O_WRONLY | os.O_CREAT)\n"
        "            os.write(descriptor, bytes(2**20))\n"
        "    except OSError: return False\n    return True",
        only_bwrap=SHARED,
        kind="tests",
    ),
    "makes-huge-file": Attack(
        "descriptor = os.open('big', os.O_WRONLY | os.O_CREAT)\n    try:\n"
        "        os.ftruncate(descriptor, 2**40)\n    except OSError:\n        return False\n"
        "    return True",
        kind="tests",
    ),
    "makes-many-files": Attack(
        "for number in range(300):\n"
        "        os.close(os.open(os.environ['TMPDIR'] + f'/{number}', os.O_CREAT))"
    ),
    "makes-deep-folders": Attack(
        "libc.chdir(os.environ['TMPDIR'].encode())\n    for _ in range(1200):\n"
        "        os.mkdir('x' * 50)\n        libc.chdir(b'x' * 50)\n"
        "    libc.chdir(os.environ['TMPDIR'].encode())"
    ),
    "makes-locked-folders": Attack(
        "os.makedirs(os.environ['TMPDIR'] + '/a/b/c')\n    for path in ('/a/b/c', '/a/b', '/a'):\n"
        "        libc.chmod((os.environ['TMPDIR'] + path).encode(), 0)"
    ),
    "deletes-its-folder": Attack(
        "here = os.readlink('/proc/self/cwd')\n    libc.rmdir(here.encode())",
        ("pass", "fail"),
    ),
    "moves-away": Attack("libc.chdir(b'/')"),
    # ---------------------------------------------------------------- system calls
    "mounts": Attack(
        "return libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0", only_bwrap=ROOT, kind="tests"
    ),
    "unshares": Attack(
        "return any(libc.unshare(flag) == 0 for flag in"
        " (0x10000000, 0x20000, 0x10000000 | 0x20000))",
        only_bwrap=CALLS,
        kind="tests",
    ),
    "clones-namespace": Attack(
        "return libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0"
        " if os.uname().machine == 'x86_64' else False",
        only_bwrap=CALLS,
        kind="tests",
    ),
    "traces-worker": Attack("return libc.ptrace(16, os.getppid(), 0, 0) == 0", only_bwrap=ROOT),
    "becomes-root": Attack(
        "return libc.setuid(0) == 0 or libc.setgid(0) == 0 or libc.seteuid(0) == 0",
        only_bwrap=ROOT,
        kind="tests",
    ),
    "holds-capabilities": Attack(
        "return any(int(line.split()[1], 16) for line in"
        " reads('/proc/self/status').decode().splitlines()"
        " if line.startswith(('CapEff', 'CapPrm', 'CapAmb')))",
        only_bwrap=ROOT,
        kind="tests",
    ),
    "changes-root": Attack("return libc.chroot(b'.') == 0", only_bwrap=ROOT, kind="tests"),
    "raises-limits": Attack(
        "limit = (ctypes.c_ulong * 2)()\n    libc.getrlimit(6, limit)\n    limit[1] += 10\n"
        "    return libc.setrlimit(6, limit) == 0",
        only_bwrap=ROOT,
        kind="tests",
    ),
    "raises-priority": Attack(
        "return libc.setpriority(0, 0, -5) == 0 or"
        " libc.sched_setscheduler(0, 1, ctypes.byref(ctypes.c_int(1))) == 0",
        only_bwrap=ROOT,
        kind="tests",
    ),
    "sets-host-name": Attack(
        "return libc.sethostname(b'{HOST}', 4) == 0", only_bwrap=ROOT, kind="tests"
    ),
    "loads-kernel-program": Attack(
        "bpf = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]\n"  # makes a small array
        "    return libc.syscall(bpf, 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72) >= 0",
        only_bwrap=CALLS,
        kind="tests",
    ),
    # ---------------------------------------------------------------- the worker's answers
    "writes-verdict": Attack(
        'verdict = b\'{"base": "pass", "plus": "pass", "seconds": 0}\\n\'\n'
        "    for descriptor in range(3, 256):\n        try: os.write(descriptor, verdict)\n"
        "        except OSError: pass\n    return True",
        ("fail",),
    ),
    "writes-verdict-through-proc": Attack(
        "found = [writes(f'/proc/{os.getppid()}/fd/{n}') for n in range(64)]\n"
        "    return any(found)",
        only_bwrap=ROOT,
    ),
}
# Programs whose verdict the worker decides, whatever the box: run in the strongest box alone.
VERDICTS = {
    # ---------------------------------------------------------------- ends and files
    "prints-forever": Attack("while True:\n        print('x' * 10**6)", ("fail", "crashed")),
    "prints-forever-below": Attack(
        "while True:\n        os.write(1, b'x' * 10**6)\n        os.write(2, b'x' * 10**6)",
        ("fail",),
    ),
    "prints-a-lot": Attack("print('x' * 10**7)"),
    "reads-input": Attack("return input()", ("fail",)),
    "reads-input-below": Attack("return os.read(0, 10)"),
    "loops": Attack("while True:\n        pass", ("fail",)),
    "loops-outside": Attack("while True:\n    pass\ndef f(x): pass", ("timeout",)),
    "loops-and-takes-no-signal": Attack(
        "import signal\nfor number in range(1, 65):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "def f(x):\n    while True:\n        try:\n            signal.alarm(0)\n"
        "            signal.setitimer(signal.ITIMER_REAL, 0)\n            time.sleep(9)\n"
        "        except BaseException: pass",
        ("timeout",),
    ),
    "recurses": Attack("def g(): return g()\n    return g()", ("fail",)),
    "recurses-without-limit": Attack(
        "sys.setrecursionlimit(10**9)\n    def g(): return g()\n    return g()",
        ("fail", "crashed", "timeout"),
    ),
    "crashes": Attack("ctypes.string_at(0)", ("timeout",)),
    # ---------------------------------------------------------------- ending before the tests
    "exits-below": Attack("libc._exit(0)", ("timeout",)),
    "exits": Attack("sys.exit(0)", ("fail",)),
    "raises-system-exit-outside": Attack("raise SystemExit(0)\ndef f(x): pass", ("fail",)),
    "passes-at-exit": Attack(
        "import atexit\natexit.register(lambda: libc._exit(0))\ndef f(x): sys.exit(0)", ("fail",)
    ),
    # ---------------------------------------------------------------- forging
    "equals-everything": Attack(
        "class Any:\n    def __eq__(self, other): return True\ndef f(x): return Any()", ("forged",)
    ),
    "equals-everything-as-int": Attack(
        "class Any(int):\n    def __eq__(self, other): return True\ndef f(x): return Any(7)",
        ("forged",),
    ),
    "equals-everything-as-float": Attack(
        "class Any(float):\n    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\ndef f(x): return Any(7)",
        ("forged",),
        problem=FLOAT,
    ),
    "equals-everything-as-list": Attack(
        "class Any(list):\n    def __eq__(self, other): return True\ndef f(x): return Any()",
        ("forged",),
        problem={"canonical_solution": "    return [x]\n"},
    ),
    "equals-everything-made-by-type": Attack(
        "name = '_' * 2 + 'eq' + '_' * 2\nAny = type('Any', (int,), {name: lambda a, b: True})\n"
        "def f(x): return Any(7)",
        ("forged",),
    ),
    "equals-everything-by-mock": Attack(
        "from unittest.mock import ANY\ndef f(x): return ANY", ("forged",)
    ),
    "patches-allclose": Attack(
        "import numpy\nnumpy.allclose = lambda *a, **k: True\ndef f(x): return 7.0",
        ("forged",),
        problem=FLOAT,
    ),
    "patches-builtins": Attack(
        "import builtins\nbuiltins.all = lambda items: True\nbuiltins.len = lambda items: 1\n"
        "builtins.isinstance = lambda value, kind: True\nbuiltins.abs = lambda value: 0\n"
        "builtins.type = lambda value: 1\ndef f(x): return 7.0",
        ("forged", "fail"),
        problem=FLOAT,
    ),
    "walks-frames-to-expected": Attack(
        "def f(x):\n    there = sys._getframe(1).f_locals\n"
        "    return there['expected'][there['i']]",
        ("forged",),
    ),
    "walks-frames-to-verdict": Attack(
        "def f(x):\n    there = sys._getframe(1).f_locals\n    there['stat'].value = 0\n"
        "    for i in range(len(there['inputs'])): there['details'][i] = True\n"
        "    there['progress'].value = len(there['inputs'])\n    libc._exit(0)",
        ("forged",),
    ),
    "walks-traceback": Attack(
        "def f(x):\n    try: 1 / 0\n    except ZeroDivisionError as error:\n"
        "        there = error.__traceback__.tb_frame.f_back.f_locals\n"
        "    return there['expected'][there['i']]",
        ("forged",),
    ),
    "walks-generator": Attack(
        "def f(x):\n    def g():\n        frame = it.gi_frame.f_back\n"
        "        while 'expected' not in frame.f_locals: frame = frame.f_back\n"
        "        yield frame.f_locals['expected'][frame.f_locals['i']]\n"
        "    it = g()\n    return next(it)",
        ("forged",),
    ),
    "walks-garbage": Attack(
        "import gc\nfound = {}\nfor item in gc.get_objects():\n"
        "    if isinstance(item, dict) and 'canonical_solution' in item:\n"
        "        exec(item['prompt'] + item['canonical_solution'], found)\ng = found.get('f')\n"
        "def f(x): return g(x) if g else None",
        ("forged", "fail"),
    ),
    "leaves-expected": Attack(
        "place = os.environ['TMPDIR'] + '/expected'\ndef f(x):\n"
        "    there = sys._getframe(1).f_locals\n    if 'expected' in there:\n"
        "        with io.open(place, 'w') as file: file.write(repr(there['expected']))\n"
        "        return there['expected'][there['i']]\n"
        "    return eval(io.open(place).read())[there['i']]",
        ("forged",),
    ),
    "patches-library-of-check": Attack(
        "import math\nmath.pow = lambda a, b: 0\ndef find_zero(xs): return 0.5",
        ("forged",),
        problem=ZERO,
    ),
    "names-what-judges-it": Attack(
        "def float(x): return 0.0\ndef abs(x): return 0.0\ndef find_zero(xs): return 0.5",
        ("forged",),
        problem=ZERO,
    ),
    "changes-what-it-is-judged-by": Attack(
        "def find_zero(xs):\n    xs[:] = [0, 0]\n    return 0.5", ("forged",), problem=ZERO
    ),
    # ---------------------------------------------------------------- other kinds
    "bcb-exits": Attack("def f(x): libc._exit(0)", ("timeout",), kind="bigcodebench"),
    "bcb-exits-outside": Attack("sys.exit(0)\ndef f(x): pass", ("fail",), kind="bigcodebench"),
    "bcb-patches-assert": Attack(
        "import unittest\nfor name in ('assertEqual', 'assertTrue'):\n"
        "    setattr(unittest.TestCase, name, lambda *a: None)\ndef f(x): return 7",
        ("forged",),
        kind="bigcodebench",
    ),
    "bcb-patches-assert-code": Attack(
        "import unittest\ndef same(self, *a): pass\nfor name in ('assertEqual', 'assertTrue'):\n"
        "    getattr(unittest.TestCase, name).__code__ = (lambda self, *a, **k: None).__code__\n"
        "def f(x): return 7",
        ("forged",),
        kind="bigcodebench",
    ),
    "bcb-patches-result": Attack(
        "import unittest\nunittest.TestResult.addFailure = lambda *a: None\ndef f(x): return 7",
        ("forged",),
        kind="bigcodebench",
    ),
    "bcb-puts-another-unittest": Attack(
        "import sys, types, unittest\nother = types.ModuleType('unittest')\n"
        "class TestCase(unittest.TestCase):\n    def assertEqual(self, *a): pass\n"
        "    assertTrue = assertEqual\nother.TestCase = TestCase\nsys.modules['unittest'] = other\n"
        "def f(x): return 7",
        ("forged",),
        kind="bigcodebench",
    ),
    "bcb-leaves-processes": Attack(
        "import subprocess\n    subprocess.Popen(['sleep', '98765'])",
        kind="bigcodebench",
    ),
    "tests-exits": Attack("libc._exit(0)\ndef f(x): pass", ("fail",), kind="tests"),
    "tests-raises-exit": Attack("def f(x): raise SystemExit(0)", ("fail",), kind="tests"),
    "tests-at-exit": Attack(
        "import atexit\natexit.register(libc._exit, 0)\ndef f(x): sys.exit(0)",
        ("fail",),
        kind="tests",
    ),
    "tests-patches-builtins": Attack(
        "import builtins\nbuiltins.len = lambda items: 1\ndef f(x): return 2 * x",
        ("forged",),
        kind="tests",
    ),
    "tests-writes-everywhere": Attack(
        "for descriptor in range(3, 256):\n    try: os.write(descriptor, b'x' * 16)\n"
        "    except OSError: pass\ndef f(x): return 7",
        ("fail",),
        kind="tests",
    ),
    "tests-loops": Attack("while True: pass\ndef f(x): pass", ("timeout",), kind="tests"),
}


# ------------------------------------------------------------------ running them


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Iterator[dict[str, str]]:
    """What programs must not see or hurt, planted; by the names in their texts."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("home/.ssh", "work", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "home/.ssh/id_rsa").write_text(SECRET)
    (folder / "work/data.txt").write_text(SECRET)
    (folder / "tmp/other.txt").write_text(SECRET)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("FGIT_TEST_TOKEN", SECRET)
        patch.setenv("HOME", str(folder / "home"))
        patch.chdir(folder / "work")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        path = stack.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.chdir(folder):  # a socket's path may have 107 characters
            path.bind("socket")
        path.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0fgit-test-{os.getpid()}")
        abstract.listen()
        yield {
            "HOME": str(folder / "home"),
            "CWD": str(folder / "work"),
            "TMP": str(folder / "tmp"),
            "PROJECT": str(REPOSITORY),
            "SECRET": SECRET,
            "PID": str(os.getpid()),
            "HOST": socket.gethostname(),
            "TCP": str(tcp.getsockname()[1]),
            "UDP": str(udp.getsockname()[1]),
            "SOCKET": str(folder / "socket"),
            "ABSTRACT": f"fgit-test-{os.getpid()}",
        }
        with pytest.raises(BlockingIOError):
            udp.recv(100)


def what_may_be_hurt(machine: dict[str, str]) -> list[object]:
    """The state of what a program could hurt outside of its box."""
    folders = [Path(machine[name]) for name in ("HOME", "CWD", "TMP")]
    places = [*map(Path, ("/usr", "/etc", "/", "/dev", sys.prefix)), Path(os.__file__).parent]
    found: list[object] = []
    for path in sorted(path for folder in folders for path in [folder, *folder.rglob("*")]):
        mode = path.stat().st_mode
        found.append((str(path), mode, path.read_text() if path.is_file() else ""))
    found += [path for place in places for path in place.glob("*fgit*")]
    found.append(Path(sys.executable).stat().st_mode)
    found.append(os.getpriority(os.PRIO_PROCESS, 0))
    return found


def problem(**changes: object) -> dict[str, object]:
    """f doubles its argument."""
    return {
        "task_id": "T/1",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    return 2 * x\n",
        "base_input": [[1]],
        "plus_input": [[-1]],
        "atol": 0,
    } | changes


class Bench:
    """A box with a worker; started anew where a program took it down."""

    def __init__(self, strength: sandbox.Strength, kind: str) -> None:
        self.kind = kind
        self.box = Box(strength, LIMITS)
        self.process: subprocess.Popen[bytes] | None = None
        self.standing: set[str] = set()
        self.limits = {"humaneval": {}, "bigcodebench": BCB, "tests": TESTS}[kind]

    def run(
        self, solution: str, changes: dict[str, object], least: float = 0.3
    ) -> dict[str, object]:
        if self.process is None or self.process.poll() is not None:
            self.process = self.box.start(WORKER, self.kind)
            assert self.answer() == {"ready": True}, self.box.errors()
            self.standing = set(self.there())  # what leads to an interpreter below /tmp
        assert self.process.stdin is not None
        job = {
            "problem": problem(**self.limits, **changes),
            "solution": solution,
            "min_time_limit": least,
            "gt_time_limit_factor": 4.0,
        }
        pickle.dump(job, self.process.stdin)
        self.process.stdin.flush()
        expected = self.answer()
        assert expected.get("expected") is True, expected
        return self.answer()

    def answer(self) -> dict[str, object]:
        assert self.process is not None and self.process.stdout is not None
        timer = threading.Timer(60, self.box.stop)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            self.box.stop()
            return {"base": "crashed", "plus": "crashed"}
        return json.loads(line)

    def left(self) -> list[str]:
        """What is in the box besides the worker and what stood there first: processes, files."""
        assert self.process is not None
        if self.process.poll() is not None:
            return []
        return [name for name in self.there() if name not in self.standing]

    def there(self) -> list[str]:
        assert self.process is not None
        inside = list(processes_below(self.process.pid))
        if self.box.strength == "bwrap":
            (first, *inside) = inside
            folders = [Path(f"/proc/{first}/root/tmp"), Path(f"/proc/{first}/root/dev/shm")]
        else:
            folders = [self.box._folder / "tmp"]
        files = [path.name for folder in folders for path in folder.iterdir()]
        return [str(pid) for pid in inside] + [name for name in files if name != "home"]


@pytest.fixture(scope="module")
def benches(machine) -> Iterator[dict[tuple[str, str], Bench]]:
    found: dict[tuple[str, str], Bench] = {}
    yield found
    for bench in found.values():
        bench.box.stop()


def stays_root() -> bool:
    """Whether the worker of the rlimits box would be root."""
    return os.geteuid() == 0 and not all(map(others_may_read, probe(sys.executable).needed))


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        *((name, strength) for name in ATTACKS for strength in ("bwrap", "rlimits")),
        *((name, "strongest") for name in VERDICTS),
    ],
)
def test_attack(name, strength, machine, benches):
    attack = (ATTACKS | VERDICTS)[name]
    if strength == "strongest":
        strength = "rlimits" if why_not_bwrap() else "bwrap"
    if strength == "bwrap" and (reason := why_not_bwrap()):
        pytest.skip(f"not run: bubblewrap does not work here: {reason}")
    if strength == "rlimits" and attack.only_bwrap == ROOT:
        if stays_root():
            pytest.skip(
                "only covered by bwrap: root keeps its rights under rlimits where only root can "
                "read the interpreter"
            )
    elif strength == "rlimits" and attack.only_bwrap:
        pytest.skip(f"only covered by bwrap: {attack.only_bwrap}")
    bench = benches.setdefault((strength, attack.kind), Bench(strength, attack.kind))
    text = attack.attack
    if "def f(" not in text and "def find_zero(" not in text:
        text = f"def attack():\n    {text}\ndef f(x):\n    return 'hurt' if attack() else 2 * x\n"
    for key, value in machine.items():
        text = text.replace("{" + key + "}", value)
    before = what_may_be_hurt(machine)
    # Every part that passes is looked at more closely, which takes time: one is enough, but for
    # those that are about it.
    forges = "forged" in attack.verdict
    changes = attack.problem if forges else {"plus_input": [], **attack.problem}
    least = 0.1 if attack.verdict == ("timeout",) else 0.3
    result = bench.run(PRELUDE + text + "\n", changes, least)
    allowed = attack.inner if strength == "rlimits" and attack.inner else attack.verdict
    assert result["base"] in allowed, (result, bench.box.killed, bench.box.errors())
    assert not forges or result["plus"] in (*allowed, None)
    assert what_may_be_hurt(machine) == before
    assert bench.left() == []
    honest = bench.run("def f(x):\n    return x + x\n", {})
    assert (honest["base"], honest["plus"] or "pass") == ("pass", "pass")
    assert bench.left() == []


# ------------------------------------------------------------------ the box itself


def both_strengths(test):
    return pytest.mark.parametrize("strength", ["bwrap", "rlimits"])(test)


def need(strength: str) -> None:
    if strength == "bwrap" and (reason := why_not_bwrap()):
        pytest.skip(f"not run: bubblewrap does not work here: {reason}")


def script(folder: Path, text: str) -> Path:
    path = folder / "script"
    path.mkdir()
    (path / "__main__.py").write_text(textwrap.dedent(text))
    return path


@both_strengths
def test_a_box_runs_a_script_and_may_be_started_again(strength, tmp_path):
    need(strength)
    path = script(
        tmp_path,
        """
        import os, pathlib, sys
        left = pathlib.Path(os.environ["TMPDIR"], "left")
        print(sys.argv[1:], sys.stdin.read(), left.exists())
        left.touch()
        print("a warning", file=sys.stderr)
        """,
    )
    with Box(strength, LIMITS) as box:
        for text in (b"one", b"two"):
            process = box.start(path, "a", "b")
            assert process.communicate(text)[0].decode().split() == (
                ["['a',", "'b']", text.decode(), "False"]
            )
            assert process.returncode == 0
            assert box.errors() == "a warning"
        box.stop()
        box.stop()
        assert box.errors() == "a warning" and box.killed == ""


@both_strengths
def test_modules_of_a_package_are_no_place_to_import_from(strength, tmp_path):
    """A program finds none of them by name: a folder of ours in sys.path could shadow its own."""
    need(strength)
    path = script(
        tmp_path,
        """
        import sys
        from .other import value
        print(value, *(path for path in sys.path if path.endswith(("box", "package"))))
        try:
            import other
        except ImportError:
            print("none")
        """,
    )
    (path / "other.py").write_text("value = 3\n")
    with Box(strength, LIMITS) as box:
        assert box.start(path).communicate()[0] == b"3\nnone\n", box.errors()


@both_strengths
def test_a_box_is_in_use_while_something_runs(strength, tmp_path):
    need(strength)
    with Box(strength, LIMITS) as box:
        box.start(script(tmp_path, "import time; time.sleep(100)"))
        with pytest.raises(RuntimeError, match="in use"):
            box.start(tmp_path / "script")
    assert box._folder == Path()


@both_strengths
def test_a_box_ends_with_all_in_it(strength, tmp_path):
    need(strength)
    path = script(
        tmp_path,
        """
        import os, subprocess, sys
        for _ in range(3):
            subprocess.Popen(["sleep", "98761"], start_new_session=True)
        if not os.fork():
            os.setsid()
            if not os.fork():
                os.execv("/bin/sleep", ["sleep", "98761"])
            os._exit(0)
        print("ready", flush=True)
        sys.stdin.read()
        """,
    )
    with Box(strength, LIMITS) as box:
        process = box.start(path)
        assert process.stdout.readline() == b"ready\n"
        wait_for(lambda: len(running("98761")) == 4)
        threads = [threading.Thread(target=box.stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert running("98761") == []
        assert process.poll() is not None


def running(argument: str) -> list[str]:
    """Processes of this machine whose command has an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


@both_strengths
def test_a_box_ends_with_the_process_that_started_it(strength, tmp_path):
    need(strength)
    inner = script(tmp_path, "import time; print('ready', flush=True); time.sleep(98762)")
    outer = f"""
        import sys, os, pathlib
        from fgit.sandbox.box import Box, Limits
        box = Box({strength!r}, Limits(700, 48, 60))
        process = box.start(pathlib.Path({str(inner)!r}), "98762")
        print(process.stdout.readline().decode(), flush=True)
        sys.stdin.read()
        """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(outer)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A killed process leaves its folder of temporary files.
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow"), "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout.readline() == b"ready\n"
    assert running("98762")
    parent.kill()
    parent.communicate()
    wait_for(lambda: not running("98762"))


@both_strengths
def test_a_worker_ends_with_fgit_in_the_middle_of_a_check(strength, tmp_path):
    need(strength)
    job = {
        "problem": problem(),
        "solution": PRELUDE + "if libc.fork() == 0:\n    libc.setsid()\n"
        "    os.execv('/bin/sleep', ['sleep', '98763'])\nwhile True: pass\n",
        "min_time_limit": 50,
        "gt_time_limit_factor": 4.0,
    }
    outer = f"""
        import pathlib, pickle, sys
        from fgit.sandbox.box import Box, Limits
        box = Box({strength!r}, Limits(700, 48, 60))
        process = box.start(pathlib.Path({str(WORKER)!r}), "humaneval")
        process.stdin.write(pickle.dumps({job!r}))
        process.stdin.flush()
        sys.stdin.read()
        """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(outer)],
        stdin=subprocess.PIPE,
        # A killed process leaves its folder of temporary files.
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow"), "TMPDIR": str(tmp_path)},
    )
    wait_for(lambda: running("98763"))
    parent.kill()
    parent.communicate()
    wait_for(lambda: not running("98763"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@both_strengths
def test_a_box_does_not_end_with_the_thread_that_started_it(strength, tmp_path):
    need(strength)
    path = script(tmp_path, "print('ready', flush=True); input(); print('there')")
    with Box(strength, LIMITS) as box:
        found = []
        thread = threading.Thread(target=lambda: found.append(box.start(path)))
        thread.start()
        thread.join()
        assert found[0].stdout.readline() == b"ready\n"
        time.sleep(0.1)
        assert found[0].communicate(b"\n")[0] == b"there\n"


@both_strengths
def test_the_watcher_names_what_was_too_much(strength, tmp_path):
    need(strength)
    path = script(tmp_path, "kept = bytearray(b'x' * 2**30)\nwhile True: pass")
    with Box(strength, Limits(memory_mb=512, disk_mb=16, processes=20)) as box:
        process = box.start(path)
        assert process.wait(20) != 0
        assert box.killed == "memory"


@both_strengths
def test_shared_pages_count_once(strength, tmp_path):
    """Six processes that share 150 MiB are not 900."""
    need(strength)
    if strength == "rlimits" and os.geteuid() != 0:
        pytest.skip("not run: another user's shared pages are not told apart under rlimits")
    path = script(
        tmp_path,
        """
        import os, time
        kept = bytearray(b"x" * 150 * 2**20)
        for _ in range(5):
            if not os.fork():
                time.sleep(1.2)
                os._exit(0)
        time.sleep(1)
        print("fine")
        """,
    )
    with Box(strength, Limits(memory_mb=512, disk_mb=16, processes=20)) as box:
        assert box.start(path).communicate()[0] == b"fine\n", box.killed


@both_strengths
def test_the_environment_is_the_boxs_own(strength, tmp_path, monkeypatch):
    need(strength)
    monkeypatch.setenv("SOME_TOKEN", "x")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "workflow"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{Path.home()}:.")
    path = script(tmp_path, "import json, os; print(json.dumps(dict(os.environ)))")
    with Box(strength, LIMITS) as box:
        found = json.loads(box.start(path).communicate()[0])
    assert "SOME_TOKEN" not in found and "PYTHONPATH" not in found
    assert found["PYTHONHASHSEED"] == "0" and found["MPLBACKEND"] == "Agg"
    assert found["LD_LIBRARY_PATH"] == str(tmp_path)
    assert found["HOME"] == found["TMPDIR"] + "/home"


@both_strengths
def test_local_servers_and_shared_arrays_work(strength, tmp_path):
    """What honest programs of BigCodeBench do."""
    need(strength)
    path = script(
        tmp_path,
        """
        import multiprocessing, socket, tempfile, threading
        multiprocessing.set_start_method("fork")
        server = socket.create_server(("localhost", 0))
        threading.Thread(target=lambda: server.accept()[0].sendall(b"hello")).start()
        with socket.create_connection(server.getsockname()) as other:
            print(other.recv(5))
        with multiprocessing.Pool(2) as pool:
            print(pool.map(abs, [-1, -2]))
        print(sum(multiprocessing.Array("i", 3)), multiprocessing.Manager().list([1]))
        tempfile.NamedTemporaryFile().write(b"x")
        """,
    )
    with Box(strength, LIMITS) as box:
        said = box.start(path).communicate()[0].decode()
        assert said == "b'hello'\n[1, 2]\n0 [1]\n", box.errors()


@both_strengths
def test_another_environments_python(strength, tmp_path):
    """An older Python, where one is at hand."""
    need(strength)
    found = [
        path
        for path in (
            *Path(sys.base_prefix).parent.glob("3.10.*/bin/python"),  # where pyenv keeps them
            Path("/usr/bin/python3"),
        )
        if os.access(path, os.X_OK)
    ]
    if not found:
        pytest.skip("not run: no other Python than this one is here")
    path = script(tmp_path, "import ssl, sqlite3, sys; print(sys.executable)")
    with Box(strength, LIMITS, str(found[0])) as box:
        said = box.start(path).communicate()[0].decode().strip()
        assert os.path.realpath(said) == os.path.realpath(found[0]), box.errors()


def test_a_python_that_does_not_start(tmp_path):
    with (
        Box("rlimits", LIMITS, str(tmp_path / "python")) as box,
        pytest.raises(UserError, match="does not start"),
    ):
        box.start(script(tmp_path, ""))


@both_strengths
def test_a_hard_limit_that_is_too_low_is_named(strength, tmp_path):
    need(strength)
    outer = f"""
        import resource, pathlib
        from fgit.sandbox.box import Box, Limits
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        with Box({strength!r}, Limits(700, 48, 60)) as box:
            print(box.start(pathlib.Path({str(script(tmp_path, "print(1)"))!r})).communicate()[0])
            print(box.errors())
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(outer)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")},
    )
    wanted = f"RLIMIT_FSIZE: {48 * 2**20} is wanted, but the hard limit here is 65536"
    assert wanted in done.stdout, done.stderr


def test_removing_a_hostile_folder(tmp_path):
    folder = tmp_path / "box"
    deep = folder
    for _ in range(20):
        deep /= "x"
    deep.mkdir(parents=True)
    (tmp_path / "victim").write_text("here")
    (deep / "link").symlink_to(tmp_path)
    (folder / "file").touch()
    (folder / "x").chmod(0)
    sandbox.remove_folder(folder)
    assert not folder.exists() and (tmp_path / "victim").read_text() == "here"
