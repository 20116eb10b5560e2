"""Callbacks for training runs."""
