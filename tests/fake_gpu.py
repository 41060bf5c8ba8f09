"""A GPU that is not there: tensors without values, of which PyTorch knows what operations give."""

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def move(model: nn.Module, fake: FakeTensorMode) -> None:
    """Move a model there."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fake.from_tensor(parameter).to("cuda"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake.from_tensor(buffer).to("cuda")
