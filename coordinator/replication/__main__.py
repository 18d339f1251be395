"""`python -m coordinator.replication`: a node's replicator. Started by the supervisor, which writes its ProcessSpec."""

import gc

gc.disable()  # until main() lets it look, rarely

from config.process.lean import leave_out_rich  # noqa: E402 (what is imported lives to the end)

leave_out_rich()

from coordinator.replication.entry import main  # noqa: E402 (what it imports has to be told before)

main()
