"""How strong a box this machine can give, and what to do where it is not the stronger one."""

import contextlib
import functools
import logging
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from fgit.common.errors import UserError
from fgit.config import SandboxChoice
from fgit.sandbox.box import Box, Limits, Strength
from fgit.sandbox.system_calls import AUDIT_ARCH

log = logging.getLogger(__name__)

OLDEST_BWRAP = (0, 7)  # knows --size


def choose(wanted: SandboxChoice) -> Strength:
    """The strength that a setting asks for and this machine has.

    Raises:
        UserError: if ``bwrap`` is asked for and does not work, saying why and what to do.
    """
    if wanted == "rlimits":
        return "rlimits"
    reason = why_not_bwrap()
    if not reason:
        return "bwrap"
    if wanted == "bwrap":
        raise UserError(
            f"sandbox: bwrap: {reason}. Or allow the weaker sandbox: rlimits, on a machine that "
            "holds nothing a program must not see"
        )
    log.warning(
        "programs run with limits only (rlimits), which contain accidents, not attacks: %s", reason
    )
    return "rlimits"


@functools.cache
def why_not_bwrap() -> str:
    """'' if a bubblewrap box starts here, otherwise what fails and how to fix it.

    It starts one, with all options that :class:`Box` uses.
    """
    if platform.machine() not in AUDIT_ARCH:
        return (
            f"the system-call filter knows {' and '.join(AUDIT_ARCH)}, not {platform.machine()}; "
            "use such a machine"
        )
    if (bwrap := shutil.which("bwrap")) is None:
        return (
            "bubblewrap is not installed; install it (Debian, Ubuntu: apt install bubblewrap; "
            "Fedora, RHEL: dnf install bubblewrap; conda install -c conda-forge bubblewrap)"
        )
    output = subprocess.run([bwrap, "--version"], capture_output=True, text=True).stdout
    if (version := re.search(r"(\d+)\.(\d+)", output)) is None:
        return f"{bwrap} --version says {output!r}; install bubblewrap 0.7 or later"
    if (int(version[1]), int(version[2])) < OLDEST_BWRAP:
        return (
            f"{bwrap} is version {version[0]}, which cannot limit a temporary folder; install "
            "bubblewrap 0.7 or later"
        )
    with tempfile.TemporaryDirectory(prefix="fgit-box-") as folder:
        (Path(folder) / "__main__.py").write_text("print('hello')\n", encoding="utf-8")
        with Box("bwrap", Limits(memory_mb=512, disk_mb=16, processes=16)) as box:
            process = box.start(Path(folder))
            timer = threading.Timer(60, box.stop)
            timer.start()
            assert process.stdout is not None
            output_in_box = process.stdout.read()
            timer.cancel()
            if output_in_box == b"hello\n":
                return ""
            error = box.errors() or "no message"
            return f"bubblewrap does not start a box ({error}); {remedy(error)}"


def remedy(error: str) -> str:
    """How to let bubblewrap start a box, from its message and this machine's settings."""
    if "mount proc" in error:
        return (
            "a container that hides parts of /proc forbids another one in it; start it with "
            "--security-opt systempaths=unconfined (Docker, Podman: unmask=ALL), or run fgit "
            "outside of it"
        )
    forbidding = {  # setting: (value that forbids, how to allow)
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.{}=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.{}=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sysctl kernel.{}=0, or give bwrap an AppArmor profile that allows userns",
        ),
    }
    ways = []
    for path, (forbids, way) in forbidding.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text(encoding="ascii").strip() == forbids:
                ways.append(way.format(Path(path).name))
    if ways:
        return f"user namespaces are forbidden here; ask the administrator for: {'; '.join(ways)}"
    return (
        "it needs user namespaces: in a container, start that with "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined (Docker), or run "
        "fgit outside of it"
    )
