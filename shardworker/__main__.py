"""`python -m shardworker`: one replica of one shard. Started by the supervisor, which writes its ProcessSpec."""

from shardworker.entry import main

main()
