"""Tomorrow's volatility from the VIX, walked forward year by year, against simple forecasts.

    python examples/finance_volatility.py

Each year from 2005 on is forecast by models that saw the days before it alone: weights,
standardization, and how strongly they are shrunk, which is the strength that would have forecast
the years from 1997 to the one before best. The kind of network (32 tanh units, 10 epochs) was
chosen on 1997 to 2004. What is forecast is the change of the logarithm of the close to the next
day; the features of a day use nothing later than its close.

Errors are differences of logarithms times 100, near to percent of the VIX. Intervals are 95 %, by
a bootstrap of 2,000 draws of circular blocks of 22 days (Politis & Romano 1992).

Data: CBOE Volatility Index, daily since 1990, github.com/datasets/finance-vix; ODC-PDDL-1.0 by
its datapackage, whose maintainer takes the index to be in the public domain.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tabulate import tabulate

from hlserve.nn import AdamW, Network, build_for, fit, save

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SHRINKAGE = (0.0, 300.0, 1000.0, 3000.0, 10000.0)  # of the linear forecast
WEIGHT_DECAY = (1.0, 2.0, 5.0, 10.0)  # of the network
UNITS, EPOCHS, BLOCK, DRAWS = 32, 10, 22, 2000
Array = np.ndarray
Days = tuple[Array, Array, Array]  # features, changes, years
Forecast = Callable[[Array], Array]  # from the features of some days


def main() -> None:
    """Walks forward, prints the table and saves the last year's network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED / "data/finance/vix-daily.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/finance_volatility.safetensors"))
    parser.add_argument("--quick", action="store_true", help="two years and one seed: only a try")
    args = parser.parse_args()
    n_seeds, judged_from, tested_from = (1, 2024, 2025) if args.quick else (5, 1997, 2005)
    x, y, year = days = read(args.data)
    har, _ = walk(partial(linear, n_features=3), (0.0,), days, judged_from)
    best_linear, _ = walk(linear, SHRINKAGE, days, judged_from)
    network, decay = walk(partial(neural, n_seeds=n_seeds), WEIGHT_DECAY, days, judged_from)
    forecasts = {"naive": 0 * y, "HAR": har, "linear": best_linear, "network": network}
    tested, past = year >= tested_from, year < year[-1]
    print(f"VIX of the next day, {tested.sum()} days of {tested_from} to {year[-1]}")
    report({name: 100 * (y - forecast)[tested] for name, forecast in forecasts.items()})

    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(ensemble(x[past], y[past], decay, n_seeds), args.out)
    rows = args.out.with_suffix(".npz")
    np.savez(rows, x=x[past], y=y[past, None], x_test=x[~past], y_test=y[~past, None])
    print(f"\nhlserve compress {args.out} --data {rows} --max-drop 0.0001 --out models/volatility")


def read(path: Path) -> Days:
    """Features (days, 11), the change of log close to the next day, and the next day's year."""
    table = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(1, 2, 3, 4))
    year = np.loadtxt(path, delimiter=",", skiprows=1, usecols=0, dtype="U4").astype(int)
    opened, high, low, close = np.log(table.T)
    change = np.diff(close, prepend=np.nan)
    deviations = [close - last(close, size).mean(axis=1) for size in (5, 22, 66, 252)]
    changes, volatility = last(change, 3).T, last(change, 22).std(axis=1)
    columns = [close, *deviations, *changes, high - low, close - opened, volatility]
    x, y = np.stack(columns, axis=1)[:-1], change[1:]
    whole = np.isfinite(x).all(axis=1)
    return x[whole].astype(np.float32), y[whole].astype(np.float32), year[1:][whole]


def last(values: Array, size: int) -> Array:
    """The last ``size`` values on each day, (days, size); NaN where there are fewer."""
    padded = np.concatenate([np.full(size - 1, np.nan), values])
    return np.lib.stride_tricks.sliding_window_view(padded, size)


def walk(train: Callable, settings: tuple, days: Days, first: int) -> tuple[Array, float]:
    """Each year's forecasts by the setting that was best from ``first`` on; and the last one."""
    x, y, year = days
    forecasts, chosen, best = np.zeros((len(settings), len(y))), np.zeros(len(y)), 0
    for t in range(first, year[-1] + 1):
        past, now = year < t, year == t
        best = np.square(forecasts - y)[:, past & (year >= first)].sum(axis=1).argmin()
        for i, setting in enumerate(settings):
            forecasts[i, now] = train(x[past], y[past], setting)(x[now])
        chosen[now] = forecasts[best, now]
    return chosen, settings[best]


def linear(x: Array, y: Array, shrinkage: float, n_features: int = 11) -> Forecast:
    """Ridge regression; on the first three features without shrinkage HAR (Corsi 2009)."""
    used = x[:, :n_features].astype(np.float64)
    mean, deviation, level = used.mean(axis=0), used.std(axis=0), y.mean(dtype=np.float64)
    z = (used - mean) / deviation
    w = np.linalg.solve(z.T @ z + shrinkage * np.eye(n_features), z.T @ (y - level))
    return lambda rows: (rows[:, :n_features] - mean) / deviation @ w + level


def neural(x: Array, y: Array, weight_decay: float, n_seeds: int) -> Forecast:
    """The forecast of an ensemble."""
    network = ensemble(x, y, weight_decay, n_seeds)
    return lambda rows: network.predict(rows)["output"][:, 0]


def ensemble(x: Array, y: Array, weight_decay: float, n_seeds: int) -> Network:
    """The mean of networks that differ in their seeds, as one that is so many times as wide."""
    mean = build_for(f"mlp:{n_seeds * UNITS},tanh", x, y[:, None], task="regression")
    w1, b1, w2, b2 = (param.value for param in mean.params().values())
    b2[...] = 0.0
    for seed in range(n_seeds):
        member = build_for(f"mlp:{UNITS},tanh", x, y[:, None], task="regression", seed=seed)
        optimizer, size = AdamW(weight_decay=weight_decay), {"epochs": EPOCHS, "batch_size": 128}
        fit(member, x, y, validation=None, optimizer=optimizer, seed=seed, progress=False, **size)
        w, b, v, c = (param.value for param in member.params().values())
        units = slice(seed * UNITS, (seed + 1) * UNITS)
        w1[units], b1[units], w2[:, units] = w, b, v / n_seeds
        b2 += c / n_seeds
    return mean


def report(errors: dict[str, Array]) -> None:
    """A row a forecast, with how much smaller its RMSE is than those above; and the verdict."""
    rows = []
    for name, e in errors.items():
        gains = [gain(e, errors[other]) for other, *_ in rows]
        intervals = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*values) for values in gains]
        rows.append([name, np.sqrt(np.mean(e * e)), np.mean(np.abs(e)), *intervals])
    headers = ["forecast", "RMSE", "MAE", *(f"less than {row[0]}, %" for row in rows)]
    print(tabulate(rows, headers[:-1], floatfmt=".3f"))
    for other, (_, low, _) in zip(errors, gains, strict=False):
        print(f"The network {'beats' if low > 0 else 'does not beat'} {other}.")


def gain(ours: Array, theirs: Array) -> Array:
    """How much smaller our RMSE is, in percent, and its interval."""
    squares, days = np.square([ours, theirs], dtype=np.float64), np.arange(len(ours))
    of_block = squares[:, (days[:, None] + np.arange(BLOCK)) % len(days)].sum(axis=2)
    starts = np.random.default_rng(0).choice(days, (DRAWS, len(days) // BLOCK))
    sums = np.column_stack([squares.sum(axis=1), of_block[:, starts].sum(axis=2)])
    draws = 100 * (1 - np.sqrt(sums[0] / sums[1]))
    return np.array([draws[0], *np.quantile(draws[1:], [0.025, 0.975])])


if __name__ == "__main__":
    main()
