"""A build of the next version, as far as replicas can tell: it applies one machine level more."""

from __future__ import annotations

from typing import Final

from shardworker.machine import REGISTRY, Registry

NEWER: Final = Registry(REGISTRY.level + 1, REGISTRY.handlers)
