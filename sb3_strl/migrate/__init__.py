"""From configurations and checkpoints of st_rl and rsl_rl to this library."""

from sb3_strl.migrate.checkpoints import (
    load_checkpoint,
    load_rsl_rl_checkpoint,
    load_strl_checkpoint,
)
from sb3_strl.migrate.migration import Migration, Spaces
from sb3_strl.migrate.report import Report, Row
from sb3_strl.migrate.rsl_rl import from_rsl_rl_config
from sb3_strl.migrate.strl import from_strl_config

__all__ = [
    "Migration",
    "Report",
    "Row",
    "Spaces",
    "from_rsl_rl_config",
    "from_strl_config",
    "load_checkpoint",
    "load_rsl_rl_checkpoint",
    "load_strl_checkpoint",
]
