"""``scripts.inspect_params``: the same table for both forms, and its sums."""

import pytest

from tests.scripts.conftest import run
