"""The cluster file: its models, how it is read, and what follows from it (placement, addresses, folders).

An entry point calls `load` (config/loading.py) once and hands sub-models down; a child process gets the whole as a
`ProcessSpec`, and does without what reads files."""

from config.access import AuthConfig, FollowsConfig, JwtConfig
from config.models import ClusterConfig, NodeConfig, TableConfig
from config.problems import ConfigError, Problem
from config.process.spec import ProcessSpec
from config.tuning import LimitsConfig, RaftConfig, StoreConfig, SupervisorConfig

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
]
