"""The filter of system calls, and its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgit.sandbox.system_calls import CLONE, CLONE3, REFUSED, system_call_filter


@pytest.mark.parametrize("machine_name", ["x86_64", "aarch64"])
def test_the_filters_jumps_end_in_it(machine_name):
    program = system_call_filter(machine_name)
    steps = [program[i : i + 8] for i in range(0, len(program), 8)]
    assert len(steps) < 256 and steps[-1][0] == 0x06
    for number, step in enumerate(steps):
        if step[0] & 0x07 == 0x05:
            assert number + 1 + max(step[2], step[3]) < len(steps)


def test_numbers_of_system_calls():
    """The table against the machine's own, where its headers are installed."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        pytest.skip(f"not run: {header} is not installed")
    found = dict(
        line.removeprefix("#define __NR_").split()
        for line in header.read_text().splitlines()
        if line.startswith("#define __NR_")
    )
    for name, (number, _) in REFUSED.items():
        assert int(found.get(name, number)) == number, name
    assert (int(found["clone"]), int(found["clone3"])) == (CLONE[0], CLONE3[0])
