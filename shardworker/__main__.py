"""`python -m shardworker`: one replica of one shard. Started by the supervisor, which writes its ProcessSpec."""

from shardworker.worker import main

main()
