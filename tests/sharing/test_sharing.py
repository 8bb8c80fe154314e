"""Sharing a model: a folder and a hub give back its weights and samples, and what is wrong with one is a line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hub import Hub, running_hub

import thermograd as tg
from thermograd.cli import run as command
from thermograd.config.plugins import forget_plugins

PLUGIN = """
import math
from torch import nn

class Decoder(nn.Module):
    def __init__(self, latent_dim, image_shape):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, math.prod(image_shape)), nn.Tanh(), nn.Unflatten(-1, image_shape)
        )

    def forward(self, z):
        return self.layers(z)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tg.Run:
    folder = tmp_path_factory.mktemp("sharing") / "run"
    return tg.train("digits", folder, measured=False, training={"num_epochs": 1}, data={"num_images": 200})


@pytest.fixture
def shared(run: tg.Run, tmp_path: Path) -> Path:
    return run.save_pretrained(tmp_path / "shared")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "of-a-test")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield running


def assert_same(run: tg.Run, found: tg.Pretrained) -> None:
    weights = found.model.state_dict()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert torch.equal(run.sample(20, seed=3).images, found.sample(20, seed=3).images)


def front_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_folder_gives_back_weights_and_samples(run: tg.Run, shared: Path):
    assert_same(run, tg.load_pretrained(shared))
    model = tg.LatentEBM.from_pretrained(str(shared))
    assert torch.equal(model.decode(torch.ones(1, 16)), run.model.decode(torch.ones(1, 16)))


def test_a_folder_holds_no_pickle_and_no_path_of_this_machine(run: tg.Run, shared: Path):
    files = sorted(path.name for path in shared.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors", "prior.safetensors", "samples.png"]
    for name in ("config.json", "README.md"):
        assert str(run.folder.parent) not in (shared / name).read_text()


def test_the_hub_gives_back_weights_and_samples(run: tg.Run, hub: Hub):
    address = run.push("me/digits", licence="apache-2.0", private=True)
    assert address.startswith(hub.url)
    assert hub.private == {"me/digits"}
    assert_same(run, tg.load_pretrained("me/digits"))
    assert front_of(hub.repositories["me/digits"]["README.md"].decode())["license"] == "apache-2.0"


def test_the_card_says_what_was_measured(run: tg.Run, tmp_path: Path):
    assert "Nothing was measured" in (run.save_pretrained(tmp_path / "before") / "README.md").read_text()
    record = run.evaluate(num_images=20, num_samples=40, num_evidence=0, extractor="none", prior=False)
    card = (run.save_pretrained(tmp_path / "after", name="digits") / "README.md").read_text()
    found = record.values["quantities"]["reconstruction_mean_square_error"]
    assert f"| {found['value']:.5g} | {found['standard_error']:.2g} | 20 images of digits:test |" in card
    front = front_of(card)
    assert front["datasets"] == ["digits"]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == found["value"]
    assert result["dataset"]["split"] == "test"


def test_a_network_of_a_plugin_is_run_only_when_it_is_trusted(tmp_path: Path, run: tg.Run):
    (tmp_path / "own.py").write_text(PLUGIN)
    options = {"model": {"generator": {"kind": f"{tmp_path}/own.py:Decoder"}}, "data": {"num_images": 200}}
    own = tg.train("digits", tmp_path / "own", measured=False, training={"num_epochs": 1}, **options)
    shared = own.save_pretrained(tmp_path / "shared")
    assert str(tmp_path) not in (shared / "config.json").read_text()
    (tmp_path / "own.py").unlink()
    forget_plugins()
    with pytest.raises(tg.InputError, match=r"brings code of its own \(plugins/own.py\): read it"):
        tg.load_pretrained(shared)
    assert_same(own, tg.load_pretrained(shared, trust_plugins=True))
    forget_plugins()
    (shared / "plugins" / "own.py").write_text(PLUGIN + "# changed")
    with pytest.raises(tg.InputError, match=r"plugins/own.py is not the file"):
        tg.load_pretrained(shared, trust_plugins=True)


def damage(shared: Path, name: str, content: str | None) -> None:
    (shared / name).unlink() if content is None else (shared / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"holds no shared model, it has no config.json"),
        ("config.json", "{}", r"is not that of a shared model"),
        ("config.json", "{", r"config.json"),
        ("model.safetensors", None, r"is not whole: model.safetensors is missing"),
        ("model.safetensors", "x", r"is damaged: model.safetensors is not the file"),
        ("prior.safetensors", "x", r"is damaged: prior.safetensors is not the file"),
    ],
)
def test_a_damaged_folder_is_refused(shared: Path, name: str, content: str | None, message: str):
    damage(shared, name, content)
    with pytest.raises(tg.InputError, match=message):
        tg.load_pretrained(shared)


def test_weights_of_another_model_are_refused(shared: Path):
    config = json.loads((shared / "config.json").read_text())
    config["config"]["model"]["latent_dim"] = 7
    (shared / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        tg.InputError, match=r"holds the weights of another model: .* has shape \(.*\), not \("
    ):
        tg.load_pretrained(shared)


def test_sources_that_are_not_there(run: tg.Run, tmp_path: Path, hub: Hub):
    with pytest.raises(tg.InputError, match=r"does not exist; on the hub a model is OWNER/NAME"):
        tg.load_pretrained(tmp_path / "nowhere")
    with pytest.raises(tg.InputError, match=r"`source` me/nothing is neither a folder here nor a model"):
        tg.LatentEBM.from_pretrained("me/nothing")
    with pytest.raises(tg.InputError, match=r"it is a run folder; `thermograd export` shares it"):
        tg.load_pretrained(run.folder)


def test_a_repository_of_something_else(hub: Hub):
    hub.repositories["me/words"] = {"config.json": b'{"architectures": ["BertModel"]}'}
    with pytest.raises(tg.InputError, match="is not that of a shared model"):
        tg.load_pretrained("me/words")
    outside = {"config": {}, "step": 1, "sha256": {"../../escaped": ""}}
    hub.repositories["me/words"] = {"config.json": json.dumps(outside).encode()}
    with pytest.raises(tg.InputError, match="names a file outside its folder"):
        tg.load_pretrained("me/words")


def test_a_hub_that_refuses_or_is_away(run: tg.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    hub.refuses = True
    with pytest.raises(tg.InputError, match="`name` me/digits was refused by the hub"):
        run.push("me/digits")
    with pytest.raises(tg.InputError, match="`name` must be OWNER/NAME, got 'digits'"):
        run.push("digits")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's retries
    with pytest.raises(tg.RunError, match="me/digits could not be fetched from the hub"):
        tg.load_pretrained("me/digits")


def test_a_folder_of_something_else_is_left_alone(run: tg.Run, tmp_path: Path, shared: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(tg.InputError, match="holds something else"):
        run.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    before = (shared / "config.json").read_bytes()
    run.save_pretrained(shared)  # an earlier export is replaced
    assert (shared / "config.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "shared"]


def test_the_command_line(run: tg.Run, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command(["export", str(run.folder), "--out", str(tmp_path / "out")]) == 0
    assert_same(run, tg.load_pretrained(tmp_path / "out"))
    assert command(["push", str(run.folder), "me/again"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{hub.url}/me/again/commit/")
    assert command(["push", str(run.folder), "again"]) == 2
    assert capsys.readouterr().err == "thermograd: `name` must be OWNER/NAME, got 'again'.\n"
