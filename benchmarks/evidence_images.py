"""Evidence of image models and of separated modes: our intervals against references, as docs/validation.md has them.

    python benchmarks/evidence_images.py                           # separated modes alone, minutes
    python benchmarks/evidence_images.py RUN --images 8 --first 0 --out pieces   # and --first 8, 16, 24

Images are taken in pieces, which are kept and not computed again; a table is of all pieces of a run that are there.

The reference of an image model shares with what it checks only the metric: four ladders per image start at bank draws,
are whitened by the Hessian at the best mode, exchange states, and give log p(x) by Bennett's ratios between rungs. It
counts where R-hat of the log-likelihood at t = 1 is below 1.05 and its own standard error below 0.5 nats.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from thermograd.evidence import Evidence, EvidenceSettings, estimate_evidence
from thermograd.evidence.modes import INFLATION, find_modes, mixture_at_modes
from thermograd.evidence.prior import run_prior
from thermograd.ladders.adapted import next_temperature
from thermograd.ladders.diagnostics import r_hat
from thermograd.models.latent_model import LatentModel
from thermograd.models.separated_modes import separated_modes
from thermograd.runs.run import load_run
from thermograd.samplers.kernel import select
from thermograd.samplers.replica_exchange import exchange
from thermograd.samplers.target import ChainState, Target
from thermograd.training.builder import batch_images

NUM_LADDERS, NUM_RUNGS, NUM_BURN_IN, NUM_STEPS = 4, 22, 500, 1500


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--first", type=int, default=0, help="the first training image of this piece")
    parser.add_argument("--out", type=Path, default=Path("evidence-pieces"), help="folder of the pieces")
    parser.add_argument("--repeats", type=int, default=40, help="runs on separated modes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | method | evaluations | rms error | intervals | hold the truth | rms of intervals |")
    print("|---|---|---|---|---|---|---|")
    if not arguments.runs:
        for method, budget in (("laplace", 600), ("smc", 900), ("thermodynamic", 1000)):
            settings = EvidenceSettings(method=method, num_evaluations=budget, num_bank=3200)
            found, truth = zip(*(modes(settings, seed) for seed in range(arguments.repeats)), strict=True)
            print(row("2-D modes", list(found), torch.cat(truth), torch.ones(16 * arguments.repeats).bool()))
    for folder in arguments.runs:
        image_model(folder, range(arguments.first, arguments.first + arguments.images), arguments.out)


def image_model(folder: Path, images: range, out: Path) -> None:
    """Compute one piece, of some training images of a run, and print the rows of all pieces of that run."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{folder.name}-{images.start:04}-{len(images)}.pt"
    if not path.exists():
        run, generator = load_run(folder), torch.Generator().manual_seed(2 + images.start)
        x = batch_images(run.config, run.data("train"), images, 0, torch.device("cpu"))
        truth, settled = reference(run.model.requires_grad_(False), x, generator)
        found = {
            (method, budget): estimate_evidence(
                run.model, x, EvidenceSettings(method=method, num_evaluations=budget), generator=generator
            )
            for method, budget in (
                ("laplace", 4000),
                ("laplace", 16_000),
                ("smc", 16_000),
                ("thermodynamic", 4000),
            )
        }
        torch.save({"truth": truth, "settled": settled, "found": found}, path)
    pieces = [torch.load(each, weights_only=False) for each in sorted(out.glob(f"{folder.name}-*.pt"))]
    truth, settled = (torch.cat([piece[name] for piece in pieces]) for name in ("truth", "settled"))
    print(f"{folder.name}: {int(settled.sum())} of {len(settled)} references have settled")
    for settings in pieces[0]["found"]:
        print(row(folder.name, [piece["found"][settings] for piece in pieces], truth, settled), flush=True)


def modes(settings: EvidenceSettings, seed: int) -> tuple[Evidence, Tensor]:
    """Return the evidence of 16 images with separated modes, and the truth."""
    model, twin, x = separated_modes(16, seed)
    found = estimate_evidence(model, x, settings, generator=torch.Generator().manual_seed(seed))
    return found, twin.log_evidence(x).detach()


def row(name: str, found: list[Evidence], truth: Tensor, settled: Tensor) -> str:
    """Return a line of the table."""
    value, low, high = (
        torch.cat([getattr(each, field) for each in found]) for field in ("log_evidence", "low", "high")
    )
    kept = torch.tensor([status == "interval" for each in found for status in each.status])
    judged, error = kept & settled, value - truth
    held = int(((low <= truth) & (truth <= high) & judged).sum())
    cost = sum(each.num_evaluations for each in found) / len(found)
    return (
        f"| {name} | {found[0].method} | {cost:.0f} | {rms(error[settled]):.2f} | {int(kept.sum())} of {len(kept)} "
        f"| {held} of {int(judged.sum())} | {rms(error[judged]):.2f} |"
    )


def rms(error: Tensor) -> float:
    """Return the root mean square."""
    return float(error.square().mean().sqrt())


def reference(model: LatentModel, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return log p(x) of each image from long whitened ladders, and whether it has settled."""
    prior = run_prior(model, 20_000, NUM_LADDERS, generator)
    table = torch.stack([model.log_likelihood_table(x, part) for part in prior.bank], 1)  # (N, R, B)
    first = next_temperature(table.flatten(0, 1), table.new_zeros(len(x)), 2000 / table[..., 0].numel())
    t = first.double() ** torch.linspace(1, 0, NUM_RUNGS, dtype=torch.float64).unsqueeze(-1)  # (K, B)
    picks = [
        (one * table).softmax(0).flatten(1).mT.multinomial(1, generator=generator).view(NUM_LADDERS, -1)
        for one in t
    ]
    at = torch.stack(picks)  # (K, R, B)
    target, columns = Target(model, x, 2048), t.to(x).unsqueeze(1)
    state = target.evaluate(torch.stack([part[at[:, r]] for r, part in enumerate(prior.bank)], 1))
    scale = metric(model, x, prior.bank, table, t)
    sizes, trace = torch.full_like(columns, model.latent_dim ** (-1 / 6)), []
    for step in range(NUM_BURN_IN + NUM_STEPS):
        state, acceptance = whitened_step(target, state, columns, sizes, scale, generator)
        if step < NUM_BURN_IN:
            sizes = sizes * torch.exp((acceptance.mean(1, keepdim=True) - 0.574) / (1 + step) ** 0.6)
        state, _, _ = exchange(state, columns, step % 2, generator)
        if step >= NUM_BURN_IN:
            trace.append(state.log_likelihood.double())
    values = torch.stack(trace)
    bank = (t[0] * table).double().logsumexp(0) - math.log(len(table))
    estimates = bank + bennett(values, t).sum(0)
    error = estimates.std(0) / NUM_LADDERS**0.5
    mean = estimates.logsumexp(0) - math.log(NUM_LADDERS)
    return mean, (r_hat(values[:, -1]) < 1.05) & (error < 0.5)


def metric(model: LatentModel, x: Tensor, bank: Tensor, table: Tensor, t: Tensor) -> Tensor:
    """Return A_t (K, 1, B, d, d), A_t A_t^T = (I + t (H - I))^-1 with H the curvature at the best of eight modes."""
    flat, best = bank.flatten(0, 1), table.transpose(0, 1).flatten(0, 1).topk(8, dim=0).indices
    target = Target(model, x, 2048)
    modes, density = find_modes(target, flat[best], 300)
    top = density.argmax(0).view(1, -1, 1).expand(1, -1, modes.shape[-1])
    mixture = mixture_at_modes(target, modes.gather(0, top), density.amax(0, keepdim=True))
    values, vectors = torch.linalg.eigh(torch.cholesky_inverse(mixture.scale[0]))
    widths = (1 + t.to(x)[..., None] * (INFLATION * values - 1).clamp(min=0)) ** -0.5
    return (vectors * widths.unsqueeze(-2)).unsqueeze(1)


def whitened_step(
    target: Target, state: ChainState, t: Tensor, h: Tensor, scale: Tensor, generator: torch.Generator
) -> tuple[ChainState, Tensor]:
    """Take a MALA step in coordinates y, z = A y; return the state and the acceptance probability."""
    turned = torch.einsum(
        "krbji,krbj->krbi", scale.expand(-1, state.position.shape[1], -1, -1, -1), state.score(t)
    )
    noise = torch.randn(turned.shape, generator=generator, dtype=turned.dtype)
    drift = h.square().unsqueeze(-1) / 2
    move = drift * turned + h.unsqueeze(-1) * noise
    wide = scale.expand(-1, state.position.shape[1], -1, -1, -1)
    proposal = target.evaluate(state.position + torch.einsum("krbij,krbj->krbi", wide, move))
    back = move + drift * torch.einsum("krbji,krbj->krbi", wide, proposal.score(t))
    log_ratio = proposal.log_density(t) - state.log_density(t)
    log_ratio += noise.square().sum(-1) / 2 - back.square().sum(-1) / (2 * h.square())
    log_ratio = log_ratio.nan_to_num(nan=-torch.inf)
    accept = torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype).log() < log_ratio
    return select(accept, proposal, state), log_ratio.clamp(max=0).exp()


def bennett(values: Tensor, t: Tensor) -> Tensor:
    """Return log Z_{k+1} - log Z_k by Bennett's ratio, (K - 1, R, B), from as many draws (S, K, R, B) of both rungs."""
    gaps = t.diff(dim=0).unsqueeze(1)
    lower, upper = gaps * values[:, :-1], gaps * values[:, 1:]
    low, high = torch.minimum(lower, upper).amin(0), torch.maximum(lower, upper).amax(0)
    for _ in range(50):
        middle = (low + high) / 2
        more = (lower - middle).sigmoid().mean(0) > (middle - upper).sigmoid().mean(0)
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (low + high) / 2


if __name__ == "__main__":
    main()
