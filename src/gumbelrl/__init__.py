"""gumbelrl: reinforcement learning with discrete actions, and every way of sending a gradient through them.

`gumbelrl.policies` samples discrete actions and differentiates through the sample, `gumbelrl.agents` learns,
`gumbelrl.envs` is acted on. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
