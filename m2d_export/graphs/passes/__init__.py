"""Graph passes: functions that rewrite a graph, one in each file, ``def name(model: ir.Model) -> bool``.

A pass changes ``model`` in place and returns whether it changed anything. If its pattern is not in the graph, it
returns False and changes nothing. The changed graph gives the same results, up to rounding.
"""
