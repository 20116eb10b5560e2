"""Where steps come from: tensor environments, bridges to other interfaces, embedded tasks."""
