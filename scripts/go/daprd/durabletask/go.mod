// A stand-in for durabletask-go 0.12.4, the library under Dapr's workflow engine, of which a Go proxy may serve no version. It has the
// names that Dapr 1.18.3 uses, and does what the workflows of our tests need: timers, activities, child workflows, external events,
// continue-as-new, termination, purging. No rerun, no workflows of other apps, no signing of histories. api/protos is made by
// scripts/durabletask_protos.py.
module github.com/dapr/durabletask-go

go 1.26.6
