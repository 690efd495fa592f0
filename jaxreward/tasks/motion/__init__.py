"""Moving scenes: short videos of shapes with exact paths."""
