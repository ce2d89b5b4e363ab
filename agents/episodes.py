"""Returns of finished episodes, kept on the device."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.recurrences import backward_recurrence

WINDOW = 100


class EpisodeStatistics:
    """The last `WINDOW` episode returns and lengths of each member, without a host synchronisation.

    Every shape is fixed: an episode that did not finish is written to a spare slot behind the window.
    """

    def __init__(self, num_members: int, num_envs: int, *, device: torch.device | str = "cpu") -> None:
        self.running = torch.zeros(2, num_members, num_envs, device=device)
        self.window = torch.zeros(2, num_members, WINDOW + 1, device=device)
        self.count = torch.zeros(num_members, dtype=torch.int64, device=device)
        self.mean = torch.full((2, num_members), torch.nan, device=device)  # of the window; not part of the state

    def record(self, reward: Float[Tensor, "time member env"], finished: Bool[Tensor, "time member env"]) -> None:
        """Add a rollout."""
        gained = torch.stack([reward, torch.ones_like(reward)], dim=1)
        ended = self._sums(gained, (~finished).to(reward.dtype))
        # Order episodes by the time they ended; only the last WINDOW of them keep a slot.
        values = ended.movedim(0, 2).flatten(2)  # [2, member, time·env]
        flags = finished.transpose(0, 1).flatten(1)
        rank = flags.cumsum(1)
        total = rank[:, -1:]
        slot = (self.count.unsqueeze(1) + rank - 1) % WINDOW
        slot = torch.where(flags & (rank > total - WINDOW), slot, WINDOW)
        self.window.scatter_(2, slot.expand(2, -1, -1), values)
        self.count += total.squeeze(1)
        self.mean.copy_(self._means())

    def _sums(
        self, gained: Float[Tensor, "time 2 member env"], goes_on: Float[Tensor, "time member env"]
    ) -> Float[Tensor, "time 2 member env"]:
        """Return the sums of episodes up to each step, and keep those of the episodes that go on."""
        if torch.compiler.is_compiling():
            gained = torch.cat([gained[:1] + self.running, gained[1:]])
            before = torch.cat([torch.zeros_like(goes_on[:1]), goes_on[:-1]]).unsqueeze(1).expand_as(gained)
            sums = backward_recurrence(gained.flip(0), before.flip(0)).flip(0)
            self.running.copy_(sums[-1] * goes_on[-1])
            return sums
        ended = []
        for gained_t, goes_on_t in zip(gained.unbind(), goes_on.unbind(), strict=True):
            ended.append(self.running + gained_t)
            torch.mul(ended[-1], goes_on_t, out=self.running)
        return torch.stack(ended)

    def means(self) -> tuple[Float[Tensor, " member"], Float[Tensor, " member"]]:
        """Return the mean return and length over the window; NaN for a member that finished no episode.

        What is returned changes with the next `record`.
        """
        return self.mean[0], self.mean[1]

    def _means(self) -> Float[Tensor, "2 member"]:
        filled = self.count.clamp(max=WINDOW)
        valid = torch.arange(WINDOW, device=self.count.device) < filled.unsqueeze(1)
        return (self.window[..., :WINDOW] * valid).sum(2) / filled

    def state_dict(self) -> dict[str, Tensor]:
        return {"running": self.running, "window": self.window, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)
        self.mean.copy_(self._means())
