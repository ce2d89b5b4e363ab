"""CartPole-v1: keep a pole upright on a cart.

Equal to gymnasium's own step by step from the same state (in float64 to the last bits; the default is float32).

Reference: Barto, Sutton & Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control
problems"; gymnasium's `CartPole-v1`, whose integrator is semi-explicit only in name: plain Euler.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.drawing import BLUE, FAINT, INK, ORANGE, Canvas
from gumbelrl.envs.native import NativeEnv

GRAVITY = 9.8  # m/s²
POLE_MASS = 0.1  # kg
TOTAL_MASS = 1.1  # kg, with the cart
HALF_LENGTH = 0.5  # m
FORCE = 10.0  # N
STEP_S = 0.02
ANGLE_LIMIT = 12 * 2 * math.pi / 360  # rad
POSITION_LIMIT = 2.4  # m
START_RANGE = 0.05


class CartPole(NativeEnv[Tensor]):
    """State and observation: cart position (m), velocity (m/s), pole angle (rad), angular velocity (rad/s).

    Actions push left (0) or right (1); the reward is 1 a step; an episode ends when the pole falls, the cart leaves the
    track, or after 500 steps. The optimal return is 500.
    """

    max_episode_steps = 500
    num_random = 4
    optimal_return = 500.0

    def __init__(
        self, num_envs: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(num_envs, device=device, dtype=dtype)
        limits = np.array([POSITION_LIMIT * 2, np.inf, ANGLE_LIMIT * 2, np.inf], dtype=np.float32)
        self.single_observation_space = spaces.Box(-limits, limits, dtype=np.float32)
        self.single_action_space = spaces.Discrete(2)
        self._bounds = torch.tensor([POSITION_LIMIT, math.inf, ANGLE_LIMIT, math.inf], dtype=dtype, device=self.device)
        self._reward = torch.ones(num_envs, device=self.device)

    def initial_state(self, noise: Float[Tensor, "env 4"]) -> Float[Tensor, "env 4"]:
        return noise * (2 * START_RANGE) - START_RANGE

    def transition(
        self, state: Float[Tensor, "env 4"], action: Int[Tensor, " env"], noise: Tensor
    ) -> tuple[Float[Tensor, "env 4"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        _, _, angle, spin = state.unbind(1)
        force = (2 * FORCE) * action.to(state.dtype) - FORCE
        cos, sin = torch.cos(angle), torch.sin(angle)
        push = (force + (POLE_MASS * HALF_LENGTH) * spin.square() * sin) / TOTAL_MASS
        spin_rate = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos.square() / TOTAL_MASS))
        acceleration = push - (POLE_MASS * HALF_LENGTH / TOTAL_MASS) * spin_rate * cos
        velocity = state[:, 1]
        rates = torch.stack((velocity, acceleration, spin, spin_rate), dim=1)
        state = state + STEP_S * rates
        return state, self._reward, (state.abs() > self._bounds).any(1)

    def observe(self, state: Float[Tensor, "env 4"]) -> Float[Tensor, "env 4"]:
        return state

    def optimal_probs(self) -> Float[Tensor, "env 1 2"]:
        """Return a linear feedback that keeps the pole up for all 500 steps, from any start."""
        gains = torch.tensor([0.1, 0.3, 2.0, 0.8], dtype=self.dtype, device=self.device)
        right = (self.state @ gains > 0).to(torch.float32)
        return torch.stack((1.0 - right, right), dim=-1).unsqueeze(1)

    def draw(self, row: int) -> np.ndarray:
        position, _, angle, _ = (float(x) for x in self.state[row])
        canvas, scale, ground = Canvas(600, 400), 600 / (2 * POSITION_LIMIT), 300.0
        x = 300.0 + position * scale
        canvas.line([(0, ground), (600, ground)], FAINT, width=3)
        canvas.rectangle(x - 30, ground - 18, x + 30, ground + 18, INK, radius=5)
        reach = 2 * HALF_LENGTH * scale * 1.6
        tip = (x + reach * math.sin(angle), ground - 12 - reach * math.cos(angle))
        canvas.line([(x, ground - 12), tip], ORANGE, width=10)
        canvas.circle((x, ground - 12), 6, BLUE)
        return canvas.array()

    def describe(self, row: int) -> str:
        position, velocity, angle, spin = (float(x) for x in self.state[row])
        return f"position {position:+.3f} m, {velocity:+.3f} m/s; angle {angle:+.3f} rad, {spin:+.3f} rad/s"
