"""Recorded data: motions and their library."""
