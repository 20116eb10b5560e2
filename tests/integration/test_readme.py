"""What README shows runs as it stands."""

import re
from pathlib import Path

import pytest

from sb3_strl import APPO

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

pytestmark = pytest.mark.integration


def test_there_is_an_example() -> None:
    assert any("APPO(" in block for block in BLOCKS)


@pytest.mark.filterwarnings("ignore:APPO. task_reward_lerp is 0")
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learn = APPO.learn

    def briefly(self, total_timesteps: int = 1, **options):
        return learn(self, min(total_timesteps, 2000))

    monkeypatch.setattr(APPO, "learn", briefly)
    exec(compile(block, "README.md", "exec"), {})
