"""Train a small model on 8x8 digits, load it back, and draw images from it: about ten seconds on two cores."""

from pathlib import Path

from thermograd.config.resolve import resolve
from thermograd.evaluation.evaluate import evaluate_run
from thermograd.runs.pictures import image_grid, save_png
from thermograd.runs.run import load_run
from thermograd.runs.train import train_run
from thermograd.training.samples import sample_images

config, requested = resolve("digits", overrides={"training.num_epochs": 5})
train_run(config, Path("runs/quickstart"), requested=requested)
run = load_run("runs/quickstart")
samples = sample_images(run.model, run.config.prior_chains, num_images=64, seed=0)
save_png(image_grid(samples.images), run.folder / "samples" / "quickstart.png")
print(evaluate_run(run).values["quantities"]["reconstruction_mean_square_error"])
