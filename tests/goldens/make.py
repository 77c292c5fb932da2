"""Writes small.h5, reference values for tests/test_goldens.lua: right ones, and wrong ones of every kind
that the runner must notice. Needs h5py and numpy: python3 tests/goldens/make.py tests/goldens/small.h5"""
import json
import sys

import h5py
import numpy as np

rng = np.random.default_rng(3)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def case(root, name, op, config, inputs=None, params=None, out=None, grad=None):
    g = root.create_group("%03d_%s" % (len(root) + 1, name))
    g.attrs["op"], g.attrs["config"] = np.bytes_(op), np.bytes_(json.dumps(config))
    for group, tensors in (("in", inputs), ("param", params), ("out", out), ("grad", grad)):
        for key, value in (tensors or {}).items():
            value, how = value if isinstance(value, tuple) else (value, {})
            d = g.create_dataset(group + "/" + key, data=value)
            if group in ("out", "grad"):
                how = {"compare": "close", "rtol32": 1e-4, "atol32": 1e-5, **how}
            for k, v in how.items():
                d.attrs[k] = np.bytes_(v) if isinstance(v, str) else v


def main(path):
    x, w, b, c = f32(3, 4), f32(2, 4), f32(2), f32(3, 2)
    y = x @ w.T + b
    given = {"input": x, "_cotangent": c}
    params = {"weight": w, "bias": b}
    right = {"input": c @ w, "weight": c.T @ x, "bias": c.sum(0)}
    with h5py.File(path, "w") as root:
        case(root, "right", "linear", {}, given, params, {"out": y}, right)
        case(root, "wrong_value", "linear", {}, given, params, {"out": y + 1e-3}, right)
        spoilt = {**right, "bias": right["bias"] * 1.01}
        case(root, "wrong_gradient", "linear", {}, given, params, {"out": y}, spoilt)
        case(root, "wrong_shape", "linear", {}, given, params, {"out": y.reshape(2, 3)})
        case(root, "nan", "log", {}, {"input": np.array([1.0, -1.0])}, None, {"out": np.array([0.0, 0.0])})
        case(root, "unknown_op", "frobnicate", {}, {"input": x}, None, {"out": x})
        case(root, "unknown_option", "conv2d", {"padding_mode": "circular"}, {"input": f32(1, 1, 3, 3)},
             {"weight": f32(1, 1, 3, 3)}, {"out": f32(1, 1, 1, 1)})
        exact = {"compare": "exact", "rtol32": 0.0, "atol32": 0.0}
        case(root, "exact", "sign", {}, {"input": x}, None, {"out": (np.sign(x), exact)})
        case(root, "not_exact", "sign", {}, {"input": x}, None, {"out": (np.sign(x) * (1 - 1e-9), exact)})
        off = x + 1e-3
        l2 = {"compare": "l2", "rtol32": 0.0, "atol32": 1.001e-3 * np.sqrt(x.size)}
        case(root, "l2", "neg", {}, {"input": x}, None, {"out": (-off, l2)})
        less = {**l2, "atol32": 0.99e-3 * np.sqrt(x.size)}
        case(root, "not_l2", "neg", {}, {"input": x}, None, {"out": (-off, less)})
        match = {"fake0": x, "real0": off, "_cotangent": np.array(1.0)}
        how = {"layers": [0], "weights": [2.0]}
        g = 2.0 * np.sign(x - off) / x.size
        case(root, "missing_is_zero", "feature_matching", how, match, None, {"out": np.array(2e-3)},
             {"fake0": g, "real0": g * 0})
        case(root, "missing_is_not_zero", "feature_matching", how, match, None, {"out": np.array(2e-3)},
             {"fake0": g, "real0": -g})
        null = {"null": 1, "atol32": 1e-6}
        case(root, "contradiction", "sign", {}, {"input": x, "_cotangent": x}, None, {"out": np.sign(x)},
             {"input": (x, null)})
        case(root, "not_computed", "exp", {}, {"input": x}, None, {"out": np.exp(x), "other": x})


main(sys.argv[1])
