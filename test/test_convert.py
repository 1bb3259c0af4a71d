"""`timar convert`: the published pickle and wav2vec 2.0 become a policy folder, or a sentence says why not."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from timar_ros.cli import main
from timar_ros.model.checkpoint import load_policy
from timar_ros.model.published import PublishedConfig, PublishedNetwork
from timar_ros.model.published_checkpoint import published_network
from timar_ros.model.wav2vec2 import SpeechConfig
from timar_ros.motion.flame import FLAME_CHANNELS

FIXTURE = Path(__file__).parent / "data" / "published" / "official_tiny"
SPEECH = "weights.speech_encoder.wav2vec."


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load_file(f"{FIXTURE}.safetensors")


@pytest.fixture
def files(tmp_path, weights):
    """TIMAR.pth and the speech encoder's folder, as they are published."""
    own = {k.removeprefix("weights."): v for k, v in weights.items() if k.startswith("weights.") and SPEECH not in k}
    args = argparse.Namespace(encoder_num_heads=4)
    content = {"model": {}, "model_ema": own, "optimizer": {}, "epoch": 3, "scaler": {}, "args": args}
    torch.save(content, tmp_path / "TIMAR.pth")
    speech = tmp_path / "wav2vec2"
    speech.mkdir()
    config = json.loads(Path(f"{FIXTURE}.json").read_text())["wav2vec2"]
    (speech / "config.json").write_text(json.dumps(config))
    ctc = {"wav2vec2." + k.removeprefix(SPEECH): v for k, v in weights.items() if k.startswith(SPEECH)}
    save_file(ctc | {"lm_head.weight": torch.zeros(4, 32)}, speech / "model.safetensors")
    return tmp_path


def convert(files: Path, *more: str) -> int:
    return main(["convert", str(files / "TIMAR.pth"), "--speech", str(files / "wav2vec2"), *more])


def rewrite(files: Path, **changes) -> None:
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(files / "TIMAR.pth", weights_only=True)
    torch.save(content | changes, files / "TIMAR.pth")


def test_the_folder_is_a_policy_with_the_published_weights(files, weights, capsys):
    assert convert(files, "--out", str(files / "tiny")) == 0
    assert "4 blocks" in capsys.readouterr().out
    policy = load_policy(files / "tiny")
    assert policy.channels == FLAME_CHANNELS
    assert (policy.network.config.blocks, policy.network.config.heads) == (4, 4)
    found = policy.network.state_dict()
    assert torch.equal(found["z_proj.weight"], weights["weights.z_proj.weight"])
    assert torch.equal(found["encoder_blocks.2.mlp.2.bias"], weights["weights.encoder_blocks.2.mlp.fc2.bias"])
    with torch.inference_mode():
        tokens = policy.network.speech_tokens(weights["in.user_speech"])
    assert (tokens - weights["out.user_speech_tokens"]).abs().max() < 1e-5
    assert "2512.15340" in (files / "tiny" / "MODEL_CARD.md").read_text()


def test_the_older_names_of_weight_norm_and_a_bin_file_are_read_too(files, weights):
    speech = files / "wav2vec2"
    older = {}
    for name, value in load_file(speech / "model.safetensors").items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        older[name.replace("parametrizations.weight.original1", "weight_v")] = value
    (speech / "model.safetensors").unlink()
    torch.save(older, speech / "pytorch_model.bin")
    assert convert(files, "--out", str(files / "tiny")) == 0
    with torch.inference_mode():
        tokens = load_policy(files / "tiny").network.speech_tokens(weights["in.user_speech"])
    assert (tokens - weights["out.user_speech_tokens"]).abs().max() < 1e-5


def test_missing_and_unexpected_keys_are_listed_by_name(files, weights, capsys):
    own = {k.removeprefix("weights."): v for k, v in weights.items() if k.startswith("weights.") and SPEECH not in k}
    del own["encoder_norm.bias"]
    own["something.else"] = torch.zeros(1)
    rewrite(files, model_ema=own)
    assert convert(files, "--out", str(files / "tiny")) == 1
    assert "missing: encoder_norm.bias; unexpected: something.else" in capsys.readouterr().err
    assert not (files / "tiny").exists()


def test_heads_come_from_an_option_where_the_pickle_does_not_tell_them(files, capsys):
    rewrite(files, args=argparse.Namespace())
    assert convert(files, "--out", str(files / "tiny")) == 1
    assert "say so with --heads" in capsys.readouterr().err
    assert convert(files, "--out", str(files / "tiny"), "--heads", "4") == 0


def test_a_pickle_that_would_run_code_is_refused(files, capsys):
    class Trap:
        def __reduce__(self):
            return (print, ("it ran",))

    (files / "TIMAR.pth").write_bytes(pickle.dumps({"model_ema": Trap()}, protocol=2))
    assert convert(files, "--out", str(files / "tiny")) == 1
    said = capsys.readouterr()
    assert "only tensors and argparse.Namespace are admitted" in said.err
    assert "it ran" not in said.out


@pytest.mark.parametrize("kept", [0, 100, 50_000])
def test_a_file_that_is_cut_short_says_so(files, kept, capsys):
    path = files / "TIMAR.pth"
    path.write_bytes(path.read_bytes()[:kept])
    assert convert(files, "--out", str(files / "tiny")) == 1
    assert "download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json cannot be read"),
        (lambda d: (d / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
        (lambda d: (d / "model.safetensors").write_bytes(b"no"), "model.safetensors cannot be read"),
        (lambda d: (d / "config.json").write_text('{"do_stable_layer_norm": false}'), "do_stable_layer_norm"),
        (lambda d: (d / "config.json").write_text("{}"), "the published network needs"),
    ],
)
def test_what_is_wrong_with_the_speech_encoder_is_said(files, change, said, capsys):
    change(files / "wav2vec2")
    assert convert(files, "--out", str(files / "tiny")) == 1
    assert said in capsys.readouterr().err


def test_an_expression_map_is_checked_and_goes_along(files, capsys):
    path = files / "map.csv"
    header = ",".join(["blendshape", "bias", *FLAME_CHANNELS[:50]])
    path.write_text(f"{header}\nsmile," + ",".join(["0"] * 51))
    assert convert(files, "--out", str(files / "tiny"), "--expression", str(path)) == 1
    assert "line 2: 'smile' is no ARKit blendshape" in capsys.readouterr().err
    row = ["mouthSmileLeft", "0.1", "0.5", *["0"] * 49]
    path.write_text(f"{header}\n{','.join(row)}\n")
    assert convert(files, "--out", str(files / "tiny"), "--expression", str(path)) == 0
    assert (files / "tiny" / "expression.csv").read_text() == path.read_text()


def test_a_folder_that_exists_is_not_written_over(files, capsys):
    (files / "tiny").mkdir()
    (files / "tiny" / "mine").write_text("")
    assert convert(files, "--out", str(files / "tiny")) == 1
    assert "is not empty; give --out a new folder" in capsys.readouterr().err
    assert [path.name for path in (files / "tiny").iterdir()] == ["mine"]


@pytest.mark.parametrize(("width", "blocks", "heads"), [(768, 12, 12), (1024, 32, 16), (1280, 20, 16)])
def test_published_sizes_are_recognised_from_shapes(width, blocks, heads):
    """On the meta device: shapes without numbers."""
    with torch.device("meta"):
        wanted = PublishedConfig(width=width, blocks=blocks, heads=heads, token_width=width, diffusion_depth=6)
        weights = PublishedNetwork(wanted).state_dict()
    assert published_network(weights, SpeechConfig()).config == wanted
