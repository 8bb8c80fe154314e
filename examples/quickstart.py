"""Train a small model on 8x8 digits, look at its samples, and measure it: about twenty seconds on two cores."""

import thermograd as tg

run = tg.train("digits", "runs/quickstart", training={"num_epochs": 5})
axes = tg.plots.images(run.sample(64).images)
axes.figure.savefig(run.folder / "samples" / "quickstart.png")
print(tg.estimate_evidence(run.model, run.images("test", 10)).log_evidence)
