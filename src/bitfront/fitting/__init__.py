"""The work of a run: what is explored, trained, exported, timed, chosen and delivered."""
