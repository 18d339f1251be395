"""`python -m coordinator.replication`: a node's replicator. Started by the supervisor, which writes its ProcessSpec."""

from coordinator.replication.entry import main

main()
