import gc
import os
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.processes import all_loaded

# The same examples on every run, and no deadline: speed is measured in benchmarks/.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")
# Before anything imports Triton: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# Models here are so small that threads cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def nothing_kept() -> Iterator[None]:
    """Compiled code and cycles of models would add up to gigabytes over all modules."""
    gc.freeze()  # what is imported by now is not looked at again
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def loaded_server() -> Iterator[None]:
    """What processes fork from."""
    with all_loaded():
        yield


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
