"""From an environment's observation to the features that an agent's networks see."""
