"""Numbers only: seeds as blocks (`additive_model`), comparisons and their corrections, intervals, power."""
