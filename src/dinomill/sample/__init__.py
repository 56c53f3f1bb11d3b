"""The embedded sample: what a team really has, laid out from a shipped part of Fashion-MNIST."""

from dinomill.sample.config import SampleConfig, full_config
from dinomill.sample.fashion_mnist import fetch_full
from dinomill.sample.layout import lay_out

__all__ = ["SampleConfig", "fetch_full", "full_config", "lay_out"]
