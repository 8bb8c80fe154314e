"""The model card: front matter that the hub reads, and a page on the model, what was measured of it, and its limits."""

from collections.abc import Iterator
from typing import Any

import yaml

from thermograd.data.catalogue import CATALOGUE
from thermograd.evaluation.records import Record, read_records
from thermograd.runs.run import Run
from thermograd.version import __version__

QUANTITIES = {
    "reconstruction_mean_square_error": "reconstruction, mean square error",
    "log_evidence": "log p(x)",
}
DISTANCES = {"frechet": "Fréchet distance", "kernel": "kernel distance"}


def model_card(run: Run, name: str, licence: str | None = None) -> str:
    """Return README.md of a shared model: what it learnt, how, what was measured with which error, and its limits."""
    config = run.config
    records = [each for each in read_records(run.folder, "evaluation") if each.step == run.checkpoint.step]
    rows = [row for record in records[-1:] for row in _rows(record)]
    front = {
        "library_name": "thermograd",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["thermograd", "energy-based-model", "latent-variable-model", "image-generation"],
        "datasets": [config.data.name],
        **({"license": licence} if licence else {}),
        **({"model-index": [{"name": name, "results": [_result(row) for row in rows]}]} if rows else {}),
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n".join(_page(run, name, rows, records[-1:]))


def _page(run: Run, name: str, rows: list[dict[str, Any]], records: list[Record]) -> Iterator[str]:
    config = run.config
    shape = "x".join(map(str, config.model.image_shape))
    known = CATALOGUE.get(config.data.name) if config.data.path is None else None
    terms = f" ({known.title}; {known.licence})" if known else " (images of its owner)"
    yield f"# {name}\n"
    yield f"A latent space energy-based prior model of {shape} images with {config.model.latent_dim} latent numbers,"
    yield f"trained on {config.data.name}{terms} by thermograd {__version__}.\n"
    yield "![Samples](samples.png)\n\n*The first 64 samples of seed 0, none left out.*\n"
    yield "## Use\n\n```python\nimport thermograd as tg\n"
    trust = ", trust_plugins=True" if config.plugins else ""
    yield f'shared = tg.load_pretrained("OWNER/{name}"{trust})  # or a folder'
    sizes = ", ".join(map(str, config.model.image_shape))
    yield f"images = shared.sample(64).images  # (64, {sizes}) in [-1, 1]\n```\n"
    if config.plugins:
        yield "Its networks are code of its own, in `plugins/`: read it before you trust it.\n"
    yield from _training(run)
    yield "\n## Measured\n"
    if rows:
        yield "| quantity | value | standard error | on |\n|---|---|---|---|"
        yield from (f"| {r['name']} | {r['value']:.5g} | {_error(r['error'])} | {r['on']} |" for r in rows)
        yield "\nA distance holds for its feature network and its counts alone; the floor is that of two halves of"
        yield "the reference."
    else:
        yield "Nothing was measured at this checkpoint."
    yield "\n## Limits\n"
    yield "- It draws images like those of its training set, in that size; they may resemble single training images."
    if config.prior_chains.is_short_run:
        yield "- Its prior was trained by short chains from the base distribution: samples are right for that sampler,"
        yield "  and log p(x) is about the density of the energy, which is another."
    for record in records:
        for each in record.values.get("quantities", {}).get("log_evidence", {}).get("warnings", ()):
            yield f"- log p(x): {each['text']}"
    yield "- The licence of the data set applies beside that of the weights.\n"


def _training(run: Run) -> Iterator[str]:
    config = run.config
    posterior, prior = config.posterior_chains, config.prior_chains
    yield "## Training\n\n| | |\n|---|---|"
    yield f"| estimator | {config.gradient.estimator}, prior rule {config.gradient.prior_rule} |"
    yield f"| length | {run.checkpoint.step} steps of {config.training.batch_size} images, seed {config.seed} |"
    yield f"| posterior chains | {posterior.kernel}, {posterior.num_steps} steps, start {posterior.start} |"
    yield f"| prior chains | {prior.kernel}, {prior.num_steps} steps, start {prior.start} |"
    yield f"| settings | `config.json`, identity {config.identity} |"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    split = f"{record.dataset}:{record.split}"
    for key, words in QUANTITIES.items():
        found = record.values.get("quantities", {}).get(key)
        if found and found.get("value") is not None:
            count = found.get("num_images", record.settings.get("num_images"))
            yield {
                **{"type": key, "name": f"{words} ({found['unit']})", "value": found["value"]},
                **{
                    "error": found.get("standard_error"),
                    "on": f"{count} images of {split}",
                    "record": record,
                },
            }
    for each in record.values.get("distances") or ():
        words = ("floor of the " if each["is_floor"] else "") + DISTANCES.get(
            each["distance"], each["distance"]
        )
        on = f"{each['num_fake']} against {each['num_reference']} images of {each['reference']}, {each['extractor']}"
        yield {
            **{
                "type": each["name"],
                "name": words,
                "value": each["value"],
                "error": each.get("standard_error"),
            },
            **{"on": on, "record": record, "is_floor": each["is_floor"]},
        }


def _result(row: dict[str, Any]) -> dict[str, Any]:
    record: Record = row["record"]
    metric = {"type": row["type"], "value": row["value"], "name": f"{row['name']}, {row['on']}"}
    data = {"type": record.dataset, "name": record.dataset, "split": record.split}
    if row["error"] is not None:
        metric["args"] = {"standard_error": row["error"]}
    return {"task": {"type": "unconditional-image-generation"}, "dataset": data, "metrics": [metric]}
