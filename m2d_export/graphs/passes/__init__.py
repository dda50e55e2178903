"""Graph passes, one in each file, all with one contract: ``def name(model: ir.Model) -> bool``.

A pass changes ``model`` in place and returns whether it changed anything. Where its pattern is not found, it returns
False and leaves the graph as it was. The changed graph computes the same function of the same inputs, up to rounding.
"""
