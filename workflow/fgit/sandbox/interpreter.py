"""What a box shows of the file system: the interpreter's own environment, and what it needs."""

import functools
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fgit.common.errors import UserError

# What programs of a distribution need besides the interpreter's environment.
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
# Of an environment's folder, which may be the project's, or hold more than the environment.
PREFIX_PARTS = ("bin", "etc", "include", "lib", "lib64", "libexec", "pyvenv.cfg", "share", "ssl")


@dataclass(frozen=True)
class Interpreter:
    """What a box needs for an interpreter.

    Args:
        executable: its path.
        folders: folders of packages outside of its environment.
        needed: files and folders that it reads.
        visible: what a box shows: paths bound read-only, and symbolic links to their targets.
    """

    executable: str
    folders: tuple[str, ...]
    needed: tuple[str, ...]
    visible: tuple[tuple[str, ...], dict[str, str]]


INTERPRETER_PROBE = """
import json, sys, sysconfig
try:
    import numpy
except ImportError:
    pass
import ctypes, hashlib, ssl
with open("/proc/self/maps") as maps:
    mapped = sorted({line.split(None, 5)[5].strip() for line in maps if ".so" in line})
print(json.dumps({
    "version": sys.version_info[:2],
    "executable": sys.executable,
    "prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix],
    "stdlib": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")],
    "path": sys.path[1:],
    "mapped": mapped,
}))
"""


@functools.cache
def probe(python: str) -> Interpreter:
    """Ask an interpreter where its parts are.

    Raises:
        UserError: if it does not start or is older than Python 3.10.
    """
    fix = "set python.main or python.bigcodebench to an interpreter that starts"
    command = [python, "-c", INTERPRETER_PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
        if done.returncode:
            raise OSError(done.stderr.strip()[-500:])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{python}: this interpreter does not start ({error}); {fix}") from error
    parts = json.loads(done.stdout)
    if parts["version"] < [3, 10]:
        version = ".".join(map(str, parts["version"]))
        raise UserError(f"{python} is Python {version}; programs need 3.10 or later")
    own = [str(Path(prefix) / part) for prefix in parts["prefixes"] for part in PREFIX_PARTS]
    own += parts["stdlib"]
    # Of the rest of sys.path, folders of packages only: others are a project's, put there by its
    # editable installation or by PYTHONPATH.
    folders = [
        path
        for path in parts["path"]
        if Path(path).name in ("site-packages", "dist-packages")
        and Path(path).is_dir()
        and not any(Path(path).is_relative_to(part) for part in own)
    ]
    needed = [*own, *folders, parts["executable"], *parts["mapped"]]
    needed = [path for path in dict.fromkeys(needed) if Path(path).exists()]
    return Interpreter(
        executable=parts["executable"],
        folders=tuple(folders),
        needed=tuple(needed),
        visible=binds_and_links([*SYSTEM, *needed, *library_folders()]),
    )


def library_folders() -> list[str]:
    """LD_LIBRARY_PATH, without what would show the home or the working folder."""
    folders = []
    for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        real = Path(path).resolve()
        around = any(own.resolve().is_relative_to(real) for own in (Path.home(), Path.cwd()))
        if Path(path).is_absolute() and real.is_dir() and not around:
            folders.append(path)
    return folders


def binds_and_links(paths: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The real files and folders to bind, none within another, and the symbolic links to them."""
    real: set[Path] = set()
    links: dict[Path, str] = {}
    for path in paths:
        if Path(path).exists():
            end, passed = trail(Path(path))
            real.add(end)
            links |= passed
    binds = [path for path in sorted(real) if not any(parent in real for parent in path.parents)]
    outside = {
        str(link): target
        for link, target in links.items()
        if not any(parent in real for parent in link.parents)
    }
    return tuple(map(str, binds)), outside


def trail(path: Path) -> tuple[Path, dict[Path, str]]:
    """Where a path leads, and the symbolic links on the way."""
    here, ahead, links = Path("/"), [*path.parts[1:]], {}
    while ahead:
        part = ahead.pop(0)
        here = here.parent if part == ".." else here / part
        if here.is_symlink():
            target = here.readlink()
            links[here] = str(target)
            ahead = [*target.relative_to(target.anchor).parts, *ahead]
            here = Path("/") if target.is_absolute() else here.parent
    return here, links


def others_may_read(path: str) -> bool:
    """Whether a user who owns nothing may read a path, as its permissions say."""
    real = Path(path).resolve()
    mode = real.stat().st_mode
    way = all(parent.stat().st_mode & 0o001 for parent in real.parents)
    return way and bool(mode & 0o004) and (not real.is_dir() or bool(mode & 0o001))
