from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from reference.network import CONFIDENCE_WEIGHT, CONFIDENT_M, LENGTH_M, Network, gaussian, loss_and_delta, sigmoid

RNG = np.random.default_rng(1)
OUTPUTS = RNG.normal(0.0, 0.7, (6, 6)).astype(np.float32)
TRUTH = RNG.normal(0.0, 0.5, (6, 2)).astype(np.float32)


def test_loss_is_gaussian_likelihood_plus_cross_entropy() -> None:
    """The loss equals scipy's multivariate normal and the Bernoulli log-likelihood, up to the constant ln 2π."""
    mean_m, covariance_m2 = gaussian(OUTPUTS)
    density = sum(
        multivariate_normal(mean / LENGTH_M, covariance / LENGTH_M**2).logpdf(truth)
        for mean, covariance, truth in zip(mean_m, covariance_m2, TRUTH, strict=True)
    )
    hit = np.hypot(*(OUTPUTS[:, :2] - TRUTH).T) * LENGTH_M < CONFIDENT_M
    probability = 1.0 / (1.0 + np.exp(-OUTPUTS[:, 5]))
    entropy = -np.log(np.where(hit, probability, 1.0 - probability)).sum()
    loss, _ = loss_and_delta(OUTPUTS, TRUTH)
    assert hit.any()
    assert not hit.all()
    assert len(TRUTH) * loss == pytest.approx(
        -density - len(TRUTH) * np.log(2.0 * np.pi) + CONFIDENCE_WEIGHT * entropy, rel=1e-5
    )


def test_output_gradient_matches_central_differences() -> None:
    """The derivative by hand is that of the loss, for all six outputs."""
    outputs, truth = OUTPUTS.astype(np.float64), TRUTH.astype(np.float64)
    _, delta = loss_and_delta(outputs, truth)  # type: ignore[arg-type]  # double precision, to difference finely
    for index in np.ndindex(*outputs.shape):
        step = np.zeros_like(outputs)
        step[index] = 1e-6
        upper, lower = loss_and_delta(outputs + step, truth)[0], loss_and_delta(outputs - step, truth)[0]  # type: ignore[arg-type]  # as above
        assert delta[index] == pytest.approx((upper - lower) / 2e-6, abs=1e-6)


def test_weight_gradient_predicts_the_change_of_the_loss() -> None:
    """Back-propagation through both layers: a small step along any weights changes the loss as predicted."""
    network = Network(14, 8, np.random.default_rng(2))
    inputs = RNG.standard_normal((64, 14)).astype(np.float32)
    truth = RNG.standard_normal((64, 2)).astype(np.float32)
    gradient, scratch = np.zeros_like(network.flat), np.zeros_like(network.flat)
    network.loss_gradient(inputs, truth, gradient)
    for part in range(6):
        direction = np.zeros_like(network.flat)
        network.views(direction)[part][...] = network.views(gradient)[part]
        step = np.float32(1e-3) * direction / np.linalg.norm(direction)
        network.flat += step
        upper = network.loss_gradient(inputs, truth, scratch)
        network.flat -= 2 * step
        lower = network.loss_gradient(inputs, truth, scratch)
        network.flat += step
        assert upper - lower == pytest.approx(2.0 * float(step @ gradient), rel=0.02)


def test_covariance_is_the_inverse_of_the_precision() -> None:
    """Σ·LᵀL is the identity for the closed form."""
    _, covariance_m2 = gaussian(OUTPUTS)
    for (_, _, a, b, c, _), covariance in zip(OUTPUTS.astype(np.float64), covariance_m2 / LENGTH_M**2, strict=True):
        factor = np.array([[np.exp(a), 0.0], [b, np.exp(c)]])
        assert covariance @ factor.T @ factor == pytest.approx(np.eye(2), abs=1e-9)


@given(st.floats(-1e4, 1e4))
def test_sigmoid_is_a_probability(logit: float) -> None:
    """No logit overflows, and mirrored logits add up to one."""
    value, mirrored = sigmoid(np.array([logit, -logit], dtype=np.float32))
    assert 0.0 <= value <= 1.0
    assert value + mirrored == pytest.approx(1.0, abs=1e-6)
