"""Reduced precision: near float32, chosen by what the machine is fast in, and refused where it cannot be."""

import copy
import pickle

import numpy as np
import pytest
import torch

from timar_ros.errors import TimarError
from timar_ros.model import precision
from timar_ros.model.checkpoint import load_policy
from timar_ros.model.precision import BFLOAT16, FLOAT32, INT8, set_precision, to_float32
from timar_ros.model.published import TOKENS, PublishedConfig, PublishedNetwork
from timar_ros.model.wav2vec2 import SpeechConfig
from timar_ros.replay.offline import hear, move
from timar_ros.resources import share_path
from timar_ros.sound_files import read_voice
from timar_ros.stream.policy import IncrementalPolicy
from timar_ros.stream.sampling import Sampling

CPU = torch.device("cpu")
ALLOWED = 0.03
SPEECH = SpeechConfig(width=128, layers=4, heads=4, intermediate=512, conv_width=64, position_kernel=16)


@pytest.fixture(scope="module")
def network() -> PublishedNetwork:
    torch.manual_seed(0)
    config = PublishedConfig(token_width=256, motion_hidden=128, width=256, blocks=16, heads=4, speech=SPEECH)
    made = PublishedNetwork(config).eval().requires_grad_(False)
    for position in (made.encoder_pos_embed_learned, made.diffusion_pos_embed_learned, made.mask_token):
        torch.nn.init.normal_(position, std=0.02)
    return made


def z_of(network: PublishedNetwork) -> torch.Tensor:
    """z of the fourth of four turns, from audio on."""
    generator = torch.Generator().manual_seed(1)
    config = network.config
    dtype = network.encoder_blocks[0].dtype
    head_width = config.width // config.heads
    cache = torch.zeros(config.blocks, 2, 1, config.heads, config.window_turns * TOKENS, head_width, dtype=dtype)
    yes, no = torch.ones(25, dtype=torch.bool), torch.zeros(25, dtype=torch.bool)
    for place in range(4):
        user, agent = network.speech_tokens(torch.randn(2, 16_000, generator=generator))
        motion = torch.randn(2, 25, 56, generator=generator)
        turn = network.turn(user, motion[0], agent, motion[1], yes, yes, no)
        z = network.encode(turn[None], place, cache)
    return z.float()


@pytest.mark.parametrize("reduced", [BFLOAT16, INT8])
def test_z_is_within_three_percent_of_float32(network, reduced):
    exact, coarse = copy.deepcopy(network), copy.deepcopy(network)
    assert set_precision(coarse, reduced, CPU) == reduced
    wanted = z_of(exact)
    error = float((z_of(coarse) - wanted).norm() / wanted.norm())
    print(f"\nrelative error of z in {reduced}: {100 * error:.2f} %")
    assert 0 < error < ALLOWED


@pytest.mark.parametrize(
    ("times", "chosen"),
    [((3.0, 1.0, 2.0), BFLOAT16), ((3.0, 2.8, 0.5), FLOAT32), ((1.0, 2.0, 3.0), FLOAT32)],
)
def test_auto_takes_what_is_worthwhile_faster(network, monkeypatch, times, chosen):
    seconds = dict(zip((FLOAT32, BFLOAT16, INT8), times, strict=True))
    monkeypatch.setattr(precision, "_seconds", lambda width, heads, name: seconds[name])
    precision._fastest_on_cpu.cache_clear()
    large = copy.deepcopy(network)
    assert set_precision(large, "auto", CPU) == chosen
    precision._fastest_on_cpu.cache_clear()
    assert large.encoder_norm.weight.dtype == torch.float32
    if chosen == BFLOAT16:
        assert large.encoder_blocks[0].attn.qkv.weight.dtype == torch.bfloat16


def test_what_is_measured_is_a_time_and_measured_once():
    assert precision._seconds(64, 2, BFLOAT16) > 0
    assert precision._fastest_on_cpu(64, 2, 1) == precision._fastest_on_cpu(64, 2, 1)
    assert precision._fastest_on_cpu.cache_info().hits >= 1


def test_the_bundled_policy_in_bfloat16_moves_as_in_float32():
    own, partner = (read_voice(share_path("demo", f"{party}.ogg"))[: 16_000 * 8] for party in ("self", "partner"))
    heard, still = hear(own, partner), Sampling.mean()
    exact, coarse = (
        move(IncrementalPolicy(load_policy("default"), "cpu", sampling=still, precision=p), heard)
        for p in (FLOAT32, BFLOAT16)
    )
    spread = np.linalg.norm(exact - exact.mean(axis=0))
    error = float(np.linalg.norm(coarse - exact) / spread)
    print(f"\nmotion in bfloat16: {100 * error:.1f} % of its spread from float32's")
    assert 0 < error < ALLOWED


def test_a_network_shared_by_several_heads_keeps_one_precision(network):
    shared = copy.deepcopy(network)
    set_precision(shared, BFLOAT16, CPU)
    assert set_precision(shared, "auto", CPU) == BFLOAT16
    with pytest.raises(TimarError, match="already brought to bfloat16; load the policy again for int8"):
        set_precision(shared, INT8, CPU)


def test_weights_in_bfloat16_give_the_same_bits_packed_copied_and_unpacked():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU does not pack bfloat16")
    plain = torch.nn.Linear(24, 40).bfloat16().requires_grad_(False)
    packed = precision.PackedLinear(plain)
    x = torch.randn(3, 24).bfloat16()
    assert packed.weight.is_mkldnn
    copied = copy.deepcopy(packed)
    again = pickle.loads(pickle.dumps(packed))
    for layer in (packed, copied, again, precision.PackedLinear(copied)):
        assert torch.equal(layer(x), plain(x))
    assert torch.equal(packed.float()(x.float()), plain.float()(x.float()))


def test_bfloat16_can_be_left_again(network):
    back = copy.deepcopy(network)
    set_precision(back, BFLOAT16, CPU)
    to_float32(back)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}
    wanted = z_of(network)
    assert (z_of(back) - wanted).norm() / wanted.norm() < ALLOWED


@pytest.mark.parametrize(
    ("name", "device", "said"),
    [("half", "cpu", "auto, float32, bfloat16, int8 are allowed"), (INT8, "cuda", "int8 is for the CPU")],
)
def test_what_cannot_be_is_refused(network, name, device, said):
    with pytest.raises(TimarError, match=said):
        set_precision(copy.deepcopy(network), name, torch.device(device))
