"""Entry points of runs: ``get_config(arg)`` files. Training and evaluation add theirs."""
