"""Budgets in, the cell to ship out, with the reasons and the warnings."""
