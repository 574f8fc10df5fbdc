"""Entry points of runs, ``get_config(arg)`` files: training and evaluation to come."""
