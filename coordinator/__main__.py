"""`python -m coordinator`: one node's front end. Started by the supervisor, which writes its ProcessSpec."""

from config.process.lean import leave_out_rich

leave_out_rich()

from coordinator.entry import main  # noqa: E402 (what it imports has to be told before)

main()
