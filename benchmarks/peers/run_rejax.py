"""rejax, JAX from the environment to the update, on CartPole-v1; several seeds by `vmap`.

Settings: https://github.com/keraJLi/rejax, configs/gymnax/cartpole.yaml; those of `purejaxrl` are the defaults of
https://github.com/luchris429/purejaxrl, purejaxrl/ppo.py, but for the learning rate, which rejax does not anneal.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import rejax
from jax import numpy as jnp
from record import WINDOW, options

CHUNK = 2500  # steps in one compiled call: long beside a call, short beside a run
PPO = {"agent_kwargs": {"activation": "tanh"}, "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2, "max_grad_norm": 0.5}
PUREJAXRL = {
    **PPO,
    "num_envs": 4,
    "num_steps": 128,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
}
# Algorithm, steps in all, settings.
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ppo": (
        "ppo",
        100_000,
        {
            **PPO,
            "num_envs": 5,
            "num_steps": 100,
            "num_epochs": 5,
            "num_minibatches": 5,
            "learning_rate": 0.00075,
            "ent_coef": 0.01,
            "vf_coef": 0.5,
        },
    ),
    "purejaxrl": ("ppo", 500_000, PUREJAXRL),
    "purejaxrl-wide": ("ppo", 500_000, {**PUREJAXRL, "num_envs": 64, "num_steps": 8}),
    "purejaxrl-large": ("ppo", 1_000_000, {**PUREJAXRL, "num_envs": 64, "num_steps": 32}),
}


def counting(base: type) -> type:
    """Return the algorithm with a window of the last returns beside its state; nothing that it learns changes."""

    def first(num_envs: int) -> dict[str, Any]:
        return {"running": jnp.zeros(num_envs), "window": jnp.zeros(WINDOW), "count": jnp.zeros((), jnp.int32)}

    class Counting(base):  # type: ignore[misc]
        @rejax.algos.algorithm.register_init
        def initialise_log(self, rng: Any) -> dict[str, Any]:
            return {"log": first(self.num_envs)}

        def collect_trajectories(self, ts: Any) -> tuple[Any, Any]:
            ts, trajectory = super().collect_trajectories(ts)

            def add(running: Any, step: tuple[Any, Any]) -> tuple[Any, Any]:
                reward, done = step
                total = running + reward.reshape(running.shape)
                return jnp.where(done, 0.0, total), total

            running, totals = jax.lax.scan(add, ts.log["running"], (trajectory.reward, trajectory.done))
            # In the order in which they ended; what did not end goes to no slot.
            done, totals = trajectory.done.ravel(), totals.ravel()
            place = jnp.where(done, (ts.log["count"] + jnp.cumsum(done) - 1) % WINDOW, WINDOW)
            window = ts.log["window"].at[place].set(totals, mode="drop")
            log = {"running": running, "window": window, "count": ts.log["count"] + done.sum()}
            return ts.replace(log=log), trajectory

    return Counting


def main() -> None:
    words, recorder = options(list(CASES))
    name, total_steps, settings = CASES[words.case]
    algorithm = counting(type(rejax.get_algo(name).create(env="CartPole-v1"))).create(env="CartPole-v1", **settings)
    size = settings["num_envs"] * settings["num_steps"]
    iterations = max(CHUNK // size, 1)
    updates = settings["num_epochs"] * settings["num_minibatches"]

    def advance(state: Any) -> Any:
        return jax.lax.scan(lambda ts, _: (algorithm.train_iteration(ts), None), state, None, iterations)[0]

    initial = algorithm.init_state
    if words.members > 1:
        advance, initial = jax.vmap(advance), jax.vmap(initial)
    advance = jax.jit(advance)
    key = jax.random.PRNGKey(words.seed)
    state = jax.jit(initial)(jax.random.split(key, words.members) if words.members > 1 else key)
    for chunk in range(1, total_steps // (size * iterations) + 1):
        state = advance(state)
        log = jax.device_get(state.log)
        full = np.min(log["count"]) >= WINDOW
        mean = float(np.min(np.mean(log["window"], axis=-1))) if full else None
        if not recorder.mark(chunk * iterations * size, chunk * iterations * updates, mean):
            break
    recorder.finish(["rejax", "gymnax", "jax", "flax"], members=words.members)


if __name__ == "__main__":
    main()
