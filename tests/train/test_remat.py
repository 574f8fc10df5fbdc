"""What is computed again changes memory and nothing else."""

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from vica_jax.models.vica import Vica, init_vica
from vica_jax.train.step import make_gradients


@pytest.fixture(scope="module")
def full():
    params = init_vica(micro.CFG, jax.random.key(1), scan=True)
    return params, gradients(params, "full")


def gradients(params, remat):
    model = Vica(micro.CFG, jnp.float32, scan=True, remat=remat)
    return jax.jit(make_gradients(model))(params, {}, micro.batch(micro.examples(4)))


@pytest.mark.parametrize("remat", ["attention", "dots", "none"])
def test_gradients_do_not_depend_on_the_policy(full, remat):
    params, (loss, grads) = full
    other_loss, others = gradients(params, remat)
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-6)
    for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7)
