"""The cluster file: its models, how it is read, and what follows from it (placement, addresses, folders).

An entry point calls `load` once and hands sub-models down; a child process gets the whole as a
`ProcessSpec`."""

from config.access import AuthConfig, FollowsConfig, JwtConfig
from config.loading import load, load_draft, load_with_files
from config.models import (
    ClusterConfig,
    LimitsConfig,
    NodeConfig,
    RaftConfig,
    StoreConfig,
    SupervisorConfig,
    TableConfig,
)
from config.problems import ConfigError, Problem
from config.process.spec import ProcessSpec

__all__ = [
    "AuthConfig",
    "ClusterConfig",
    "ConfigError",
    "FollowsConfig",
    "JwtConfig",
    "LimitsConfig",
    "NodeConfig",
    "Problem",
    "ProcessSpec",
    "RaftConfig",
    "StoreConfig",
    "SupervisorConfig",
    "TableConfig",
    "load",
    "load_draft",
    "load_with_files",
]
