"""What a plan computes, exactly."""
