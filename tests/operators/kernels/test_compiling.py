"""Kernels compile for GPUs that are not here, which the interpreter does not try."""

import os
import subprocess
import sys

import pytest

KERNELS = {
    "_add_rows",
    "_assign",
    "_attention",
    "_choose",
    "_find_first",
    "_find_least",
    "_fold",
    "_invert",
    "_mask_first",
    "_measure",
    "_move",
    "_share",
    "_spread",
    "_unite",
    "_weigh",
}


@pytest.mark.slow
# An RTX 4090 and an H200, and what a program can have of their shared memory.
@pytest.mark.parametrize(("capability", "kibibytes"), [(89, 99), (90, 227)])
def test_kernels_compile_and_fit(capability: int, kibibytes: int) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.operators.kernels.compiling",
        str(capability),
    ]
    run = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = [line.split() for line in run.stdout.splitlines()]
    assert {name for name, _ in found} == KERNELS
    assert all(int(size) <= kibibytes * 1024 for _, size in found)
