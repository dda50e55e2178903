"""The Pareto front of cells, and the cascades that are worth drawing."""

import random

from m2d_export.bench.metrics import cascades
from m2d_export.bench.values import Candidate, Setup
from m2d_export.report.pareto import few, front
from m2d_export.spec import Cell
from tests.support.made_up import sweep


def candidate(value, speed):
    setup = Setup("fp32", "onnxrt", "fp32", "CPU", 1)
    return Candidate(Cell(1, 1), setup, trained_layer=True, trained_dim=True, score=value, sentences_per_second=speed)


def test_the_front_is_that_of_its_definition():
    chance = random.Random(0)
    for _ in range(200):
        points = [candidate(chance.randint(0, 6), chance.randint(0, 6)) for _ in range(chance.randint(0, 12))]

        def beaten(point, points=points):
            return any(
                other.score >= point.score
                and other.sentences_per_second >= point.sentences_per_second
                and (other.score, other.sentences_per_second) != (point.score, point.sentences_per_second)
                for other in points
            )

        expected = sorted((p.score, p.sentences_per_second) for p in points if not beaten(p))
        assert [(p.score, p.sentences_per_second) for p in front(points)] == expected


def test_the_few_cascades_are_those_that_no_other_beats():
    passed = cascades(sweep())
    drawn = few(passed)
    assert 1 < len(drawn) <= 5
    points = [(cost, recall) for c in passed for cost, recall in zip(c.cost_ms, c.recall_at_10, strict=True)]
    for item in drawn:
        own = zip(item.cost_ms, item.recall_at_10, strict=True)
        assert any(
            not any(c <= cost and r >= recall and (c, r) != (cost, recall) for c, r in points) for cost, recall in own
        )
    assert few(drawn[:1]) == drawn[:1]


def test_the_front_leaves_out_unmeasured_cells():
    known = candidate(80.0, 10.0)
    assert front([candidate(None, 99.0), known, candidate(99.0, None)]) == [known]
