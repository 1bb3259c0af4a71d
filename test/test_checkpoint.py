"""Policy folders: what is written is read back, and what is wrong is said."""

import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from timar_ros.channels import CHANNELS
from timar_ros.errors import TimarError
from timar_ros.model.checkpoint import load_policy, save_policy
from timar_ros.model.config import NetworkConfig
from timar_ros.model.network import TimarNetwork
from timar_ros.stream.sampling import Sampling

SMALL = NetworkConfig(width=32, blocks=1, heads=2, diffusion_width=16, diffusion_depth=1)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_policy(tmp_path / "small", TimarNetwork(SMALL), CHANNELS, {"face_temperature": 0.8})
    return tmp_path / "small"


def edit_config(folder, **changes):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_a_policy_is_read_as_it_was_written(folder):
    policy = load_policy(folder)
    assert (policy.name, policy.channels, policy.sampling) == (
        "small",
        CHANNELS,
        {"face_temperature": 0.8},
    )
    written = load_file(folder / "weights.safetensors")
    assert all(torch.equal(tensor, written[name]) for name, tensor in policy.network.state_dict().items())


def test_a_policy_goes_on_after_its_file_was_written_over(folder):
    """In a process of its own, which a bus error would end."""
    program = (
        "import sys; from timar_ros.model.checkpoint import load_policy; policy = load_policy(sys.argv[1])\n"
        "open(sys.argv[1] + '/weights.safetensors', 'wb').close()\n"
        "print(sum(float(tensor.abs().sum()) for tensor in policy.network.state_dict().values()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) > 0, done.stderr


def test_a_missing_folder_names_those_that_are_there(folder):
    with pytest.raises(TimarError, match=r"no policy folder at .*other; .* holds small; give the name"):
        load_policy(folder.parent / "other")


@pytest.mark.parametrize("name", ["config.yaml", "weights.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(TimarError, match=f"{name} is missing"):
        load_policy(folder)


@pytest.mark.parametrize("kept", [0, 7, 5000])
def test_half_written_weights_are_refused(folder, kept):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(TimarError, match="no whole safetensors file .* copy the policy folder again"):
        load_policy(folder)


@pytest.mark.parametrize("value", [".nan", ".inf", "-0.1", "1e9"])
@pytest.mark.parametrize("name", ["head_temperature", "mouth_correlation_frames", "mouth_gain", "nod_threshold"])
def test_sampling_that_cannot_be_meant_is_refused(folder, name, value):
    edit_config(folder, sampling={name: yaml.safe_load(value)})
    with pytest.raises(TimarError, match=f"section 'sampling' of config.yaml is wrong: {name} is"):
        load_policy(folder).sampling_as(Sampling)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_read_as_float32(folder, dtype):
    path = folder / "weights.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    assert {tensor.dtype for tensor in load_policy(folder).network.state_dict().values()} == {torch.float32}


def test_a_partner_whose_face_training_data_did_not_tell_of_has_an_infinite_scale_and_nothing_else_has(folder):
    path = folder / "weights.safetensors"
    weights = load_file(path)
    weights["partner_scale"][5] = torch.inf
    save_file(weights, path)
    assert load_policy(folder).network.partner_scale[5] == torch.inf
    weights["partner_scale"][5] = torch.nan
    save_file(weights, path)
    with pytest.raises(TimarError, match="partner_scale holds numbers that are not finite"):
        load_policy(folder)


def test_sampling_that_is_no_list_of_names_is_refused(folder):
    edit_config(folder, sampling=[1.0])
    with pytest.raises(TimarError, match="section 'sampling' of config.yaml is wrong"):
        load_policy(folder).sampling_as(Sampling)


def test_a_half_written_config_is_refused(folder):
    config = folder / "config.yaml"
    config.write_bytes(config.read_bytes()[:60])
    with pytest.raises(TimarError, match="config.yaml"):
        load_policy(folder)


def test_weights_of_the_wrong_shape_are_named(folder):
    edit_config(folder, network=SMALL.to_dict() | {"width": 64})
    with pytest.raises(TimarError, match=r"has the shape \[.*\], config.yaml asks for \[.*\]"):
        load_policy(folder)


def test_missing_and_unexpected_weights_are_named(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["stranger"] = weights.pop("unseen_token")
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(TimarError, match="missing unseen_token; unexpected stranger"):
        load_policy(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["unseen_token"][0] = float("nan")
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(TimarError, match="unseen_token holds numbers that are not finite"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "timar_ros/9"}, "this version of timar_ros reads 'timar_ros/1'"),
        ({"channels": ["jawOpen"]}, "must list the 55 names"),
        ({"network": SMALL.to_dict() | {"blocks": 0}}, "a whole number from 1 to 64 is allowed"),
        ({"network": SMALL.to_dict() | {"max_turn_frames": 12}}, "a whole number from 25 to 100 is allowed"),
        ({"network": SMALL.to_dict() | {"heads": 5}}, "must be an even whole number"),
        ({"network": {"width": 32}}, "lacks"),
        ({"network": 3}, "must be a mapping"),
    ],
)
def test_a_wrong_config_is_refused_with_what_is_allowed(folder, changes, sentence):
    edit_config(folder, **changes)
    with pytest.raises(TimarError, match=sentence):
        load_policy(folder)
