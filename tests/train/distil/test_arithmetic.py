"""The closed form and the loss, compared with what they stand for."""

import torch
from m2d_train.distil.loss import SIMILARITIES, VECTORS, distillation_loss
from m2d_train.distil.ridge import Sums
from torch.nn.functional import cosine_similarity


def test_sums_of_blocks_give_the_weighted_least_squares() -> None:
    torch.manual_seed(0)
    inputs, weights = torch.randn(500, 6) * 3 + 40, torch.rand(500) * 4 + 1
    outputs = inputs @ torch.randn(6, 3) + torch.randn(500, 3)
    sums = Sums(6, 3)
    for rows in torch.arange(500).split(90):
        sums.add(inputs[rows], outputs[rows], weights[rows])
    columns = torch.tensor([5, 0, 2])
    linear = sums.solve(columns, 0.0)
    root = weights.double().sqrt()[:, None]
    design = torch.cat([inputs[:, columns], torch.ones(500, 1)], dim=1).double()
    expected = torch.linalg.lstsq(design * root, outputs.double() * root).solution
    torch.testing.assert_close(linear.weight.double(), expected[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(linear.bias.double(), expected[3], atol=1e-2, rtol=1e-3)


def test_more_regularisation_gives_smaller_weights() -> None:
    torch.manual_seed(0)
    inputs, outputs = torch.randn(60, 5), torch.randn(60, 2)
    sums = Sums(5, 2)
    sums.add(inputs, outputs, torch.ones(60))
    norms = [float(sums.solve(slice(None), regularisation).weight.norm()) for regularisation in (0, 0.1, 10)]
    assert norms == sorted(norms, reverse=True)


def test_the_loss_is_the_sum_over_pairs_and_texts_that_it_says() -> None:
    torch.manual_seed(0)
    vectors, dims, last = torch.randn(3, 7, 8), (8, 4), 6.0
    base = torch.nn.functional.normalize(torch.randn(7, 8), dim=1)
    expected = 0.0
    for place, weight in enumerate([1.0, 1.0, last]):
        for dim in dims:
            found = [row[:dim] for row in vectors[place]]
            pairs = [(i, j) for i in range(7) for j in range(7)]
            errors = [(cosine_similarity(found[i], found[j], 0) - base[i] @ base[j]) ** 2 for i, j in pairs]
            apart = [1 - cosine_similarity(one, of[:dim], 0) for one, of in zip(found, base, strict=True)]
            both = SIMILARITIES * sum(errors) / 49 + VECTORS * sum(apart) / 7
            expected += weight / (2 + last) / len(dims) * float(both)
    assert abs(float(distillation_loss(vectors, base, dims, last)) - expected) < 1e-5
