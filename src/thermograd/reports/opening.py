"""What a report begins with: what was compared, objective by objective, and the answer in one sentence."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thermograd.config import names
from thermograd.reports.collect import ReportData, objective
from thermograd.reports.conclusions import Conclusions, final_values
from thermograd.reports.contrasts import ContrastResult
from thermograd.reports.drawing import floors
from thermograd.reports.style import looks
from thermograd.reports.words import better_or_worse, capital, label, number
from thermograd.study.run import StudyRun


@dataclass(frozen=True)
class Arm:
    """An arm in words: its name, its colour in every figure, and how it learns."""

    name: str
    colour: str
    words: str


@dataclass(frozen=True)
class Opening:
    """The first screen of a report.

    Attributes:
        subject: data, network, seeds and length of the runs.
        objectives: what is ascended -> the arms that ascend it.
        answer: one sentence.
    """

    subject: str
    objectives: dict[str, list[Arm]]
    answer: str


def opening(data: ReportData, conclusions: Conclusions) -> Opening:
    """Return what a report begins with."""
    colours, objectives = looks(data.arms), dict[str, list[Arm]]()
    firsts = {run.arm: run for run in reversed(data.source.runs)}
    for arm in data.arms:
        run = firsts[arm]
        words = Arm(arm, colours[arm].colour, arm_words(run.config))
        objectives.setdefault(objective(run.config["gradient"]["estimator"]), []).append(words)
    answer = run_answer(data, conclusions) if data.source.study is None else study_answer(data, conclusions)
    return Opening(_subject(data, firsts), objectives, answer)


def arm_words(config: Mapping[str, Any]) -> str:
    """Return in words how an arm learns: its estimator, its chains and its rungs."""
    gradient, chains = config["gradient"], config["posterior_chains"]
    facts = names.ESTIMATORS.get(gradient["estimator"])
    parts = [gradient["estimator"] + (f", {facts.summary}" if facts is not None and facts.summary else "")]
    num = gradient["num_chains"]
    steps = f"{chains['num_steps']} step{'s' * (chains['num_steps'] != 1)} of {chains['kernel'].upper()}"
    chain_words = f"{num} chain{'s' * (num != 1)} of {steps}"
    if gradient["num_rungs"] > 2:
        schedule = gradient["schedule"]
        kind = f"(k/N)^{schedule['power']:g}" if schedule["kind"] == "power" else schedule["kind"]
        chain_words += f" on each of {gradient['num_rungs']} rungs, {kind}"
    start = names.POSTERIOR_STARTS.get(chains["start"])
    parts += [chain_words, f"their start: {chains['start'] if start is None else start.summary}"]
    if gradient["noise_multiplier"]:
        parts.append(f"noise of {gradient['noise_multiplier']:g} times the chains' own added to the gradient")
    return "; ".join(parts)


def _subject(data: ReportData, firsts: Mapping[str, StudyRun]) -> str:
    table = data.table
    models = [
        f"{n}, {d} latent numbers" for n, d in dict.fromkeys(zip(table["network"], table["latent_dim"]))
    ]
    run = next(iter(firsts.values()))
    seeds = sorted({each.seed for each in data.source.runs})
    steps = sorted({each.num_steps for each in firsts.values()})
    words = f"{run.num_images:,} training images of {table['dataset'].iloc[0]}; {' and '.join(models)}; "
    words += f"{len(seeds)} seeds per arm" if len(seeds) > 1 else f"seed {seeds[0]}"
    length = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return f"{words}; {length} steps of {run.config['training']['batch_size']} images."


# --- the answer ---


def study_answer(data: ReportData, conclusions: Conclusions) -> str:
    """Return what a study answers, in one sentence: its contrasts, or the ends of its arms; then the association."""
    clauses = [_clause(result) for result in conclusions.contrasts] or [_ends(data, conclusions)]
    found = conclusions.association
    if found.found and found.association is not None and found.metric is not None:
        which = "larger" if found.association.correlation > 0 else "smaller"
        clauses.append(
            f"within an arm and step, runs with more gradient variance have a {which} {label(found.metric)}"
        )
    elif found.association is not None and math.isfinite(found.association.correlation):
        clauses.append("within an arm and step no association of gradient variance and distance was found")
    return f"{capital('; '.join(clause for clause in clauses if clause))}."


def _clause(result: ContrastResult) -> str:
    contrast, interval = result.contrast, result.interval
    if interval is None:
        return f"{contrast.a} against {contrast.b} was not measured yet"
    if result.status == "no difference found":
        return f"no difference in {label(contrast.metric)} was found between {contrast.a} and {contrast.b}"
    direction = "higher" if interval.value > 0 else "lower"
    verdict = better_or_worse(contrast.metric, interval.value)
    seeds = f"{len(result.differences)} paired seed{'s' * (len(result.differences) != 1)}"
    standing = f"confirmed over {seeds}" if result.status == "confirmed" else f"over {seeds}, not confirmed"
    return (
        f"the {label(contrast.metric)} of {contrast.a} is {number(abs(interval.value))} {direction} than that of "
        f"{contrast.b}{f', which is {verdict}' if verdict else ''} ({standing})"
    )


def _ends(data: ReportData, conclusions: Conclusions) -> str:
    """Return which arms end lowest and highest in the main distance, where no contrast was named."""
    metric = conclusions.association.metric
    values = final_values(data.table, metric) if metric else {}
    means = {arm: sum(each.values()) / len(each) for arm, each in values.items() if each}
    if metric is None or len(means) < 2:
        return "no contrast was named, and no distance compares the arms"
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return (
        f"{low} ends with the smallest {label(metric)}, {number(means[low])}, and {high} with the largest, "
        f"{number(means[high])}; no contrast was named beforehand, so none of this is confirmed"
    )


def run_answer(data: ReportData, conclusions: Conclusions) -> str:
    """Return where one run stands at its last measured step: its distance, and what its gradient's variance is of."""
    metric = conclusions.association.metric
    ends = data.table[data.table["is_final"].astype(bool) & (data.table["split"] == "test")]
    row = ends.iloc[-1]
    clauses = []
    if metric is not None and math.isfinite(row[metric]):
        floor = floors(data, metric).get("test", math.nan)
        beside = f", where real images score {number(floor)}" if math.isfinite(floor) else ""
        clauses.append(f"the {label(metric)} of samples to the test images is {number(row[metric])}{beside}")
    total, chains = row.get("total_variance", math.nan), row.get("chain_variance", math.nan)
    if total > 0:
        share = f", {100 * min(max(chains / total, 0), 1):.0f} % of it from the chains"
        clauses.append(f"the variance of its gradient is {number(total)}{share}")
    if not clauses:
        clauses.append(f"the reconstruction error is {number(row['reconstruction_mean_square_error'])}")
    return f"After {row['step']:,} steps (epoch {row['epoch']}) {' and '.join(clauses)}."
