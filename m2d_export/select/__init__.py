"""Pick the cell to ship by budgets, with the reasons and the warnings."""
