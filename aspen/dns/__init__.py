"""DNS: one pure answer pipeline, and the shells that carry it over UDP and TCP."""
