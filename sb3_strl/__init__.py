"""Robot learning in Stable-Baselines3's idiom."""

__version__ = "0.1.0"
