"""One short program per simulator: make its environment, train PPO on it, save the policy."""
