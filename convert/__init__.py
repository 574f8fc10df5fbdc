"""Checkpoints of the PyTorch reference and ours, converted both ways."""
