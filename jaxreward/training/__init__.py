"""State, optimizer, mesh, checkpoints, writers and the step."""
