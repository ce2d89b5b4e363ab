"""Videos of a policy at work: MP4 by PyAV where that is installed, GIF by Pillow otherwise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from gumbelrl.agents.base import Agent
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.perception.observations import action_mask, to_features
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.training import env_seeds, forget, split_mask
from gumbelrl.envs import BatchedEnv, GymnasiumEnv, NativeEnv, make
from gumbelrl.random import RandomStreams, derive_seed

Picture = UInt8[np.ndarray, "height width 3"]
MOST_STEPS = 500
LEAST_STEPS, MOST_EPISODES = 40, 8  # short episodes follow one another until there is something to see
WATCHED_SECONDS = 15.0  # what a video is meant to take; between these rates
SLOWEST, FASTEST = 2.0, 30.0
HELD_SECONDS = 1.0  # how long the end of an episode stays
STRIP = 28  # height of the caption, in pixels


class VideoError(RunError):
    """No video can be made; the message says why."""


@dataclass(frozen=True)
class Frame:
    """A picture, what is written beneath it, and whether an episode ends here."""

    picture: Picture
    caption: str
    ends: bool


# Environments that can be looked at ---------------------------------------------------------------------------------


class Stage(Protocol):
    """Environments, a row a member, and pictures of one row.

    `ended` is the picture of the end of an episode, which the autoreset passes over.
    """

    @property
    def env(self) -> BatchedEnv: ...

    def now(self) -> Picture: ...

    def ended(self) -> Picture: ...


class NativeStage:
    """An environment of ours."""

    def __init__(self, env: NativeEnv, row: int) -> None:
        self.env, self.row, rule = env, row, env.transition

        def transition(state: Any, action: Tensor, noise: Tensor) -> Any:
            result = rule(state, action, noise)
            self.reached = result[0]
            return result

        env.transition = transition  # type: ignore[method-assign]

    def now(self) -> Picture:
        return self.env.draw(self.row)

    def ended(self) -> Picture:
        fresh, self.env.state = self.env.state, self.reached
        picture = self.env.draw(self.row)
        self.env.state = fresh
        return picture


class GymnasiumStage:
    """An environment of gymnasium's, made with `render_mode="rgb_array"`."""

    def __init__(self, env: GymnasiumEnv, row: int) -> None:
        self.env, self.single = env, env.vector.envs[row]
        step = self.single.step

        def stepped(action: Any) -> Any:
            result = step(action)
            if result[2] or result[3]:
                self.last = self.now()
            return result

        self.single.step = stepped

    def now(self) -> Picture:
        picture = self.single.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise VideoError(f"{self.env.env_id} gives no picture to render_mode='rgb_array'")
        return picture

    def ended(self) -> Picture:
        return self.last


def make_stage(env_id: str, *, members: int, row: int, native: bool, device: torch.device | str) -> Stage:
    """Return environments of which one row can be looked at.

    Raises:
        VideoError: it cannot be drawn, or a package for that is missing.
    """
    try:
        env = make(env_id, num_envs=members, native=native, device=device)
        if isinstance(env, NativeEnv):
            return NativeStage(env, row)
        env.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no such mode is said below, as an error
            return GymnasiumStage(GymnasiumEnv(env_id, members, device=device, render_mode="rgb_array"), row)
    except Exception as error:  # gymnasium passes on whatever an environment raises
        raise VideoError(f"{env_id} cannot be drawn ({type(error).__name__}: {error})") from error


# Playing ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def play(agent: Agent, stage: Stage, *, seeds: Sequence[int], member: int, greedy: bool, title: str) -> Iterator[Frame]:
    """Yield what one member does: one episode, or several where they are short, `MOST_STEPS` at the most.

    All members act, since an agent asks for all; the others are not looked at.
    """
    env, members, kind = stage.env, len(seeds), "greedy" if greedy else "sampled"
    streams = RandomStreams([derive_seed(seed, "video") for seed in seeds], device=env.device)
    observation, info = env.reset(env_seeds(tuple(seeds), 1, "video")), env.info
    perception = agent.perception or Perception()
    memory = perception.initial(1)
    episode, length, total = 1, 0, 0.0
    for played in range(1, MOST_STEPS + 1):
        caption = f"{title} · {kind} · episode {episode} · step {length} · return {total:.4g}"
        yield Frame(stage.now(), caption, ends=False)
        features = to_features(env.single_observation_space, observation).unsqueeze(1)
        noise = None if greedy else perception.noise(1, 1, generator=streams)
        features, memory = perception(features, memory, None if noise is None else noise[0])
        policy = agent.policy(features, split_mask(agent.layout, action_mask(observation, info), members))
        action = policy.mode if greedy else policy.sample(generator=streams)
        step = env.step(agent.layout.from_one_hot(action.flatten(0, 1)))
        observation, info = step.observation, step.info
        ended = step.terminated | step.truncated
        memory = forget(memory, ended.unsqueeze(1))
        length, total = length + 1, total + float(step.reward[member])
        if bool(ended[member]):
            caption = f"{title} · {kind} · episode {episode} · ends after {length} · return {total:.4g}"
            yield Frame(stage.ended(), caption, ends=True)
            if played >= LEAST_STEPS or episode == MOST_EPISODES:
                return
            episode, length, total = episode + 1, 0, 0.0


def record_video(
    path: Path,
    agent: Agent,
    env_id: str,
    *,
    seeds: Sequence[int],
    member: int = 0,
    greedy: bool = False,
    native: bool = True,
    device: torch.device | str = "cpu",
) -> Path:
    """Record a member at work; return the file, `path` with the suffix of its format.

    Args:
        path: without a suffix; its folder is made.
        seeds: of all members of the agent; the episode's is derived from the member's.

    Raises:
        VideoError: the environment cannot be drawn.
    """
    stage = make_stage(env_id, members=len(seeds), row=member, native=native, device=device)
    try:
        title = env_id.removeprefix("gumbelrl/")
        frames = list(play(agent, stage, seeds=seeds, member=member, greedy=greedy, title=title))
    except NotImplementedError as error:
        raise VideoError(f"{env_id} cannot be drawn ({error})") from error
    finally:
        stage.env.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, frames)


# Writing ------------------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: Sequence[Frame]) -> Path:
    """Write frames at a rate that a person can follow; return the file."""
    rate = round(min(max(len(frames) / WATCHED_SECONDS, SLOWEST), FASTEST))
    longest = max((frame.caption for frame in frames), key=len)
    pictures = [with_caption(frame, longest) for frame in frames]
    held = [max(1, math.ceil(HELD_SECONDS * rate)) if frame.ends else 1 for frame in frames]
    if find_spec("av") is not None:
        return _write_mp4(path.with_name(path.name + ".mp4"), pictures, held, rate)
    return _write_gif(path.with_name(path.name + ".gif"), pictures, held, rate)


def with_caption(frame: Frame, longest: str) -> Picture:
    """Return the picture over a strip with its caption; both sides even, as H.264 wants them.

    Args:
        longest: the longest caption of the video, which must fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = frame.picture.shape[:2]
    wide = max(width, 400)  # room for the words
    image = Image.new("RGB", (wide + wide % 2, height + STRIP + (height + STRIP) % 2), (255, 255, 255))
    image.paste(Image.fromarray(np.ascontiguousarray(frame.picture)), ((wide - width) // 2, 0))
    draw = ImageDraw.Draw(image)
    size = 14.0
    while draw.textlength(longest, ImageFont.load_default(size)) > wide - 12 and size > 8:
        size -= 0.5
    draw.text((wide / 2, height + STRIP / 2), frame.caption, (38, 44, 52), ImageFont.load_default(size), "mm")
    return np.asarray(image)


def _write_gif(path: Path, pictures: Sequence[Picture], held: Sequence[int], rate: int) -> Path:
    from PIL import Image

    # Without dithering, so that what stands still stays the same and costs nothing.
    images = [
        Image.fromarray(each).quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for each in pictures
    ]
    durations = [max(20, round(100 / rate) * 10) * count for count in held]  # hundredths of a second
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)
    return path


def _write_mp4(path: Path, pictures: Sequence[Picture], held: Sequence[int], rate: int) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture, count in zip(pictures, held, strict=True):
            for _ in range(count):
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
