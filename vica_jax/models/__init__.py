"""Flax Linen modules: SigLIP, Hiera, Qwen2, projectors and ViCA itself."""
