"""Reports to test with."""

from typing import Final

from hypothesis import strategies as st

from otel_fastperf import CallSite, Finding, Kind, Report, RouteVerdict, Severity, WorkerVerdict

texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)

N_PLUS_ONE: Final = Finding(
    kind=Kind.N_PLUS_ONE,
    severity=Severity.CRITICAL,
    subject="Order.items",
    message="'SELECT items' ran 50 times, 0.385 s in total: Order.items is loaded separately for each Order.",
    remedy="Load all of them at once: select(Order).options(selectinload(Order.items)).",
    evidence={
        "repeats": 50,
        "seconds": 0.385,
        "share": 0.81,
        "db.query.summary": "SELECT items",
        "db.query.text": "SELECT items.id, items.name FROM items WHERE items.order_id = ?" * 4,
        "frames": ("orders.py:41", "main.py:7"),
        "new_connection": False,
    },
    call_site=CallSite("/srv/shop/orders.py", 41, "list_orders"),
    seconds=38.5,
    route="/orders",
    method="GET",
    first_seen=1_700_000_000.0,
    last_seen=1_700_000_060.0,
    count=100,
    trace_ids=("4bf92f3577b34da6a3ce929d0e0e4736",),
)

GROWTH: Final = Finding(
    kind=Kind.MEMORY_GROWTH,
    severity=Severity.WARNING,
    subject="shop.cache.SEEN",
    message="Memory grows by 12.0 MiB a minute.",
    remedy="bound it: cachetools.LRUCache(maxsize=…)",
    first_seen=1_700_000_000.0,
    last_seen=1_700_000_030.0,
)

ORDERS: Final = RouteVerdict(
    method="GET",
    route="/orders",
    requests=1234,
    errors=0,
    seconds=48.0,
    p50=0.034,
    p95=0.12,
    p99=0.31,
    statements=51.0,
    segments={"db": 30.0, "pool_wait": 9.0, "handler": 6.0, "serialization": 3.0},
    sentence="62 % database, 19 % waiting for a connection; n_plus_one at shop/orders.py:41",
)

PAY: Final = RouteVerdict(
    method="POST",
    route="/orders/{order_id}/pay",
    requests=10,
    errors=2,
    seconds=1.0,
    p50=0.005,
    p95=10.0,
    statements=3.0,
    segments={"handler": 0.9, "db": 0.1},
    sentence="90 % the endpoint itself",
)

WORKER: Final = WorkerVerdict(
    pid=4711,
    uptime_seconds=60.0,
    requests_per_second=20.7,
    loop_utilization=0.62,
    loop_lag_p50=0.001,
    loop_lag_p99=0.21,
    blocked_seconds={"sync_io": 3.2, "cpu": 0.4},
    threads_limit=40,
    threads_borrowed=3,
    threads_waiting=0,
    resident_bytes=143 * 1024 * 1024,
    unique_bytes=120 * 1024 * 1024,
    headroom_bytes=300 * 1024 * 1024,
    gc_share=0.004,
    statements_per_second=1050.0,
    sentence="Code held the event loop for 3.6 s (sync_io 3.2 s, cpu 400 ms)",
)

SHOP: Final = Report(
    service="shop",
    versions={"otel-fastperf": "0.1.0", "python": "3.11.7"},
    made_at=1_700_000_061.0,
    worker=WORKER,
    routes=(ORDERS, PAY),
    findings=(N_PLUS_ONE, GROWTH),
    troubles={"dropped_queue_full": 12.0},
)
