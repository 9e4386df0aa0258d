// Package dedup finds in a history what has ended already.
package dedup

import "github.com/dapr/durabletask-go/api/protos"

// Kind of what ends.
type Kind int

const (
	KindTask Kind = iota
	KindTimer
	KindChildWorkflow
)

// Of tells what `event` ends, if it ends anything.
func Of(event *protos.HistoryEvent) (Kind, int32, bool) {
	switch {
	case event.GetTaskCompleted() != nil:
		return KindTask, event.GetTaskCompleted().GetTaskScheduledId(), true
	case event.GetTaskFailed() != nil:
		return KindTask, event.GetTaskFailed().GetTaskScheduledId(), true
	case event.GetChildWorkflowInstanceCompleted() != nil:
		return KindChildWorkflow, event.GetChildWorkflowInstanceCompleted().GetTaskScheduledId(), true
	case event.GetChildWorkflowInstanceFailed() != nil:
		return KindChildWorkflow, event.GetChildWorkflowInstanceFailed().GetTaskScheduledId(), true
	case event.GetTimerFired() != nil:
		return KindTimer, event.GetTimerFired().GetTimerId(), true
	}
	return 0, 0, false
}

// IsPresent tells whether an event of `history` ends it.
func IsPresent(history []*protos.HistoryEvent, kind Kind, id int32) bool {
	for _, event := range history {
		if k, i, ok := Of(event); ok && k == kind && i == id {
			return true
		}
	}
	return false
}
