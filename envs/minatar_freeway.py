"""MinAtar Freeway: a chicken crosses eight lanes of cars, again and again.

Rules. The chicken starts in the bottom row of column 4 and moves up or down at most every third step, first in the
fourth. Reaching the top row gives reward 1, brings it back to the bottom and draws every car's speed anew. Each of rows
1 to 8 has a car that moves one cell, left or right, every k + 1 steps (k from 1 to 5, ten speeds in all; the package's
comments say every k) and comes back in at the other side. A car in the chicken's cell, before or after the car's move,
sends the chicken to the bottom. An episode ends after 2,501 steps, of which the observation says nothing; the end is a
termination, as in the package.

What it separates: rewards are rare (27 steps apart at best) and need nine moves in one direction, which random choices
seldom make: how an estimator keeps entropy decides how soon learning starts.

Optimum: unknown; no policy crosses more than 92 times, for an episode has room for 833 moves and a crossing takes nine.
Published: PPO 58 (README of `gymnax`).

Reference: see `minatar.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE, GameState, MinAtarGame

COLUMN = 4  # of the chicken
PAUSE = 3  # steps from move to move
TIME = 2500  # steps that an episode goes on after its first
SPEEDS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)  # k, negative to the left
WAITS = 6  # steps until the next move: 0 to 5
CODES = SIZE * len(SPEEDS) * WAITS  # of cars; CODES itself is none


class MinAtarFreeway(MinAtarGame):
    """Observation: channels chicken, car, speed1 … speed5 (behind a car, by its k). Actions: noop, up, down.

    State, int64: `chicken` `[env]`, 4 row + steps until it can move; `cars` `[env, 10]`, one a row, 60 column + 6 speed
    (its place in `SPEEDS`) + steps until it moves, `CODES` in the rows without a car; `time` `[env]`, steps left.
    """

    channels = ("chicken", "car", "speed1", "speed2", "speed3", "speed4", "speed5")
    symbols = "C#12345"
    useful_actions = ("noop", "up", "down")
    num_random = 4
    num_play_random = 4

    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self._walked = _walks(self.per_action(up=-1, down=1).tolist()).to(self.device)
        self._driven, self._crossing, self._parked = (table.to(self.device) for table in _drives())
        self._pairs = _speed_pairs().to(self.device)
        self._looks = _looks(len(self.channels)).to(self.device)
        self._row_starts = torch.arange(1, SIZE - 1, device=self.device).unsqueeze(1) * (SIZE * len(self.channels))
        lanes = torch.tensor([CODES, *[0] * (SIZE - 2), CODES], device=self.device)
        self._lanes = lanes.repeat(num_envs, 1)
        chickens = torch.arange(4 * SIZE, device=self.device)
        self._home = chickens % 4 + 4 * (SIZE - 1)
        self._place = (chickens // 4 * SIZE + COLUMN) * len(self.channels)  # in a flat observation

    def _with_speeds(self, parked: Int[Tensor, "env 10"], noise: Float[Tensor, "env 4"]) -> Int[Tensor, "env 10"]:
        """Give parked cars, a tensor of the caller's own, speeds: all ten equally likely.

        A uniform number serves two cars; its 23 bits make the ten speeds equal up to a factor of 1 + 1e-5.
        """
        pairs = (noise * len(self._pairs)).to(torch.int64).flatten()
        parked[:, 1:-1] += self._pairs.index_select(0, pairs).view(self.num_envs, -1)
        return parked

    def new_game(self, noise: Float[Tensor, "env 4"]) -> GameState:
        return {
            "chicken": torch.full_like(self._nothing, 4 * (SIZE - 1) + PAUSE),
            "cars": self._with_speeds(self._lanes.clone(), noise),
            "time": torch.full_like(self._nothing, TIME),
        }

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 4"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        chicken = self._walked.index_select(0, state["chicken"] * len(self.action_names) + action)
        across = chicken < 4
        home = self._home.index_select(0, chicken)
        chicken = torch.where(across, home, chicken)
        cars = state["cars"]
        parked = self._parked.index_select(0, cars.flatten()).view(cars.shape)
        cars = torch.where(across.unsqueeze(1), self._with_speeds(parked, noise), cars)
        # A chicken that was hit is below every lane: the cars' order does not matter.
        met = cars.gather(1, (chicken >> 2).unsqueeze(1)).squeeze(1)
        chicken = torch.where(self._crossing.index_select(0, met), home, chicken)
        time = state["time"] - 1
        following = {
            "chicken": chicken,
            "cars": self._driven.index_select(0, cars.flatten()).view(cars.shape),
            "time": time,
        }
        return following, across.to(torch.float32), time < 0

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 7"]:
        cars = self._looks.index_select(0, state["cars"][:, 1:-1].flatten()).view(self.num_envs, -1, 2)
        chicken = self._place.index_select(0, state["chicken"]).unsqueeze(1)
        places = (cars + self._row_starts).flatten(1)
        return self.board((chicken, None), (places, None))


def _walks(shifts: list[int]) -> Int[Tensor, " chicken_choice"]:
    """Return the chicken after a step without cars, in row choices × chicken + choice."""
    walked = []
    for chicken in range(4 * SIZE):
        row, pause = divmod(chicken, 4)
        for shift in shifts:
            moves = shift != 0 and pause == 0
            after = min(max(row + shift * moves, 0), SIZE - 1)
            walked.append(4 * after + max((PAUSE if moves else pause) - 1, 0))
    return torch.tensor(walked)


def _drives() -> tuple[Int[Tensor, " car"], Bool[Tensor, " car"], Int[Tensor, " car"]]:
    """Return of every car: itself a step later, whether it meets the chicken's column in it, itself without speed."""
    driven, crossing, parked = [], [], []
    for code in range(CODES):
        column, motion = divmod(code, len(SPEEDS) * WAITS)
        place, wait = divmod(motion, WAITS)
        speed = SPEEDS[place]
        following = (column + (1 if speed > 0 else -1)) % SIZE if wait == 0 else column
        driven.append((following * len(SPEEDS) + place) * WAITS + (abs(speed) if wait == 0 else wait - 1))
        crossing.append(COLUMN in (column, following))
        parked.append(column * len(SPEEDS) * WAITS)
    return torch.tensor([*driven, CODES]), torch.tensor([*crossing, False]), torch.tensor([*parked, CODES])


def _speed_pairs() -> Int[Tensor, "pair car"]:
    """Return what two parked cars lack, for all pairs of speeds; the wait is a whole period at first."""
    motions = torch.tensor([place * WAITS + abs(speed) for place, speed in enumerate(SPEEDS)])
    return torch.cartesian_prod(motions, motions)


def _looks(channels: int) -> Int[Tensor, "car 2"]:
    """Return where a car and its speed are in the flat row of a board."""
    looks = torch.zeros(SIZE, len(SPEEDS), WAITS, 2, dtype=torch.int64)
    for column in range(SIZE):
        for place, speed in enumerate(SPEEDS):
            behind = (column + (-1 if speed > 0 else 1)) % SIZE
            looks[column, place, :, 0] = column * channels + 1
            looks[column, place, :, 1] = behind * channels + 1 + abs(speed)
    return looks.flatten(0, 2)
