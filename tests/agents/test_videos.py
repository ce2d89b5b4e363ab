"""Videos: what is filmed is what was played, at a rate that can be followed, in a file that can be read."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from gumbelrl.agents import videos
from gumbelrl.agents.command_line import main
from gumbelrl.agents.evaluation import evaluate
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.training import env_seeds
from gumbelrl.agents.videos import Frame, VideoError, make_stage, play, record_video, write_video

TINY = {"num_envs": 2, "rollout_steps": 4, "epochs": 1, "minibatches": 1, "hidden": (4,)}


class Undrawn(gymnasium.Env):
    """Cannot be drawn."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, True, False, {}


gymnasium.register("Undrawn-v0", entry_point=Undrawn)


def experiment(folder, env="CartPole-v1", seeds=(3, 4), **options):
    config = AGENTS["actor-critic"].config(**TINY)
    return Experiment(RunConfig(env=env, seeds=seeds, output=folder, track="off", agent_config=config, **options))


def frames_of(made, env, *, member=0, greedy=True, native=True):
    stage = make_stage(env, members=len(made.config.seeds), row=member, native=native, device="cpu")
    seeds = made.config.seeds
    return list(play(made.trainer.agent, stage, seeds=seeds, member=member, greedy=greedy, title="t"))


@pytest.mark.parametrize("native", [True, False], ids=["native", "gymnasium"])
def test_an_episode_is_filmed_from_its_first_state_to_its_last(tmp_path, native):
    """The last picture is that of the state that ended it, which the autoreset passes over."""
    frames = frames_of(experiment(tmp_path / "run"), "CartPole-v1", native=native)
    ends = [index for index, frame in enumerate(frames) if frame.ends]
    assert ends[-1] == len(frames) - 1
    first = frames[: ends[0] + 1]
    assert first[0].caption == "t · greedy · episode 1 · step 0 · return 0"
    assert first[-1].caption == f"t · greedy · episode 1 · ends after {len(first) - 1} · return {len(first) - 1}"
    assert len(frames) >= videos.LEAST_STEPS
    # Cart and pole move a little from picture to picture, but jump where another episode begins.
    differences = [np.abs(a.picture.astype(int) - b.picture).mean() for a, b in itertools.pairwise(frames)]
    inside = [each for index, each in enumerate(differences) if index not in ends]
    assert max(inside) < min(differences[index] for index in ends[:-1])


def test_members_are_filmed_apart_and_as_they_play(tmp_path, monkeypatch):
    """With the seeds of an evaluation a filmed episode's return is the evaluated one."""
    made = experiment(tmp_path / "run")
    monkeypatch.setattr(videos, "env_seeds", lambda seeds, count, purpose: env_seeds(seeds, count, "evaluation"))
    filmed = []
    for member in (0, 1):
        frames = frames_of(made, "CartPole-v1", member=member)
        filmed.append(next(index for index, frame in enumerate(frames) if frame.ends))
    returns = evaluate(made.trainer.agent, made.make_env, seeds=made.config.seeds, episodes=1, greedy=True)
    assert filmed == returns[:, 0].int().tolist()


def test_masks_and_one_step_episodes(tmp_path):
    made = experiment(tmp_path / "run", env="gumbelrl/Pointer-v0", seeds=(0,))
    frames = frames_of(made, "gumbelrl/Pointer-v0", greedy=False)
    assert sum(frame.ends for frame in frames) == videos.MOST_EPISODES
    assert not np.array_equal(frames[0].picture, frames[1].picture)  # the pick is shown


def test_an_environment_that_cannot_be_drawn(tmp_path):
    made = experiment(tmp_path / "run", env="Undrawn-v0")
    with pytest.raises(VideoError, match="Undrawn-v0"):
        record_video(tmp_path / "video", made.trainer.agent, "Undrawn-v0", seeds=made.config.seeds)
    words = ["--env", "Undrawn-v0", "--num-envs", "2", "--rollout-steps", "4", "--epochs", "1", "--minibatches", "1"]
    words += ["--total-steps", "16", "--evaluation-episodes", "1", "--video", "--track", "off"]
    with pytest.warns(UserWarning, match="no video: Undrawn-v0"):  # a run goes on without
        assert main([*words, "--output", str(tmp_path / "other")]) == 0


def pictures(count, ends=()):
    rows = np.arange(48)[:, None, None]
    shades = [np.where(rows <= index, 200, 20).repeat(64, 1).repeat(3, 2).astype(np.uint8) for index in range(count)]
    return [Frame(shade, f"{index}", index in ends) for index, shade in enumerate(shades)]


def test_a_gif_holds_every_frame_at_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    path = write_video(tmp_path / "a", pictures(30, ends={14}))
    assert path.name == "a.gif"
    with Image.open(path) as image:
        assert image.n_frames == 30
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB"))[:48].mean(axis=(1, 2))
            assert np.abs(shown - np.where(np.arange(48) <= index, shown[0], shown[-1])).max() < 1
    assert durations == [500 if index != 14 else 1000 for index in range(30)]  # 2 a second, the end held


def test_an_mp4_can_be_read(tmp_path):
    av = pytest.importorskip("av")
    path = write_video(tmp_path / "a", pictures(600, ends={599}))
    assert path.name == "a.mp4"
    with av.open(str(path)) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == videos.FASTEST
    assert len(found) == 599 + 30
    shown = found[10][:48, 170:230].mean(axis=(1, 2))  # the picture, between its margins
    assert shown[:9].min() > 180
    assert shown[13:].max() < 40


@pytest.mark.parametrize(("count", "rate"), [(2, 2), (150, 10), (500, 30)])
def test_the_rate_is_one_that_can_be_followed(tmp_path, monkeypatch, count, rate):
    asked = []
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    monkeypatch.setattr(videos, "_write_gif", lambda path, pictures, held, rate: asked.append(rate) or path)
    write_video(tmp_path / "a", pictures(count))
    assert asked == [rate]
