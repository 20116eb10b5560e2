"""What the networks are: stages, policies and their aliases."""
