"""Budgets in, the cell to ship out."""
