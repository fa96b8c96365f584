"""What clients, other servers, handlers and faults do to the service: each test is an attack on it from outside."""
