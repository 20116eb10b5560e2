"""What README shows runs as it stands."""

import re
from pathlib import Path

import pytest

from sb3_strl import APPO

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "guide" / "policies.md"]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


pytestmark = pytest.mark.integration


def test_there_is_an_example() -> None:
    assert any("APPO(" in block for block in python_blocks(PAGES[0]))


@pytest.mark.filterwarnings("ignore:APPO. task_reward_lerp is 0")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    learn = APPO.learn

    def briefly(self, total_timesteps: int = 1, **options):
        return learn(self, min(total_timesteps, 2000))

    monkeypatch.setattr(APPO, "learn", briefly)
    names: dict[str, object] = {}
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), names)
