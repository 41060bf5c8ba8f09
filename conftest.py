"""What is not collected where a library is missing."""

from importlib.util import find_spec

collect_ignore_glob = (
    []
    if find_spec("triton")
    else ["expedite/operators/kernels/*.py", "tests/operators/kernels/*.py"]
)
