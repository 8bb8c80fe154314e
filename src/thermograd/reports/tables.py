"""The tables of a report, one CSV each."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from thermograd.reports.collect import ReportData
from thermograd.reports.conclusions import Conclusions, baseline, final_values, noise_floor, paired
from thermograd.reports.rows import BATCHES, CHAIN_BIAS, NETWORKS, QUANTITIES, REFERENCE, of_source
from thermograd.reports.statistics import Interval, mean_interval, positive_interval
from thermograd.study.arms import ArmKind

if TYPE_CHECKING:
    import pandas as pd

MEASURED = (
    "log_evidence",
    "reconstruction_mean_square_error",
    "log_likelihood_at_posterior_draws",
    "distance_to_nearest_training_image_samples",
    "total_variance",
    "chain_variance",
    "batch_variance",
    "normalised_variance",
    "relative_squared_bias",
)


def compared_metrics(table: "pd.DataFrame") -> list[str]:
    """Return the metrics of the comparison of arms: all distances, then the rest that was measured."""
    distances = [str(name) for name in table.columns if str(name).startswith("distance:")]
    names = [*distances, *(name for name in MEASURED if name in table)]
    return [name for name in names if final_values(table, name)]


def differences(table: "pd.DataFrame", arms: Mapping[str, ArmKind]) -> "pd.DataFrame":
    """Return each arm's difference from the vanilla arm of its cell on each metric, the placebo's beside it."""
    import pandas as pd

    rows = []
    for metric in compared_metrics(table):
        values = final_values(table, metric)
        for arm in arms:
            other = baseline(arm, arms)
            seeds = paired(values, arm, other) if other else {}
            if not seeds:
                continue
            floor = noise_floor(values, arms, arm)
            rows.append(
                {"metric": metric, "arm": arm, "minus": other, "seeds": len(seeds)}
                | _columns(mean_interval(np.array(list(seeds.values()))), "difference")
                | _columns(floor or Interval(math.nan, math.nan, math.nan, "none"), "placebo")
            )
    names = ["metric", "arm", "minus", "seeds", *_names("difference"), *_names("placebo")]
    return pd.DataFrame(rows, columns=names)


def finals(table: "pd.DataFrame", arms: Mapping[str, ArmKind]) -> "pd.DataFrame":
    """Return each metric at the end of each arm, mean over seeds with its interval."""
    import pandas as pd

    rows = []
    for metric in compared_metrics(table):
        values = final_values(table, metric)
        for arm in arms:
            if arm in values:
                of_seeds = np.array(list(values[arm].values()))
                interval = (positive_interval if metric in QUANTITIES else mean_interval)(of_seeds)
                rows.append(
                    {"metric": metric, "arm": arm, "seeds": len(values[arm])} | _columns(interval, "mean")
                )
    return pd.DataFrame(rows, columns=["metric", "arm", "seeds", *_names("mean")])


def gradients(variances: "pd.DataFrame", arms: Mapping[str, ArmKind]) -> "pd.DataFrame":
    """Return each arm's gradient as last measured, by network, split and batches: variance, bias, mean square error.

    Means over seeds are geometric. Bias and mean square error are those of the last measurement with a reference.
    """
    import pandas as pd

    rows = []
    place = ["arm", "network", "split", "batches"]
    for where, group in variances.groupby(place, sort=False):
        row: dict[str, object] = {**dict(zip(place, where, strict=True)), "seeds": group["run"].nunique()}
        for name in QUANTITIES:
            last = (
                of_source(group, name).groupby("run", sort=False).tail(1)[name].dropna().to_numpy(dtype=float)
            )
            if len(last):
                row |= _columns(positive_interval(last), name)
        rows.append(row)
    columns = [*place, "seeds", *(column for name in QUANTITIES for column in _names(name))]
    frame = pd.DataFrame(rows, columns=columns)
    order = {name: i for i, name in enumerate([*arms, *NETWORKS, "train", "test", *BATCHES, REFERENCE])}
    return frame.sort_values(place, key=lambda column: column.map(order)).reset_index(drop=True)


def chains(data: ReportData) -> "pd.DataFrame":
    """Return how far each arm's stored chains can be trusted at the end of training, means over seeds.

    The share that stands still, how many began anew, and where a reference was measured l at their draws less E_1[l].
    """
    import pandas as pd

    last = data.training.sort_values("step", kind="stable").groupby("run", sort=False).tail(1)
    measured = data.variances.dropna(subset=[CHAIN_BIAS]).sort_values("step", kind="stable")
    measured = measured[measured["split"] == "train"].groupby("run", sort=False).tail(1)
    whole = last.merge(measured[["run", CHAIN_BIAS]], on="run", how="left")
    names = ["standing_chains", "restarted_chains", CHAIN_BIAS]
    whole[names] = whole[names].astype(float)
    frame = whole.groupby("arm", sort=False)[names].mean()
    frame.insert(0, "seeds", whole.groupby("arm", sort=False)["run"].nunique())
    frame = frame.reindex([arm for arm in data.arms if arm in frame.index]).dropna(how="all", subset=names)
    return pd.DataFrame(frame.reset_index())


def costs(table: "pd.DataFrame", arms: Mapping[str, ArmKind]) -> "pd.DataFrame":
    """Return what each arm spent on training: mean over runs that came to their end."""
    ends = table[(table["split"] == "test") & table["is_final"].astype(bool)]
    names = ["step", "epoch", "evaluations", "evaluations_per_image", "seconds"]
    names = [name for name in names if name in ends]
    frame = ends.groupby("arm", sort=False)[names].mean()
    frame.insert(0, "runs", ends.groupby("arm", sort=False)["run"].nunique())
    frame = frame.reindex([arm for arm in arms if arm in frame.index]).reset_index()
    return frame.rename(columns={"step": "steps", "epoch": "epochs"})


def contrasts(conclusions: Conclusions) -> "pd.DataFrame":
    """Return the contrasts that were named beforehand, with all their numbers."""
    import pandas as pd

    nothing = Interval(math.nan, math.nan, math.nan, "none")
    rows = [
        {
            "contrast": result.contrast.name,
            "a": result.contrast.a,
            "b": result.contrast.b,
            "metric": result.contrast.metric,
            "status": result.status,
            "seeds": len(result.differences),
            "seeds_needed": result.needed,
        }
        | _columns(result.interval or nothing, "difference")
        | {"p": result.p_value, "p_holm": result.adjusted, "detectable": result.detectable}
        | _columns(result.floor or nothing, "placebo")
        for result in conclusions.contrasts
    ]
    return pd.DataFrame(rows)


def all_tables(data: ReportData, conclusions: Conclusions) -> dict[str, "pd.DataFrame"]:
    """Return every table by the name of its CSV; empty ones are left out."""
    import pandas as pd

    tables = {
        "contrasts": contrasts(conclusions),
        "differences": differences(data.table, data.arms),
        "finals": finals(data.table, data.arms),
        "gradients": gradients(data.variances, data.arms),
        "chains": chains(data),
        "costs": costs(data.table, data.arms),
        "arms": data.arm_settings,
        "settings": pd.DataFrame(data.settings, columns=["setting", "value"]),
        "results": data.table,
        "variances": data.variances,
        "rungs": data.rungs,
        "parts": data.parts,
    }
    return {name: frame for name, frame in tables.items() if not frame.empty}


def _names(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _columns(interval: Interval, name: str) -> dict[str, int | str | float | None]:
    return dict(zip(_names(name), (interval.value, interval.low, interval.high), strict=True))
