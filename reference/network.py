"""The network: 14 log powers in, a Gaussian over the plane and a confidence out, with its gradient by hand.

What belongs here: weights, forward pass, loss and gradient. What does not: data, the optimiser, ONNX.

With residual r = μ − truth and the precision's Cholesky factor L = [[e^a, 0], [b, e^c]], Λ = LᵀL, the loss is

    −ln N(truth; μ, Λ⁻¹) + const = ½|L r|² − a − c

plus a multiple of the cross-entropy of the confidence against 1[|r| < 20 km], whose target takes no gradient (Nix &
Weigend 1994 for the likelihood as loss; Williams 1996 for the Cholesky form). Lengths are in units of `LENGTH_M`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reference.arrays import F32, F64

LENGTH_M = 50_000.0
"""The network's unit of length, so that its outputs are of order one."""

CONFIDENT_M = 20_000.0
"""The confidence is the probability that the error is smaller than this."""

CONFIDENCE_WEIGHT = 3.0
"""Weight of the cross-entropy. At one, rare low confidences are learned last; at three their reliability error falls by
a third and the position's likelihood by 0.005."""

OUTPUTS = 6
"""μ_east, μ_north, a, b, c and the confidence's logit."""


class Network:
    """Two hidden layers of tanh units. All weights live in one flat FP32 vector, so that Adam is one expression."""

    def __init__(self, inputs: int, width: int, rng: np.random.Generator) -> None:
        self.shapes = ((inputs, width), (width,), (width, width), (width,), (width, OUTPUTS), (OUTPUTS,))
        self.flat: F32 = np.zeros(sum(int(np.prod(shape)) for shape in self.shapes), dtype=np.float32)
        self.weights = self.views(self.flat)
        for matrix in self.weights[::2]:
            matrix[...] = rng.standard_normal(matrix.shape) / np.sqrt(matrix.shape[0])

    def views(self, flat: F32) -> list[F32]:
        """`flat` cut into the layers' matrices and biases, without copies."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, inputs: F32) -> tuple[F32, F32, F32]:
        """Activations of both hidden layers and the outputs [K,6] for standardised inputs [K,14]."""
        w1, b1, w2, b2, w3, b3 = self.weights
        first = np.tanh(inputs @ w1 + b1)
        second = np.tanh(first @ w2 + b2)
        return first, second, second @ w3 + b3

    def loss_gradient(self, inputs: F32, truth: F32, gradient: F32) -> float:
        """Mean loss of a batch; writes its gradient into the flat vector `gradient`.

        Args:
            inputs: [K,14] standardised log powers.
            truth: [K,2] east, north in units of `LENGTH_M`.
            gradient: Overwritten.
        """
        first, second, outputs = self.forward(inputs)
        loss, delta = loss_and_delta(outputs, truth)
        g1, gb1, g2, gb2, g3, gb3 = self.views(gradient)
        _, _, w2, _, w3, _ = self.weights
        _layer_gradient(second, delta, g3, gb3)
        delta = (delta @ w3.T) * (1.0 - second * second)
        _layer_gradient(first, delta, g2, gb2)
        delta = (delta @ w2.T) * (1.0 - first * first)
        _layer_gradient(inputs, delta, g1, gb1)
        return loss


def loss_and_delta(outputs: F32, truth: F32) -> tuple[float, F32]:
    """Mean loss of outputs [K,6] against truth [K,2], and its derivative with respect to the outputs."""
    east, north = (outputs[:, :2] - truth).T
    a, b, c, logit = outputs[:, 2:].T
    whitened_east = np.exp(a) * east
    stretched_north = np.exp(c) * north
    whitened_north = b * east + stretched_north
    probability = sigmoid(logit)
    hit = np.hypot(east, north) * LENGTH_M < CONFIDENT_M
    likelihood = 0.5 * (whitened_east**2 + whitened_north**2) - a - c
    entropy = np.logaddexp(0.0, logit) - hit * logit
    delta = np.empty_like(outputs)
    delta[:, 0] = whitened_east * np.exp(a) + whitened_north * b
    delta[:, 1] = whitened_north * np.exp(c)
    delta[:, 2] = whitened_east**2 - 1.0
    delta[:, 3] = whitened_north * east
    delta[:, 4] = whitened_north * stretched_north - 1.0
    delta[:, 5] = CONFIDENCE_WEIGHT * (probability - hit)
    delta /= len(outputs)
    return float(np.mean(likelihood + CONFIDENCE_WEIGHT * entropy)), delta


def sigmoid(logit: F32) -> F32:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)), dtype=np.float32)


def gaussian(outputs: F32) -> tuple[F64, F64]:
    """Means [K,2] in metres and covariances [K,2,2] in m² that the outputs [K,6] stand for: Σ = (LᵀL)⁻¹."""
    a, b, c = outputs[:, 2:5].astype(np.float64).T
    covariance = np.empty((len(outputs), 2, 2))
    covariance[:, 0, 0] = np.exp(-2.0 * a)
    covariance[:, 0, 1] = covariance[:, 1, 0] = -b * np.exp(-2.0 * a - c)
    covariance[:, 1, 1] = np.exp(-2.0 * c) * (1.0 + b**2 * np.exp(-2.0 * a))
    return outputs[:, :2].astype(np.float64) * LENGTH_M, covariance * LENGTH_M**2


def _layer_gradient(inputs: F32, delta: F32, matrix: F32, bias: F32) -> None:
    np.matmul(inputs.T, delta, out=matrix)
    np.sum(delta, axis=0, out=bias)
