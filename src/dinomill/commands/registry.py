"""The registered model of an environment, and what its users call versions and aliases."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from dinomill import tracking
from dinomill.errors import InputError
from dinomill.layers import Layers, env_option
from dinomill.registration.config import RegistrationConfig, require_alias


@dataclass(frozen=True)
class Registry:
    """The registered model of an environment."""

    store: str
    name: str
    config: RegistrationConfig
    layers: Layers

    @classmethod
    def of(cls, env: str | None) -> Registry:
        """That of an environment of the project in the working directory."""
        layers = Layers(env)
        config = RegistrationConfig.parse(
            layers.parameters.get("registration", {}), where=layers.origin, prefix="registration"
        )
        store = tracking.resolve_uri(os.environ.get("MLFLOW_TRACKING_URI") or str(layers.globals["tracking_uri"]))
        return cls(store, config.name, config, layers)

    @property
    def option(self) -> str:
        """What a command that is shown needs at its end, to mean the same environment."""
        return env_option(self.layers.env)

    def version(self, said: str) -> tracking.RegisteredVersion:
        """The version that is meant by a number, an alias or an address.

        Raises:
            InputError: When it is none of these, another model's, or not there.
        """
        said = said.strip()
        if said.startswith("models:/"):
            address = said
        elif re.fullmatch(r"v?[0-9]{1,9}", said):
            address = f"models:/{self.name}/{int(said.removeprefix('v'))}"
        else:
            try:
                address = f"models:/{self.name}@{require_alias(said.removeprefix('@'))}"
            except ValueError:
                raise InputError(
                    f"{said!r} is no version.",
                    expected="a number, an alias, or models:/name/version",
                    action=f"`dinomill versions{self.option}` lists those of {self.name}",
                ) from None
        with tracking.store_at_work(self.layers.env, uri=self.store):
            found = tracking.resolve(address, self.store)
        if found.name != self.name:
            raise InputError(
                f"{address} is a version of another model.",
                found=found.name,
                expected=f"one of {self.name}, the registered model of this environment",
                action="name its environment with --env",
            )
        return found

    def alias(self, said: str | None) -> str:
        """The alias that is meant; by default the champion's.

        Raises:
            InputError: When MLflow would not take it.
        """
        try:
            return require_alias(said or self.config.aliases.champion)
        except ValueError as error:
            raise InputError(f"{said!r} cannot be an alias.", found=str(said), expected=str(error)) from None
