"""`python -m tests.integration.newer_coordinator`: a coordinator of a build that is not there yet (newer_build.py)."""

from __future__ import annotations

if __name__ == "__main__":
    from config.process.lean import leave_out_rich

    leave_out_rich()

    from coordinator.entry import main
    from tests.integration.newer_build import speak_newer

    speak_newer()
    main()
