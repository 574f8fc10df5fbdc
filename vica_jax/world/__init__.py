"""The spatial data engine: rooms of oriented boxes, films of them, questions on them.

It reads and writes files and knows no model.
"""
