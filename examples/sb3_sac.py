"""Soft actor-critic with discrete actions in a stable-baselines3 script: train, look, save, load, look again.

    python examples/sb3_sac.py                           # two minutes on one core

Against a script for continuous actions two lines differ: the import, and the name of the class.
"""

import argparse
import tempfile
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from gumbelrl.agents.sb3 import GumbelSAC, load_weights, save_weights

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env", default="CartPole-v1", help="any gymnasium id with discrete actions")
parser.add_argument("--estimator", default="gumbel", help="a name in gumbelrl.policies.ESTIMATORS")
parser.add_argument("--total-steps", type=int, default=60_000)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

env = make_vec_env(options.env, seed=options.seed)
model = GumbelSAC("MlpPolicy", env, estimator=options.estimator, temperature=1.0, seed=options.seed)
model.learn(options.total_steps)

for kind in ("sampled", "greedy"):
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=20, deterministic=kind == "greedy")
    print(f"{kind}: {mean:.1f} ± {deviation:.1f} over 20 episodes")

observation = env.reset()
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model")  # SB3's file: whoever loads it trusts where it came from
    loaded = GumbelSAC.load(Path(folder) / "model")
    save_weights(model, Path(folder) / "weights")  # safetensors and JSON: nothing in it can run
    fresh = GumbelSAC("MlpPolicy", env, estimator=options.estimator)
    load_weights(fresh, Path(folder) / "weights")
actions = [each.predict(observation, deterministic=True)[0].item() for each in (model, loaded, fresh)]
print(f"actions of the model, of its file and of its weights: {actions}")
