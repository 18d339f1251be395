"""`python -m coordinator`: one node's front end. Started by the supervisor, which writes its ProcessSpec."""

from coordinator.entry import main

main()
