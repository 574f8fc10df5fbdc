"""From a ``Batch`` to text: prefill, decode loop, ``Assistant``."""
