"""Sweeps: W&B's file format, searched on this machine."""
