"""A decoder of your own: trained in memory, one plot, log p(x) with its error, the variance of two estimators."""

from torch import nn

import thermograd as tg

x = tg.load_dataset("mnist-5k").to_tensor(1000)
decoder = nn.Sequential(
    nn.Linear(8, 128), nn.SiLU(), nn.Linear(128, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28))
)
energy = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1), nn.Flatten(-2))
model = tg.LatentEBM(energy, decoder, latent_dim=8, image_shape=(1, 28, 28))
tg.plots.learning_curve(tg.fit(model, x, num_epochs=10)).figure.savefig("learning_curve.png")
print(tg.estimate_evidence(model, x[:10]))
print(tg.gradient_variance(model, x[:64].split(16), ["maximum-likelihood", "thermodynamic-detached"]))
