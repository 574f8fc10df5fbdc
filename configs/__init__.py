"""Entry points of runs: ``get_config(arg)`` files, plain values only.

An argument after the file's colon names variants, several joined by commas:
``configs/vica2_stage3_spatial.py:smoke``, ``...:lora``, ``...:smoke,lora``.
"""
