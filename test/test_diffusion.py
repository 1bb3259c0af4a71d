"""The diffusion head: schedule, sampling, training terms."""

import math

import pytest
import torch

from timar_ros.model.diffusion import (
    DiffusionHead,
    cosine_alpha_bar,
    make_schedule,
    sample,
    training_terms,
)


def head(motion_dim: int = 7, condition_dim: int = 12) -> DiffusionHead:
    torch.manual_seed(0)
    return DiffusionHead(motion_dim, condition_dim, width=16, depth=2).eval()


def test_five_steps_are_spread_from_first_to_last():
    assert make_schedule(5).original_step.tolist() == [0, 250, 500, 749, 999]


def test_signal_power_follows_the_cosine_where_beta_is_not_capped():
    alpha_bar = cosine_alpha_bar()
    for step in (0, 100, 500, 900):
        t = (step + 1) / 1000
        wanted = math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        assert alpha_bar[step] == pytest.approx(wanted, rel=1e-9)


def test_a_respaced_schedule_keeps_the_signal_power_of_the_kept_steps():
    full, kept = make_schedule(), make_schedule(5)
    assert torch.allclose(kept.sqrt_alpha_bar, full.sqrt_alpha_bar[kept.original_step])


@pytest.mark.parametrize("steps", [1, 0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="between 2 and 1000"):
        make_schedule(steps)


def test_equal_noise_gives_equal_motion_and_other_noise_another():
    z, noise = torch.randn(3, 12), torch.randn(5, 3, 7)
    first = sample(head(), make_schedule(5), z, noise)
    assert torch.equal(first, sample(head(), make_schedule(5), z, noise))
    assert not torch.allclose(first, sample(head(), make_schedule(5), z, -noise))


def test_at_temperature_zero_only_the_first_noise_counts():
    z, noise = torch.randn(3, 12), torch.randn(5, 3, 7)
    other = torch.cat([noise[:1], torch.randn(4, 3, 7)])
    schedule = make_schedule(5)
    assert torch.equal(sample(head(), schedule, z, noise, 0.0), sample(head(), schedule, z, other, 0.0))
    assert not torch.equal(sample(head(), schedule, z, noise), sample(head(), schedule, z, other))


def test_guidance_of_one_is_no_guidance():
    z, noise = torch.randn(3, 12), torch.randn(5, 3, 7)
    schedule = make_schedule(5)
    plain = sample(head(), schedule, z, noise)
    assert torch.equal(plain, sample(head(), schedule, z, noise, z_unconditional=-z, guidance=1.0))
    assert not torch.allclose(plain, sample(head(), schedule, z, noise, z_unconditional=-z, guidance=1.5))


def test_a_head_that_knows_the_truth_is_sampled_to_it():
    """With the true x0 as the prediction, the last step's mean is that x0 (its posterior weight on x_t is 0)."""
    truth = torch.randn(3, 7)

    class Oracle(DiffusionHead):
        def denoise(self, x_t, modulations):
            return truth, torch.zeros_like(x_t)

    oracle = Oracle(7, 12, 16, 2)
    assert torch.allclose(sample(oracle, make_schedule(5), torch.randn(3, 12), torch.randn(5, 3, 7)), truth, atol=1e-6)


def test_what_is_not_drawn_is_what_the_first_step_expects():
    z, noise, schedule = torch.randn(3, 12), torch.randn(5, 3, 7), make_schedule(5)
    undrawn = torch.arange(7) < 3
    drawn = sample(head(), schedule, z, noise)
    motion = sample(head(), schedule, z, noise, mean=undrawn)
    expected, _ = head()(noise[0], torch.full((3,), 999), z)
    assert torch.allclose(motion[:, undrawn], expected[:, undrawn], atol=1e-6)
    assert torch.equal(motion[:, ~undrawn], drawn[:, ~undrawn])


def test_with_the_schedules_own_variance_the_learned_one_does_not_count():
    class Sure(DiffusionHead):
        variance = 0.0

        def denoise(self, x_t, modulations):
            return 0.5 * x_t, torch.full_like(x_t, self.variance)

    sure, schedule = Sure(7, 12, 16, 2), make_schedule(5)
    z, noise = torch.randn(1000, 12), torch.randn(5, 1000, 7)
    low = sample(sure, schedule, z, noise, posterior=True)
    sure.variance = 40.0
    assert torch.equal(low, sample(sure, schedule, z, noise, posterior=True))
    assert sample(sure, schedule, z, noise).std() > 100 * low.std()
    sure.variance = -1.0
    assert torch.allclose(low, sample(sure, schedule, z, noise), atol=1e-6)


def test_training_lowers_the_error_and_the_variational_term():
    torch.manual_seed(1)
    network, schedule = head(), make_schedule()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    z = torch.randn(64, 12)
    x0 = z[:, :7].tanh()
    totals = []
    for _ in range(150):
        step, noise = torch.randint(0, 1000, (64,)), torch.randn(64, 7)
        error, variational = training_terms(network, schedule, x0, z, step, noise)
        loss = error.mean() + 0.01 * variational.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append((error.mean().item(), variational.mean().item()))
    first, last = (torch.tensor(part).mean(0) for part in (totals[:10], totals[-10:]))
    assert last[0] < 0.3 * first[0]
    assert last[1] < first[1]
