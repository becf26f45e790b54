"""What ties a budget to others' programs: each module is imported by whoever wants it, none by mppool itself."""
