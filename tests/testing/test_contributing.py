"""CONTRIBUTING.md and docs/plugins.md are true to the letter."""

import re
import subprocess
import sys
from pathlib import Path

import thermograd as tg
from thermograd.ladders.named import SCHEDULES
from thermograd.training.builder import build_model


def test_contributing_followed_to_the_letter(tmp_path):
    """Its files are written as they stand, pass the calls that it names, and train by the settings that it shows."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    estimator, kernel = re.findall(r"```python\n(.*?)```", text, re.S)
    (setting,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "mine.py").write_text(estimator)
    (tmp_path / "walk.py").write_text(kernel)
    (tmp_path / "config.yaml").write_text(
        setting.replace("mine.py", "mine.py, walk.py")
        + "posterior_chains: {kernel: random-walk}\ntraining: {num_epochs: 1}\n"
    )
    calls = re.findall(r"`(tg\.testing\.check_\w+\(.+?\))`", " ".join(text.split()))
    assert len(calls) == 2
    (tmp_path / "calls.py").write_text("from mine import *\nfrom walk import *\n" + "\n".join(calls))
    for command in (
        ["calls.py"],
        ["-m", "thermograd", *["train", "digits", "--config", "config.yaml", "--out", "run", "--no-measure"]],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_on_plugins_followed_to_the_letter(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    (plugin,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (setting,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "mine.py").write_text(plugin)
    (tmp_path / "config.yaml").write_text(setting)
    config = tg.load_config("digits", tmp_path / "config.yaml", prior_chains={"num_updates": 1})
    model = build_model(config)
    assert (type(model.generator).__name__, type(model.energy_network).__name__) == ("Decoder", "Energy")
    tg.testing.check_schedule(SCHEDULES["cubes"])
    monkeypatch.chdir(tmp_path)
    words = {"model.generator.kind": "mine.py:Decoder", "gradient.schedule.kind": "cubes"}
    assert tg.load_config("digits", **words).plugins == config.plugins
