"""Training: stages, optimiser, one jitted step, checkpoints, the loop."""
