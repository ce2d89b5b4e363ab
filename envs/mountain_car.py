"""MountainCar-v0: an engine too weak for the hill must first climb the other side.

Equal to gymnasium's own step by step from the same state (in float64 to the last bits; the default is float32).

What it separates: every step costs 1 until the flag, so random play, which never gets there within 200 steps, sees one
and the same return. Agents that explore for many steps in one direction learn; those whose noise is independent from
step to step do not, whatever the estimator.

Optimum, found numerically: one plan is optimal from every start, "right for i steps, left for j, then right". Trying
all with i ≤ 24 and j ≤ 44 from 4,000 evenly spaced starts takes 97.656 steps on average (104 from -0.6, 83 from
-0.4), the error of that spacing being below 0.005. That nothing beats it was checked from 60 random starts by a search
over all three actions, breadth first, that keeps the first state to enter each of 4,000 × 4,000 cells: it needed the
same number of steps each time. Pushing always along the velocity takes 119.6 steps.

Reference: Moore 1990, "Efficient memory-based learning for robot control"; gymnasium's `MountainCar-v0`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BLUE, FAINT, GREEN, INK, ORANGE, YELLOW, Canvas
from gumbelrl.envs.native import NativeEnv

LEFT_END, RIGHT_END = -1.2, 0.6  # m
GOAL = 0.5
START_LOW, START_RANGE = -0.6, 0.2
SPEED_LIMIT = 0.07  # m a step
FORCE = 0.001  # of the engine, m a step²
GRAVITY = 0.0025  # along the steepest slope
# The phases of an optimal plan, from any start: at most 19 steps right, then 33 to 38 left, or else at once up to 38
# left; then right until the flag, at most 64.
FIRST_STEPS, BACK_STEPS, LEAST_BACK_STEPS, LAST_STEPS = 19, 38, 33, 66
NEVER = 1_000


class MountainCar(NativeEnv[Tensor]):
    """State and observation: position (m), velocity (m a step).

    Actions push left (0), not at all (1) or right (2); the reward is -1 a step; an episode ends at the flag, at 0.5 m,
    or after 200 steps. The left end is a wall that stops the car.

    Args:
        goal_velocity: how fast the car must be at the flag.
    """

    max_episode_steps = 200
    num_random = 1

    def __init__(
        self,
        num_envs: int,
        *,
        goal_velocity: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(num_envs, device=device, dtype=dtype)
        if not 0.0 <= goal_velocity <= SPEED_LIMIT:
            raise ValueError(f"goal_velocity must be from 0 to the speed limit {SPEED_LIMIT}, got {goal_velocity}")
        self.goal_velocity = goal_velocity
        # A faster arrival may need another swing, for which nothing was searched.
        self.optimal_return = -97.656 if goal_velocity == 0.0 else None
        low = np.array([LEFT_END, -SPEED_LIMIT], dtype=np.float32)
        high = np.array([RIGHT_END, SPEED_LIMIT], dtype=np.float32)
        self.single_observation_space = spaces.Box(low, high, dtype=np.float32)
        self.single_action_space = spaces.Discrete(3)
        self._reward = -torch.ones(num_envs, device=self.device)
        self._at_rest = torch.zeros(num_envs, dtype=dtype, device=self.device)
        plans = [(0, back) for back in range(BACK_STEPS + 1)]
        plans += [(i, j) for i in range(1, FIRST_STEPS + 1) for j in range(LEAST_BACK_STEPS, BACK_STEPS + 1)]
        first, back = torch.tensor(plans, device=self.device).unbind(1)
        self._plan_steps = (first + back).unsqueeze(1)  # those before the last phase
        self._plan_places = back * (FIRST_STEPS + 1) + first
        self._plan_begins = functional.one_hot(2 * ((first > 0) | (back == 0)).long(), 3).float()

    def initial_state(self, noise: Float[Tensor, "env 1"]) -> Float[Tensor, "env 2"]:
        return torch.stack((noise[:, 0] * START_RANGE + START_LOW, self._at_rest), dim=1)

    def transition(
        self, state: Float[Tensor, "env 2"], action: Int[Tensor, " env"], noise: Tensor
    ) -> tuple[Float[Tensor, "env 2"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        position, velocity = state.unbind(1)
        position, velocity = _move(position, velocity + (action.to(state.dtype) * FORCE - FORCE))
        return torch.stack((position, velocity), dim=1), self._reward, self._arrived(position, velocity)

    def observe(self, state: Float[Tensor, "env 2"]) -> Float[Tensor, "env 2"]:
        return state

    def _arrived(self, position: Shaped[Tensor, "*any"], velocity: Shaped[Tensor, "*any"]) -> Bool[Tensor, "*any"]:
        return (position >= GOAL) & (velocity >= self.goal_velocity)

    # Optimum --------------------------------------------------------------------------------------------------------

    def optimal_probs(self) -> Float[Tensor, "env 1 3"]:
        """Return the first push of the shortest plan "right i steps, left j, then right", of which 153 are tried.

        What is left of a plan is such a plan, so that following it takes the steps that were foreseen. In states from
        which none leads to the flag, which an optimal play never meets, push along the velocity.

        Raises:
            NotImplementedError: a goal velocity is asked for.
        """
        if self.goal_velocity > 0.0:
            raise NotImplementedError("no optimal policy is known for MountainCar with a goal_velocity above 0")
        steps, plan = self.plan_steps().min(0)
        along = functional.one_hot(2 * (self.state[:, 1] > 0).long(), 3).float()
        return torch.where((steps >= NEVER).unsqueeze(1), along, self._plan_begins[plan]).unsqueeze(1)

    def plan_steps(self) -> Int[Tensor, "plan env"]:
        """Return how many steps each plan takes to the flag from the current states; `NEVER` or more if it fails."""
        position, velocity = _phase(self.state[:, 0], self.state[:, 1], FORCE, FIRST_STEPS)
        position, velocity = (
            part.flatten(0, 1).index_select(0, self._plan_places)
            for part in _phase(position, velocity, -FORCE, BACK_STEPS)
        )
        steps = self._plan_steps.expand(-1, self.num_envs)
        for _ in range(LAST_STEPS):
            # At the flag the engine is stronger than the slope: who has arrived stays there.
            steps = steps + ~self._arrived(position, velocity)
            position, velocity = _move(position, velocity + FORCE)
        return torch.add(steps, ~self._arrived(position, velocity), alpha=NEVER)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> np.ndarray:
        canvas, (position, velocity) = Canvas(600, 400), (float(x) for x in self.state[row])
        hill = [_point(LEFT_END + (RIGHT_END - LEFT_END) * i / 120) for i in range(121)]
        canvas.polygon([*hill, (600, 400), (0, 400)], FAINT)
        canvas.line(hill, INK, width=3)
        foot = _point(GOAL)
        canvas.line([foot, (foot[0], foot[1] - 52)], INK, width=3)
        canvas.polygon([(foot[0], foot[1] - 52), (foot[0] + 26, foot[1] - 43), (foot[0], foot[1] - 34)], YELLOW)
        x, y = _point(position)
        ahead, behind = _point(position + 0.01), _point(position - 0.01)
        angle = math.atan2(ahead[1] - behind[1], ahead[0] - behind[0])
        cos, sin = math.cos(angle), math.sin(angle)

        def turned(along: float, up: float) -> tuple[float, float]:
            return x + along * cos + up * sin, y + along * sin - up * cos

        body = [(-24, 8), (24, 8), (24, 17), (15, 19), (9, 29), (-11, 29), (-16, 19), (-24, 18)]
        canvas.polygon([turned(along, up) for along, up in body], BLUE)
        for along in (-13.0, 13.0):
            canvas.circle(turned(along, 8.0), 8, INK)
            canvas.circle(turned(along, 8.0), 3, FAINT)
        # The velocity, as an arrow from above the car.
        tip, direction = 40 + 60 * abs(velocity) / SPEED_LIMIT, math.copysign(1.0, velocity)
        if abs(velocity) > 1e-6:
            canvas.line([turned(0, 42), turned(direction * (tip - 36), 42)], ORANGE, width=4)
            ends = ((tip - 36, 35), (tip - 36, 49), (tip - 26, 42))
            canvas.polygon([turned(direction * along, up) for along, up in ends], ORANGE)
        canvas.text((16, 20), f"{position:+.3f} m", INK, anchor="lm")
        canvas.text((16, 40), f"{1000 * velocity:+.1f} mm a step", ORANGE, anchor="lm")
        canvas.text((584, 20), f"step {int(self.elapsed[row])}", GREEN, anchor="rm")
        return canvas.array()

    def describe(self, row: int) -> str:
        position, velocity = (float(x) for x in self.state[row])
        return f"position {position:+.3f} m (flag at +{GOAL}), velocity {velocity:+.4f} m a step"


def _move(position: Shaped[Tensor, "*any"], pushed: Shaped[Tensor, "*any"]) -> tuple[Tensor, Tensor]:
    """Return position and velocity a step later, from the velocity to which the engine's push was added."""
    velocity = torch.add(pushed, torch.cos(3 * position), alpha=-GRAVITY).clamp(-SPEED_LIMIT, SPEED_LIMIT)
    position = (position + velocity).clamp(LEFT_END, RIGHT_END)
    return position, torch.where(position <= LEFT_END, velocity.clamp_min(0.0), velocity)


def _phase(position: Tensor, velocity: Tensor, force: float, steps: int) -> tuple[Tensor, Tensor]:
    """Return positions and velocities `[step, *]` after 0 … `steps` pushes of `force`."""
    positions, velocities = [position], [velocity]
    for _ in range(steps):
        position, velocity = _move(position, velocity + force)
        positions.append(position)
        velocities.append(velocity)
    return torch.stack(positions), torch.stack(velocities)


def _point(position: float) -> tuple[float, float]:
    """Return where the hill is in the picture."""
    return 600 * (position - LEFT_END) / (RIGHT_END - LEFT_END), 350 - 250 * (math.sin(3 * position) * 0.45 + 0.55)
