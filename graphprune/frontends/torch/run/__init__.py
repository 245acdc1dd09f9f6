"""Running modules and graphs: the masked original, spans, random numbers under control."""
