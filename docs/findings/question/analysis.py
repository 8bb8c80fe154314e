"""The table, the contrasts and the figure of docs/findings.md, from the folders of its studies.

    python docs/findings/question/analysis.py --out docs/findings/question STUDY [STUDY ...] --bias FOLDER

`FOLDER` holds copies of runs on which `thermograd measure RUN --all --chain-bias` was run, named ARM-SEED.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from thermograd.study import load_study

DISTANCE = "distance:fd-classifier-mnist"
OTHER_OBJECTIVE = ("detached-p3",)
OTHER_PRIOR = ("short-run-prior",)
LONGER = ("vanilla-112",)
BELOW = ("detached-p3", "last-states", "multistate", "noise-c0", "stein")
CONTRASTS = (
    ("steps-20", "vanilla"),
    ("chains-4", "vanilla"),
    ("noise-c4", "noise-c0"),
    ("placebo", "vanilla"),
)


def final_rows(studies: list[Path]) -> pd.DataFrame:
    """Return the last rows on the test set of all runs."""
    table = pd.concat([load_study(study) for study in studies], ignore_index=True)
    return table[table["is_final"] & (table["split"] == "test")]


def paired(table: pd.DataFrame, a: str, b: str, quantity: str) -> dict[str, float]:
    """Return the mean of the paired differences, its 95 % interval by t, and the p-value of all sign flips."""
    wide = table.pivot_table(index="seed", columns="arm", values=quantity)
    difference = (wide[a] - wide[b]).dropna().to_numpy()
    from scipy import stats

    n, mean = len(difference), difference.mean()
    half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    flips = np.array(list(product((1, -1), repeat=n))) @ difference / n
    p = float((np.abs(flips) >= abs(mean) - 1e-9).mean())
    return {"a": a, "b": b, "n": n, "mean": mean, "low": mean - half, "high": mean + half, "p": p}


def chain_bias(folder: Path) -> pd.DataFrame:
    """Return the squared error of the mean of a visit and the variance within one, as shares of the gradient's square.

    A visit begins where the stored chains stand, so its mean holds their squared bias and what their places vary by.
    """
    rows = []
    for file in sorted(folder.glob("*/measurements.jsonl")):
        arm, seed = file.parent.name.rsplit("-", 1)
        for line in file.read_text().splitlines():
            record = json.loads(line)
            found = record["values"].get("chain_bias") if record["kind"] == "variance" else None
            if not found:
                continue
            block = found["blocks"]["generator"]
            reference = block["reference_mean_square"]["value"]
            rows.append(
                {
                    "arm": arm,
                    "seed": int(seed),
                    "step": record["step"],
                    "bias": block["squared_bias"]["value"] / reference,
                    "bias_low": block["squared_bias"]["low"] / reference,
                    "bias_high": block["squared_bias"]["high"] / reference,
                    "chain_variance": block["chain_variance"]["value"] / reference,
                    "log_likelihood_bias": (found["log_likelihood_bias"] or {}).get("value"),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Write arms.csv, contrasts.csv, bias.csv and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--bias", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    table = final_rows(options.studies)
    columns = [
        DISTANCE,
        "log_evidence",
        "reconstruction_mean_square_error",
        "evaluations_per_image",
        "seconds",
    ]
    arms = table.groupby("arm")[columns].mean()
    arms.insert(0, "runs", table.groupby("arm").size())
    arms.insert(2, "standard_error", table.groupby("arm")[DISTANCE].sem())
    bias = chain_bias(options.bias)
    ends = bias[bias["step"] == bias.groupby(["arm", "seed"])["step"].transform("max")]
    arms = arms.join(ends.groupby("arm")[["bias", "chain_variance", "log_likelihood_bias"]].mean())
    # Bias is measured without the noise of the dial, c ε (ĝ_A - ĝ_B)/2, which has c^2 times the variance of the mean.
    arms["chain_variance"] *= 1 + table.groupby("arm")["noise_multiplier"].first().fillna(0) ** 2
    arms.sort_values(DISTANCE).to_csv(options.out / "arms.csv", float_format="%.5g")
    bias.to_csv(options.out / "bias.csv", index=False, float_format="%.5g")
    table.to_csv(options.out / "results.csv", index=False, float_format="%.6g")
    contrasts = pd.DataFrame(
        [{"quantity": q, **paired(table, a, b, q)} for q in (DISTANCE, "log_evidence") for a, b in CONTRASTS]
    )
    contrasts.to_csv(options.out / "contrasts.csv", index=False, float_format="%.5g")
    print(arms.sort_values(DISTANCE).round(4).to_string(), contrasts.round(3).to_string(), sep="\n\n")
    draw(arms, options.out / "bias_and_variance.png")


def draw(arms: pd.DataFrame, file: Path) -> None:
    """Draw the distance against the error of a visit's mean and against the variance within one, a dot per arm."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, constrained_layout=True)
    for ax, quantity, label in zip(
        axes,
        ("bias", "chain_variance"),
        ("squared error of a visit's mean", "variance within a visit"),
        strict=True,
    ):
        for arm, row in arms.iterrows():
            if np.isnan(row.get(quantity, np.nan)):
                continue
            odd = arm in OTHER_OBJECTIVE + OTHER_PRIOR + LONGER
            colour = "#8a8a8a" if odd else "#1b6ca8"
            ax.errorbar(
                row[quantity], row[DISTANCE], row["standard_error"], fmt="o", color=colour, markersize=4
            )
            ax.annotate(
                str(arm),
                (row[quantity], row[DISTANCE]),
                xytext=(4, -9 if arm in BELOW else 3),
                textcoords="offset points",
                fontsize=7,
            )
        ax.set_xscale("log")
        ax.set_xticks([0.05, 0.1, 0.2, 0.5, *([1, 2] if quantity == "chain_variance" else [])])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.set_ylim(0, None)
        ax.set_xlabel(f"{label}, share of the gradient's square")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("Fréchet distance to the test images")
    figure.savefig(file, dpi=160)


if __name__ == "__main__":
    main()
