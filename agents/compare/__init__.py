"""Runs side by side: what intervals over seeds allow one to say. `python -m gumbelrl.agents.compare RUN…`."""
