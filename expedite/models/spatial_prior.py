"""The spatial prior module of the ViT-Adapter: convolutions beside the patch embedding."""

from torch import Tensor, nn


class SpatialPrior(nn.Module):
    """Images (B, 3, H, W) to maps (B, D, ·, ·) at a 4th, 8th, 16th and 32nd of their size.

    Source: `SpatialPriorModule` of czczup/ViT-Adapter, and its names of weights. Its synchronised
    batch norms are plain ones, which `nn.SyncBatchNorm.convert_sync_batchnorm` turns back.

    Args:
        width: Of the tokens, D.
        planes: Channels of the stem; the maps below have two, four and four times as many.

    Example:
        >>> import torch
        >>> [tuple(x.shape[1:]) for x in SpatialPrior(32, planes=8)(torch.zeros(2, 3, 64, 96))]
        [(32, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3)]
    """

    def __init__(self, width: int, planes: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, planes, stride=2),
            *_convolution(planes, planes, stride=1),
            *_convolution(planes, planes, stride=1),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_convolution(planes, 2 * planes, stride=2))
        self.conv3 = nn.Sequential(*_convolution(2 * planes, 4 * planes, stride=2))
        self.conv4 = nn.Sequential(*_convolution(4 * planes, 4 * planes, stride=2))
        self.fc1 = nn.Conv2d(planes, width, 1)
        self.fc2 = nn.Conv2d(2 * planes, width, 1)
        self.fc3 = nn.Conv2d(4 * planes, width, 1)
        self.fc4 = nn.Conv2d(4 * planes, width, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x1 = self.stem(images)
        x2 = self.conv2(x1)
        x3 = self.conv3(x2)
        x4 = self.conv4(x3)
        return self.fc1(x1), self.fc2(x2), self.fc3(x3), self.fc4(x4)


def _convolution(channels: int, to: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, to, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(to), nn.ReLU(inplace=True)]
