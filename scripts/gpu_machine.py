"""The device itself: what it reaches in one large product and one large copy."""

import jax
import jax.numpy as jnp

from scripts.gpu_timing import Options, Row, rated, timed

CHAIN = 8  # products in one program, so that its launch does not count


class Machine:
    """Ceilings of this very device, to judge the other parts by."""

    def __init__(self, options: Options):
        self.options = options

    def matmul(self) -> list[Row]:
        """bfloat16 products of random data, 8192 x 8192 x 8192."""
        size = 256 if self.options.reduced else 8192
        x, y = (jax.random.normal(jax.random.key(i), (size, size)) for i in range(2))
        x, y = (x * size**-0.5).astype(jnp.bfloat16), y.astype(jnp.bfloat16)

        @jax.jit
        def chain(x, y):
            def step(_, y):
                product = jnp.dot(x, y, preferred_element_type=jnp.float32)
                return product.astype(y.dtype)

            return jax.lax.fori_loop(0, CHAIN, step, y)

        row = timed(lambda: chain(x, y), repeats=self.options.repeats)
        row = {key: row[key] / CHAIN for key in ("median_s", "min_s")} | {
            key: row[key] for key in ("compile_s", "runs")
        }
        return [{"name": f"matmul {size}"} | rated(row, 2.0 * size**3)]

    def copy(self) -> list[Row]:
        """Bytes read and written by one pass over an array."""
        size = 2**20 if self.options.reduced else 2**30
        x = jnp.ones(size, jnp.bfloat16)
        double = jax.jit(lambda x: x * 2)
        row = timed(lambda: double(x), repeats=self.options.repeats)
        rate = 2 * x.nbytes / row["median_s"]
        return [{"name": f"copy {x.nbytes / 1e9:.1f} GB", "bytes_per_s": rate} | row]
