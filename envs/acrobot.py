"""Acrobot-v1: swing the tip of a double pendulum above a line by a motor in its elbow.

Equal to gymnasium's own step by step from the same state (in float64 to about 1e-14; the default is float32).

What it separates: random play reaches the line in about one episode of seventy, and every step before costs 1, so that
agents differ in how soon they first get there; afterwards it is a plain control task, which all should solve.

Optimum: not known (`optimal_return` is None), since no closed form exists and a search of the four-dimensional state
space does not converge. The best known is a search over action sequences, breadth first, that keeps the first state to
enter each of 96 × 96 × 96 × 160 cells, and at most 100,000 a step, half by energy and half at random: -60.3 ± 0.13 on
average over 24 random starts (plans of 60 to 63 steps, the last of which is free); six times the states and a finer
grid gave 61 and 60 steps where these gave 60 and 62. Full torque against the rate of the upper link takes -84.5 ± 0.4;
RL Baselines3 Zoo lists -69.1 for QR-DQN and -73.5 for PPO (its benchmark.md, one run each).

Reference: Sutton 1996, "Generalization in reinforcement learning: successful examples using sparse coarse coding", with
the dynamics of Sutton & Barto's book; gymnasium's `Acrobot-v1`, which takes one Runge-Kutta step of 0.2 s.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.drawing import BLUE, FAINT, GREEN, INK, ORANGE, TEAL, Canvas
from gumbelrl.envs.native import NativeEnv

STEP_S = 0.2
GRAVITY = 9.8  # m/s²; both links are 1 m and 1 kg, with their mass centred in the middle and a moment of 1 kg m²
SPIN_LIMITS = (4 * math.pi, 9 * math.pi)  # rad/s
START_RANGE = 0.1


class Acrobot(NativeEnv[Tensor]):
    """State: angle of the upper link from hanging, of the lower from the upper (rad, within ±π), their rates (rad/s).

    The observation is cosine and sine of both angles and the rates. Actions turn the elbow with -1, 0 or 1 N m; the
    reward is -1 a step and 0 at the end, which is when the tip is a link's length above the shoulder, or after 500
    steps.
    """

    max_episode_steps = 500
    num_random = 4

    def __init__(
        self, num_envs: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(num_envs, device=device, dtype=dtype)
        limits = np.array([1.0, 1.0, 1.0, 1.0, *SPIN_LIMITS], dtype=np.float32)
        self.single_observation_space = spaces.Box(-limits, limits, dtype=np.float32)
        self.single_action_space = spaces.Discrete(3)
        self._spin_limits = torch.tensor(SPIN_LIMITS, dtype=dtype, device=self.device).unsqueeze(1)

    def initial_state(self, noise: Float[Tensor, "env 4"]) -> Float[Tensor, "env 4"]:
        return noise * (2 * START_RANGE) - START_RANGE

    def transition(
        self, state: Float[Tensor, "env 4"], action: Int[Tensor, " env"], noise: Tensor
    ) -> tuple[Float[Tensor, "env 4"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        angles, spins = torch.stack(state.unbind(1)).split(2)
        angles, spins = _runge_kutta(angles, spins, 2.0 * action.to(state.dtype) - 2.0)
        angles = torch.add(angles, torch.round(angles * (0.5 / math.pi)), alpha=-2 * math.pi)
        spins = torch.clamp(spins, -self._spin_limits, self._spin_limits)
        terminated = torch.cos(angles[0]) + torch.cos(angles[0] + angles[1]) < -1.0
        return torch.cat((angles.t(), spins.t()), dim=1), terminated.to(torch.float32) - 1.0, terminated

    def observe(self, state: Float[Tensor, "env 4"]) -> Float[Tensor, "env 6"]:
        first, second, spin_1, spin_2 = state.unbind(1)
        turned = torch.cos(first), torch.sin(first), torch.cos(second), torch.sin(second)
        return torch.stack((*turned, spin_1, spin_2), dim=1)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> np.ndarray:
        first, second, _, _ = (float(x) for x in self.state[row])
        canvas, scale, centre = Canvas(500, 500), 500 / 4.4, (250.0, 250.0)
        canvas.line([(0, 250 - scale), (500, 250 - scale)], GREEN, width=2)
        canvas.text((492, 250 - scale - 12), "the tip must get above", GREEN, size=13, anchor="rm")
        elbow = (centre[0] + scale * math.sin(first), centre[1] + scale * math.cos(first))
        tip = (elbow[0] + scale * math.sin(first + second), elbow[1] + scale * math.cos(first + second))
        canvas.circle(centre, 2 * scale, None, outline=FAINT, width=1)
        canvas.line([centre, elbow], BLUE, width=16)
        canvas.line([elbow, tip], TEAL, width=16)
        for joint, colour in ((centre, INK), (elbow, ORANGE), (tip, TEAL)):
            canvas.circle(joint, 11, colour)
        canvas.text((16, 484), f"step {int(self.elapsed[row])}", INK, anchor="lm")
        return canvas.array()

    def describe(self, row: int) -> str:
        first, second, spin_1, spin_2 = (float(x) for x in self.state[row])
        height = -math.cos(first) - math.cos(first + second)
        return (
            f"upper link {first:+.3f} rad, {spin_1:+.3f} rad/s; lower {second:+.3f} rad, {spin_2:+.3f} rad/s; "
            f"tip at {height:+.3f} m, goal above 1"
        )


def _runge_kutta(
    angles: Float[Tensor, "2 env"], spins: Float[Tensor, "2 env"], torque: Float[Tensor, " env"]
) -> tuple[Float[Tensor, "2 env"], Float[Tensor, "2 env"]]:
    """Return angles and their rates after `STEP_S`, by one classical step of fourth order.

    For a system of second order: the rates of the stages are known, so that only accelerations are evaluated.

    Args:
        torque: twice that of the motor, N m.
    """
    half = STEP_S / 2
    rates_1 = _accelerations(angles, spins, torque)
    spins_2 = torch.add(spins, rates_1, alpha=half)
    rates_2 = _accelerations(torch.add(angles, spins, alpha=half), spins_2, torque)
    spins_3 = torch.add(spins, rates_2, alpha=half)
    rates_3 = _accelerations(torch.add(angles, spins_2, alpha=half), spins_3, torque)
    spins_4 = torch.add(spins, rates_3, alpha=STEP_S)
    rates_4 = _accelerations(torch.add(angles, spins_3, alpha=STEP_S), spins_4, torque)
    middle = rates_2 + rates_3
    # The rates of the angles, spins + 2 spins_2 + 2 spins_3 + spins_4, in terms of the accelerations.
    angles = angles + STEP_S * torch.add(spins, rates_1 + middle, alpha=STEP_S / 6)
    return angles, torch.add(spins, torch.add(rates_1 + rates_4, middle, alpha=2.0), alpha=STEP_S / 6)


def _accelerations(
    angles: Float[Tensor, "2 env"], spins: Float[Tensor, "2 env"], torque: Float[Tensor, " env"]
) -> Float[Tensor, "2 env"]:
    """Return the angular accelerations (rad/s²), solving the two equations of motion by Cramer's rule.

    With c = cos θ2 the mass matrix is [[3.5 + c, m], [m, 1.25]], m = 1.25 + c / 2. Both right-hand sides (gravity,
    centrifugal and Coriolis terms, the motor) and all its entries are taken twice, which makes the determinant
    11.25 - c²; terms are gathered for few operations, most without a Python number, which costs torch as much again.
    """
    sin_1, sin_2 = torch.sin(angles).unbind(0)
    spin_1, spin_2 = spins.unbind(0)
    cos_2, sin_tip = torch.cos(angles[1]), torch.sin(angles[0] + angles[1])
    elbow = torch.add(torch.addcmul(torque, sin_2, spin_1 * spin_1, value=-1.0), sin_tip, alpha=-GRAVITY)
    swing = sin_2 * spin_2 * torch.add(spin_2, spin_1, alpha=2.0)
    shoulder = torch.add(swing, torch.add(sin_tip, sin_1, alpha=3.0), alpha=-GRAVITY)
    apart = elbow - shoulder
    common = 2.5 * apart
    first = torch.addcmul(common, cos_2, elbow).neg()
    second = torch.add(torch.addcmul(common, cos_2, elbow + apart), elbow, alpha=4.5)
    return torch.stack((first, second)) / (11.25 - cos_2 * cos_2)
