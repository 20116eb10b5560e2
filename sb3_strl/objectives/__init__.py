"""What is optimised beside PPO's own three losses."""
