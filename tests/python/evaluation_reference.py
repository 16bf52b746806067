#!/usr/bin/env python3
"""Metrics of coders as numpy and scipy compute them, from their definitions: JSON in, JSON out."""
import json
import sys

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

given = json.load(sys.stdin)
array = lambda key: np.array(given[key], dtype=np.float64)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores(x):
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    return u[:, : int(np.argmax(share >= 0.99)) + 1]


def svcca(x, y):
    return np.linalg.svd(scores(x).T @ scores(y), compute_uv=False).mean()


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def rsa(x, y):
    return spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic


def best_correlation(a, b):
    """The largest correlation of each column of `a` with a column of `b` that is not 0 on one of its rows."""
    a_std, b_std = a.std(0) + 1e-8, b.std(0) + 1e-8
    correlation = ((a - a.mean(0)) / a_std).T @ ((b - b.mean(0)) / b_std) / len(a)
    together = (a != 0).T.astype(float) @ (b != 0) > 0
    return np.where(together, correlation, -np.inf).max(1)[(a != 0).any(0)]


def consistent_activation(codes, prompt):
    """Rows on which each column fires over prompts of so many rows in which it does, of columns that fire."""
    fires = (codes != 0).reshape(-1, prompt, codes.shape[1])
    rows, prompts = fires.sum((0, 1)), fires.any(1).sum(0)
    return rows[prompts > 0] / prompts[prompts > 0]


def r2(x, t):
    """Fitted on even rows with an intercept, judged on odd ones; by column, and the residual and total sums of squares."""
    with_one = np.hstack([x, np.ones((len(x), 1))])
    b, *_ = np.linalg.lstsq(with_one[::2], t[::2], rcond=1e-9)
    left = ((t[1::2] - with_one[1::2] @ b) ** 2).sum(0)
    whole = ((t[1::2] - t[1::2].mean(0)) ** 2).sum(0)
    return 1 - left / whole, left, whole


def bits(codes, bins):
    reach = np.sort(np.abs(codes[codes != 0]))
    reach = reach[int(np.ceil((len(reach) - 1) * 0.999))]
    total = 0.0
    for column in codes.T:
        active = np.abs(column[column != 0])
        p = len(active) / len(column)
        for q in (p, 1 - p):
            total -= q * np.log2(q) if q > 0 else 0
        if p > 0:
            places = np.minimum((active / reach * bins).astype(int), bins - 1)
            share = np.bincount(places, minlength=bins) / len(active)
            total -= p * np.sum(share[share > 0] * np.log2(share[share > 0]))
    return total


x, y = array("x"), array("y")
e = x - y
error_r2, left, whole = r2(x, e)
a, b = array("first"), array("second")
cosines = unit(a) @ unit(b).T
rows, columns = linear_sum_assignment(cosines, maximize=True)
first, second = array("first_codes"), array("second_codes")
json.dump(
    {
        "fvu": (e**2).sum() / ((x - x.mean(0)) ** 2).sum(),
        "explained_variance_centred": 1 - e.var(0).sum() / x.var(0).sum(),
        "explained_variance_by_row": (1 - (e**2).sum(1) / ((x - x.mean(0)) ** 2).sum(1)).mean(),
        "nmse": ((e**2).sum(1) / (x**2).sum(1)).mean(),
        "l2_ratio": (np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)).mean(),
        "error_r2": error_r2.mean(),
        "error_r2_pooled": 1 - left.sum() / whole.sum(),
        "error_norm_r2": r2(x, (e**2).sum(1, keepdims=True))[0][0],
        "input_norm_r2": r2(x, (x**2).sum(1, keepdims=True))[0][0],
        "mmcs_first_to_second": cosines.max(1).mean(),
        "mmcs_second_to_first": cosines.max(0).mean(),
        "paired_cosine": cosines[rows, columns].mean(),
        "svcca": svcca(a[:40], b[:40]),
        "cka": cka(a[:40], b[:40]),
        "rsa": rsa(a[:40], b[:40]),
        "rsa_mixed": rsa(a[:40], a[:40] + 0.5 * b[:40]),
        "correlation_first_to_second": best_correlation(first, second).mean(),
        "correlation_second_to_first": best_correlation(second, first).mean(),
        "bits_16": bits(first, 16),
        "l0": (first != 0).sum(1).mean(),
        "l0_p99": float(np.percentile((first != 0).sum(1), 99, method="inverted_cdf")),
        "normalized_l1": (np.abs(first).sum(1) / np.linalg.norm(x, axis=1)).mean(),
        "consistent_activation": consistent_activation(first, 20).mean(),
        "over_1_percent_mass": (first != 0).sum(0)[(first != 0).mean(0) > 0.01].sum() / (first != 0).sum(),
        "r2_scalar_mean": 1 - (e**2).sum() / ((x - x.mean()) ** 2).sum(),
        "hoyer": float(
            np.mean(
                [
                    (np.sqrt(len(c)) - np.abs(c).sum() / np.linalg.norm(c)) / (np.sqrt(len(c)) - 1)
                    for c in first
                    if np.any(c != 0)
                ]
            )
        ),
    },
    sys.stdout,
)
