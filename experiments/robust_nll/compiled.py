"""The regression experiments' training loops, compiled: one small problem at a time, whole in the processor's cache.

Through torch the paper's 10^5 iterations cost minutes per problem, nearly all of it overhead. :func:`check` compares
the gradients here with the package's own losses; the scripts call it before they train.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch

from robust_loc.losses import (
    RobustNLL,
    beta_nll,
    boltzmann_mean,
    chi_square_quantile,
    faithful_nll,
    gaussian_nll,
    squared_error,
)

MSE, NLL, BETA_NLL, FAITHFUL, OURS = range(5)
COMPONENTS, MEMORY, MOST_OUTLIERS = 8, 512, 0.55
_MEDIAN = chi_square_quantile(0.5, 1)
jit = numba.njit(fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")


@jit
def new_state() -> np.ndarray:  # type: ignore[no-untyped-def]
    """Shares, variance (0: not known), running log of the spread, number remembered, then the remembered z^2."""
    return np.zeros(COMPONENTS + 3 + MEMORY)


@jit
def _weighting(pool, state):  # type: ignore[no-untyped-def]
    """``ResidualMixture.fit`` for D = 1: temperature, mean weight, consistency."""
    shares, iterations, variance = state[:COMPONENTS], 2, state[COMPONENTS]
    if variance == 0:
        shares[:] = 0.3 / (COMPONENTS - 1)
        shares[0] = 0.7
        variance, iterations = np.sort(pool)[(len(pool) - 1) // 2] / _MEDIAN, 10
    part, count = np.empty(COMPONENTS), np.empty(COMPONENTS)
    for _ in range(iterations):
        variance = max(variance, 1e-30)
        count[:], energy = 0, 0.0
        for square in pool:
            kernel, total = math.exp(square / (-2 * 4.0 ** (COMPONENTS - 1) * variance)), 0.0
            for k in range(COMPONENTS - 1, -1, -1):
                part[k] = max(shares[k], 1e-8) * 0.5**k * kernel
                kernel *= kernel
                kernel *= kernel
            part[COMPONENTS - 1] += 1e-30
            for k in range(COMPONENTS):
                total += part[k]
            for k in range(COMPONENTS):
                count[k] += part[k] / total
            energy += part[0] / total * square
        variance = energy / max(count[0], 1e-30)
        outliers = 1 - count[0] / len(pool)
        factor = min(1.0, MOST_OUTLIERS / max(outliers, 1e-30))
        for k in range(1, COMPONENTS):
            shares[k] = count[k] / len(pool) * factor
        shares[0] = 1 - outliers * factor
    variance = max(variance, 1e-30)
    state[COMPONENTS] = variance
    best, answer = np.inf, (0.0, 1.0, 1.0)
    for number in range(33):
        T = 2.0 ** (-2 + 12 * number / 32)
        w = wz = wzz = ww = wwz = wwzz = 0.0
        for k in range(COMPONENTS):
            ladder = 4.0**k
            one, two = ladder / (1 + ladder / T), ladder / (1 + 2 * ladder / T)
            p1, p2 = shares[k] * math.sqrt(one / ladder), shares[k] * math.sqrt(two / ladder)
            w += p1
            wz += p1 * one
            wzz += 3 * p1 * one * one
            ww += p2
            wwz += p2 * two
            wwzz += 3 * p2 * two * two
        k = w / wz
        slope = k * wz + (wz - k * wzz) / (2 * T)
        cost = wwz / (w - wz / T) ** 2 + 0.5 * (ww - 2 * k * wwz + k * k * wwzz) / slope**2
        if cost < best:
            best, answer = cost, (T * variance, w, k)
    return answer


@jit
def gradient(kind, temperature, beta, state, mean, log_variance, target, d_mean, d_log_variance):  # type: ignore[no-untyped-def]
    """Gradients of one batch's loss with respect to mean and log-variance; ``temperature`` 0 is the plain mean.

    Otherwise the loss is the published Boltzmann mean; ``OURS`` is ``RobustNLL()`` and uses neither number.
    """
    count = len(mean)
    for i in range(count):
        variance, error = math.exp(log_variance[i]), mean[i] - target[i]
        square = error * error / variance
        scale = variance**beta if kind == BETA_NLL else 1.0
        d_log_variance[i] = 0.0 if kind == MSE else 0.5 * (1 - square) * scale
        d_mean[i] = 2 * error if kind == MSE else error if kind == FAITHFUL else error / variance * scale
    if kind == OURS:
        known = int(state[COMPONENTS + 2])
        recent = state[COMPONENTS + 3 :]
        pool = np.empty(known + count)
        pool[:known] = recent[:known]
        spread = 0.0
        for i in range(count):
            error = mean[i] - target[i]
            pool[known + i] = error * error * math.exp(-log_variance[i])
            spread += log_variance[i] / count
        share = 1.0 if known == 0 else count / (count + MEMORY)
        state[COMPONENTS + 1] += share * (spread - state[COMPONENTS + 1])
        T, mean_weight, consistency = _weighting(pool, state)
        for i in range(count):
            square = pool[known + i]
            weight = math.exp(-square / (2 * T)) / mean_weight / count
            d_mean[i] = weight * consistency * (mean[i] - target[i]) * math.exp(-state[COMPONENTS + 1])
            d_log_variance[i] = 0.5 * weight * (1 - consistency * square)
        kept = min(MEMORY, known + count)
        recent[:kept] = pool[len(pool) - kept :]
        state[COMPONENTS + 2] = kept
    elif temperature > 0:
        losses = np.empty(count)
        for i in range(count):
            variance, error = math.exp(log_variance[i]), mean[i] - target[i]
            if kind == MSE:
                losses[i] = error * error
            else:
                losses[i] = 0.5 * (log_variance[i] + error * error / variance)
                losses[i] *= variance**beta if kind == BETA_NLL else 1.0
        weights = np.exp((losses.min() - losses) / temperature)
        weights /= weights.sum()
        average = (weights * losses).sum()
        for i in range(count):
            alpha = weights[i] * (1 + (average - losses[i]) / temperature)  # eq. 6-7
            d_mean[i] *= alpha
            d_log_variance[i] *= alpha
    else:
        for i in range(count):
            d_mean[i] /= count
            d_log_variance[i] /= count


@jit
def _adam(parameter, gradient, first, second, step, rate):  # type: ignore[no-untyped-def]
    correction = math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    for i in range(len(parameter)):
        g = gradient[i]
        first[i] = 0.9 * first[i] + 0.1 * g
        second[i] = 0.999 * second[i] + 0.001 * g * g
        parameter[i] -= rate * correction * first[i] / (math.sqrt(second[i]) + 1e-8 * correction)
        gradient[i] = 0


@jit
def _forward(network, x, out):  # type: ignore[no-untyped-def]
    """A 1-H-1 ReLU network: H slopes, H biases, H output weights, one output bias, in one array."""
    hidden = len(network) // 3
    for i in range(len(x)):
        total = network[-1]
        for h in range(hidden):
            total += max(x[i] * network[h] + network[hidden + h], np.float32(0)) * network[2 * hidden + h]
        out[i] = total


@jit
def _backward(network, x, d_out, d_network):  # type: ignore[no-untyped-def]
    hidden = len(network) // 3
    for i in range(len(x)):
        g, value = np.float32(d_out[i]), x[i]
        d_network[-1] += g
        for h in range(hidden):
            unit = value * network[h] + network[hidden + h]
            on = np.float32(1) if unit > 0 else np.float32(0)
            d_network[2 * hidden + h] += g * unit * on
            through = g * network[2 * hidden + h] * on
            d_network[hidden + h] += through
            d_network[h] += through * value


@jit
def log_softplus(value: float) -> float:
    return value if value < -15 else math.log(math.log1p(math.exp(-abs(value))) + max(value, 0.0))


@jit
def train_networks(  # type: ignore[no-untyped-def]
    kind, temperature, x, y, networks, iterations, batch, warm_up, decay, seed, milestones, points
):
    """Adam on a mean and a variance network (2, 3H + 1); answers (milestones, 2, points): mean and log-variance."""
    generator = 12345 + 1000 * seed
    state = new_state()
    first, second, slopes = np.zeros((3, *networks.shape), np.float32)
    answers, done = np.empty((len(milestones), 2, len(points)), np.float32), 0
    inputs, target = np.empty(batch, np.float32), np.empty(batch)
    out, d_mean, d_raw = np.empty((2, batch)), np.empty(batch), np.empty(batch)
    log_variance = np.empty(batch)
    for iteration in range(iterations):
        for i in range(batch):
            generator = (generator * 48271) % 2147483647  # Park and Miller's minimal standard
            chosen = generator % len(x)
            inputs[i], target[i] = x[chosen], y[chosen]
        rate = 1e-2
        if decay:
            rate *= 0.501 + 0.5 * math.cos(math.pi * max(0.0, 2 * iteration / iterations - 1))
        _forward(networks[0], inputs, out[0])
        if iteration < warm_up:
            gradient(MSE, 0.0, 0.5, state, out[0], log_variance, target, d_mean, d_raw)
        else:
            _forward(networks[1], inputs, out[1])
            for i in range(batch):
                log_variance[i] = log_softplus(out[1, i])
            gradient(kind, temperature, 0.5, state, out[0], log_variance, target, d_mean, d_raw)
            for i in range(batch):  # d log softplus(r) / dr = sigmoid(r) / softplus(r)
                d_raw[i] *= math.exp(-log_variance[i]) / (1 + math.exp(-out[1, i])) if out[1, i] > -15 else 1.0
            _backward(networks[1], inputs, d_raw, slopes[1])
            _adam(networks[1], slopes[1], first[1], second[1], iteration - warm_up + 1, rate)
        _backward(networks[0], inputs, d_mean, slopes[0])
        _adam(networks[0], slopes[0], first[0], second[0], iteration + 1, rate)
        if iteration + 1 == milestones[done]:
            _forward(networks[0], points, answers[done, 0])
            _forward(networks[1], points, answers[done, 1])
            for i in range(len(points)):
                answers[done, 1, i] = log_softplus(answers[done, 1, i])
            done += 1
    return answers


def check(batches: int = 6, batch: int = 200) -> float:
    """Largest difference from autograd through the package's losses; AssertionError above 1e-5."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        (MSE, 0.0),
        (NLL, 0.0),
        (BETA_NLL, 0.0),
        (FAITHFUL, 0.0),
        (MSE, 1.0),
        (NLL, 16.0),
        (BETA_NLL, 1.0),
        (OURS, 0.0),
    ]
    per_sample = {NLL: gaussian_nll, BETA_NLL: beta_nll, FAITHFUL: faithful_nll}
    worst = 0.0
    for kind, temperature in cases:
        state, ours = new_state(), RobustNLL().double()
        for _ in range(batches):
            mean, log_variance, target = torch.randn(3, batch, generator=generator, dtype=torch.float64)
            target[::3] *= 20
            mean.requires_grad_()
            log_variance.requires_grad_()
            if kind == OURS:
                loss = ours(mean, log_variance, target)
            else:
                terms = per_sample[kind](mean, log_variance, target) if kind != MSE else squared_error(mean, target)
                loss = boltzmann_mean(terms, temperature) if temperature else terms.mean()
            loss.backward()
            found = np.empty((2, batch))
            values = [value.detach().numpy() for value in (mean, log_variance, target)]
            gradient(kind, temperature, 0.5, state, *values, *found)
            for value, one in zip((mean, log_variance), found):
                expected = np.zeros(batch) if value.grad is None else value.grad.numpy()
                worst = max(worst, float(np.abs(expected - one).max() / (1e-12 + np.abs(expected).max())))
    assert worst < 1e-5, f"the compiled gradients differ from the package's by {worst}"
    return worst


if __name__ == "__main__":
    print(f"largest difference from the package's losses: {check():.1e}")
