"""The usual metrics of depth, of one image; which pixels count is for the caller to say."""

import torch
from torch import Tensor
from torchmetrics.functional.regression import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
)


def depth_metrics(truth: Tensor, prediction: Tensor) -> dict[str, float]:
    """Compare the depth of the pixels that count, as Eigen and others (2014) and KITTI define it.

    Args:
        truth: Metres above 0, (N,).
        prediction: The same pixels, above 0 too, (N,).

    Returns:
        `rmse` in metres; `abs_rel` and `sq_rel` relative to the truth (the square to the truth
        itself, so in metres); `delta1`, `delta2`, `delta3`, the shares that are off by less than a
        factor of 1.25, 1.25² and 1.25³; `rmse_log` of natural logarithms; `silog`, their standard
        deviation times 100; `log10`, the mean absolute difference of decimal logarithms.

    Example:
        >>> found = depth_metrics(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> found["abs_rel"], found["sq_rel"], found["delta1"]
        (0.5, 1.0, 0.5)
    """
    truth, prediction = truth.double(), prediction.double()
    logs, own_logs = truth.log(), prediction.log()
    factor = torch.maximum(truth / prediction, prediction / truth)
    found = {
        "rmse": mean_squared_error(prediction, truth, squared=False),
        "abs_rel": mean_absolute_percentage_error(prediction, truth),
        **{f"delta{n}": (factor < 1.25**n).double().mean() for n in (1, 2, 3)},
        "rmse_log": mean_squared_error(own_logs, logs, squared=False),
        "silog": 100 * (own_logs - logs).std(correction=0),
        "log10": mean_absolute_error(prediction.log10(), truth.log10()),
        "sq_rel": ((prediction - truth).square() / truth).mean(),
    }
    return {name: float(value) for name, value in found.items()}
