"""Ridge regression from sums: memory does not grow with the number of texts."""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-12  # variance of inputs, where all texts have the same
ROUNDING = (1e-5, 1e-3, 1e-1)  # added to the regularisation until the regression has a solution


@dataclass(frozen=True)
class Linear:
    """The map x -> x @ weight + bias: ``weight`` (inputs, outputs) and ``bias`` (outputs,), float32."""

    weight: Tensor
    bias: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """(rows, inputs) -> (rows, outputs)."""
        return inputs @ self.weight + self.bias


class Sums:
    """Weighted sums over rows x (inputs,) and y (outputs,), of which a ridge regression of y on x is made.

    All rows are shifted by the mean of the first block, because the sums of numbers far from 0 lose digits.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.weight = 0.0
        self.squares = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.products = torch.zeros(inputs, outputs, dtype=torch.float64)
        self.mean_x = torch.zeros(inputs, dtype=torch.float64)  # sums of the shifted rows until ``solve``
        self.mean_y = torch.zeros(outputs, dtype=torch.float64)
        self.shift_x: Tensor | None = None
        self.shift_y = torch.zeros(outputs)

    def add(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Add rows x (rows, inputs) and y (rows, outputs) float32 with their ``weights`` (rows,)."""
        if self.shift_x is None:
            self.shift_x, self.shift_y = x.mean(0), y.mean(0)
        x, y = x - self.shift_x, y - self.shift_y
        weighted = x * weights[:, None]
        self.weight += float(weights.sum())
        self.squares += weighted.T @ x
        self.products += weighted.T @ y
        self.mean_x += weighted.sum(0)
        self.mean_y += (y * weights[:, None]).sum(0)

    def solve(self, columns: Tensor | slice, regularisation: float) -> Linear:
        """The regression on some of the inputs; ``regularisation`` is a share of their mean variance."""
        assert self.shift_x is not None  # noqa: S101 - rows were added
        mean_x, mean_y = self.mean_x[columns] / self.weight, self.mean_y / self.weight
        covariance = self.squares[columns][:, columns] / self.weight - torch.outer(mean_x, mean_x)
        products = self.products[columns] / self.weight - torch.outer(mean_x, mean_y)
        variance = covariance.diagonal().mean().clamp(min=SMALLEST)
        for more in (regularisation, *ROUNDING):  # with few texts, rounded sums can be those of no covariance
            covariance.diagonal().add_(more * variance)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if not failed:
                break
        weight = torch.cholesky_solve(products, factor)
        bias = mean_y + self.shift_y - (mean_x + self.shift_x[columns]) @ weight
        return Linear(weight.float(), bias.float())
