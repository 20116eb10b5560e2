"""The guide's blocks run, one after another, as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
for name in ("imitation", "pyarrow", "datasets", "tqdm", "tensorboard"):
    pytest.importorskip(name)

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "imitation.md"


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    scope: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), scope)
    obs = scope["demos"][0].obs[:-1]  # type: ignore[index]
    acts = scope["demos"][0].acts  # type: ignore[index]
    for learner in ("cloning", "student"):
        policy = scope[learner].policy  # type: ignore[attr-defined]
        assert (policy.predict(obs, deterministic=True)[0] == acts).mean() > 0.7
    assert scope["source"].sample_features(256).shape == (256, 4)  # type: ignore[attr-defined]
