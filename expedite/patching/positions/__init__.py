"""Where clusters stand, in tables of relative positions and in rotary ones."""
