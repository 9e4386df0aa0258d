"""raftsched: a replicated job scheduler, a drop-in for the Dapr Scheduler, over a store that speaks the etcd v3 API."""
