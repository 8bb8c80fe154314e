"""The words of a report: names of metrics, numbers, and a sentence for each conclusion."""

import math

from thermograd.reports.association import Association
from thermograd.reports.contrasts import ContrastResult
from thermograd.reports.statistics import LARGEST_EXACT, Interval

LABELS = {
    "log_evidence": "log-evidence (nats per image)",
    "reconstruction_mean_square_error": "reconstruction error",
    "log_likelihood_at_posterior_draws": "log-likelihood at posterior draws (nats)",
    "energy_posterior": "energy of posterior draws (nats)",
    "energy_prior": "energy of prior draws (nats)",
    "distance_to_nearest_training_image_samples": "distance of samples to the nearest training image",
    "normalised_variance": "normalised gradient variance",
    "total_variance": "gradient variance",
    "standing_chains": "share of stored chains that stand still",
    "restarted_chains": "stored chains that began anew",
    "log_likelihood_bias": "l − E₁[l] of chains (nats)",
    "relative_squared_bias": "relative squared bias of the gradient",
}
DISTANCES = {
    "kd-": "kernel distance",
    "fd-infinity-": "Fréchet distance at infinity",
    "fd-": "Fréchet distance",
}
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
LOWER_IS_BETTER = ("distance:", "reconstruction_mean_square_error")
HIGHER_IS_BETTER = ("log_evidence", "log_likelihood_at_posterior_draws")


def label(metric: str) -> str:
    """Return a metric in words."""
    if metric.startswith("distance:"):
        name = metric.removeprefix("distance:")
        for prefix, words in DISTANCES.items():
            if name.startswith(prefix):
                return f"{words} ({name.removeprefix(prefix)})"
        return name
    return LABELS.get(metric, metric.replace("_", " "))


def capital(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """Return a number as the report prints it: three digits, a real minus sign."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) >= 1e7 or abs(value) < 1e-4):
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    else:
        digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
    return text.replace("-", "−")


def contrast_sentence(result: ContrastResult) -> str:
    """Return what became of a contrast, with its numbers and the noise floor beside them."""
    c, interval, seeds = result.contrast, result.interval, len(result.differences)
    if interval is None:
        return (
            f"{c.name}: {label(c.metric)} was not measured at the end of both {c.a} and {c.b} for any seed."
        )
    ends = f"95 % interval {number(interval.low)} to {number(interval.high)}, {seeds} paired seeds"
    if not math.isfinite(interval.low):
        ends = "a single seed, so no interval" if seeds == 1 else f"{seeds} seeds, too few for an interval"
    size, direction = number(abs(interval.value)), "higher" if interval.value > 0 else "lower"
    said = f"{label(c.metric)} of {c.a} is {size} {direction} than that of {c.b} ({ends}"
    kind = "exact sign-flip test" if seeds <= LARGEST_EXACT else "sign-flip test"
    test = f"{kind} of symmetry, p = {_p(result.adjusted)} after Holm's correction"
    if math.isfinite(result.log_p_value):
        test += f"; of ratios, on the log scale, p = {_p(result.log_p_value)} uncorrected"
    if result.status == "confirmed":
        text = f"{c.name}: {said}; {test}){_verdict(c.metric, interval.value)}."
    elif result.status == "no difference found":
        text = (
            f"{c.name}: no difference found between {c.a} and {c.b} in {label(c.metric)}: the mean difference is "
            f"{number(interval.value)} ({ends}; {test}). {_could_have_been(result.detectable)}"
        )
    else:
        text = f"{c.name}: {said}). Exploratory: {result.reason}."
    return f"{text} {_floor_sentence(result.floor)}"


def better_or_worse(metric: str, difference: float) -> str:
    """Return which a difference is, "" for a metric that is neither."""
    if metric.startswith(LOWER_IS_BETTER):
        return "worse" if difference > 0 else "better"
    if metric in HIGHER_IS_BETTER:
        return "better" if difference > 0 else "worse"
    return ""


def _verdict(metric: str, difference: float) -> str:
    which = better_or_worse(metric, difference)
    return f", which is {which}" if which else ""


def _could_have_been(detectable: float) -> str:
    if not math.isfinite(detectable):
        return "With so few seeds no difference, however large, could have been found."
    return f"A difference of {number(detectable)} or more would have been found in four of five such studies."


def _floor_sentence(floor: Interval | None) -> str:
    if floor is None:
        return "There is no placebo to say how far apart two vanilla runs are."
    if not math.isfinite(floor.low):
        return f"The placebo differs from vanilla by {number(floor.value)} (too few seeds for an interval)."
    return (
        f"The placebo, which differs from vanilla by chance alone, differs by {number(floor.value)} "
        f"({number(floor.low)} to {number(floor.high)})."
    )


def _p(value: float) -> str:
    return "less than 0.001" if value < 0.001 else f"{value:.3f}"


def association_sentence(found: Association, metric: str, given_bias: bool, is_found: bool) -> str:
    """Return whether distance goes with variance, with its numbers."""
    given = "arm, epoch and bias" if given_bias else "arm and epoch (bias was not measured)"
    about = f"the variance of the gradient and the {label(metric)}, given {given}"
    if not math.isfinite(found.correlation):
        if found.num_blocks >= 3 and found.num_cells:
            return f"An association between {about} cannot be told: one of them does not vary."
        return (
            f"An association between {about} takes at least 3 seeds with both at one arm and epoch; "
            f"{found.num_blocks} seeds have both."
        )
    interval = (
        f", 95 % interval {number(found.low)} to {number(found.high)}" if math.isfinite(found.low) else ""
    )
    numbers = (
        f"partial correlation {number(found.correlation)}{interval}; permutation of {found.num_blocks} seeds, "
        f"p = {_p(found.p_value)}; exploratory"
    )
    if not is_found:
        few = " With fewer than 5 seeds none could be found at 1 %." if found.num_blocks < 5 else ""
        return f"No association found between {about} ({numbers}).{few}"
    which = "larger" if found.correlation > 0 else "smaller"
    return (
        f"Within an arm and epoch, runs whose gradient has more variance have a {which} {label(metric)}: "
        f"an association between {about} ({numbers})."
    )
