"""Log records and findings by OTLP.

handler     a handler of the standard library's root logger, and what it makes of a record
events      findings as events
pipeline    the SDK's way out: queue, batches, exporter
"""
