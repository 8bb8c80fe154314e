"""Models for others: a folder with a config, weights and a model card, here or on the hub.

run.save_pretrained("shared/digits")
run.push("me/digits")
shared = tg.load_pretrained("me/digits")
shared.sample(64).images
"""

from thermograd.sharing.export import push, save_pretrained
from thermograd.sharing.load import Pretrained, load_pretrained

__all__ = ["Pretrained", "load_pretrained", "push", "save_pretrained"]
