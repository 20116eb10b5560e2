"""Rollout storage with named fields."""
