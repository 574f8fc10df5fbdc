"""A small assistant, and a video that it has been shown."""

import pytest
from two_layers import SHORT, make_assistant, pixels


@pytest.fixture(scope="module")
def assistant():
    return make_assistant()


@pytest.fixture(scope="module")
def session(assistant):
    return assistant.open(pixels(), **SHORT)
