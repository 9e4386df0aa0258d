// Package runtimestate is a workflow's state as its history makes it.
package runtimestate

import (
	"errors"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var errNotStarted = errors.New("the workflow has not started")

func NewWorkflowRuntimeState(id string, status *wrapperspb.StringValue, history []*protos.HistoryEvent) *protos.WorkflowRuntimeState {
	s := &protos.WorkflowRuntimeState{InstanceId: id, CustomStatus: status}
	for _, event := range history {
		apply(s, event)
		s.OldEvents = append(s.OldEvents, event)
	}
	return s
}

func AddEvent(s *protos.WorkflowRuntimeState, event *protos.HistoryEvent) error {
	if event.GetExecutionStarted() != nil && s.StartEvent != nil {
		return errors.New("the workflow has started already")
	}
	apply(s, event)
	s.NewEvents = append(s.NewEvents, event)
	return nil
}

func apply(s *protos.WorkflowRuntimeState, event *protos.HistoryEvent) {
	switch {
	case event.GetExecutionStarted() != nil:
		s.StartEvent, s.CreatedTime = event.GetExecutionStarted(), event.GetTimestamp()
	case event.GetExecutionCompleted() != nil:
		s.CompletedEvent, s.CompletedTime = event.GetExecutionCompleted(), event.GetTimestamp()
	case event.GetExecutionSuspended() != nil:
		s.IsSuspended = true
	case event.GetExecutionResumed() != nil:
		s.IsSuspended = false
	}
	s.LastUpdatedTime = event.GetTimestamp()
}

func IsCompleted(s *protos.WorkflowRuntimeState) bool { return s.GetCompletedEvent() != nil }

func RuntimeStatus(s *protos.WorkflowRuntimeState) api.OrchestrationStatus {
	switch {
	case s.GetStartEvent() == nil:
		return protos.OrchestrationStatus_ORCHESTRATION_STATUS_PENDING
	case s.GetIsSuspended():
		return protos.OrchestrationStatus_ORCHESTRATION_STATUS_SUSPENDED
	case s.GetCompletedEvent() != nil:
		return s.GetCompletedEvent().GetWorkflowStatus()
	}
	return protos.OrchestrationStatus_ORCHESTRATION_STATUS_RUNNING
}

func Name(s *protos.WorkflowRuntimeState) (string, error) {
	if s.GetStartEvent() == nil {
		return "", errNotStarted
	}
	return s.GetStartEvent().GetName(), nil
}

func Input(s *protos.WorkflowRuntimeState) (*wrapperspb.StringValue, error) {
	if s.GetStartEvent() == nil {
		return nil, errNotStarted
	}
	return s.GetStartEvent().GetInput(), nil
}

func Output(s *protos.WorkflowRuntimeState) (*wrapperspb.StringValue, error) {
	if s.GetCompletedEvent() == nil {
		return nil, api.ErrNotCompleted
	}
	return s.GetCompletedEvent().GetResult(), nil
}

func FailureDetails(s *protos.WorkflowRuntimeState) (*protos.TaskFailureDetails, error) {
	if s.GetCompletedEvent() == nil {
		return nil, api.ErrNotCompleted
	}
	return s.GetCompletedEvent().GetFailureDetails(), nil
}

func CreatedTime(s *protos.WorkflowRuntimeState) (time.Time, error) {
	return moment(s.GetCreatedTime())
}

func LastUpdatedTime(s *protos.WorkflowRuntimeState) (time.Time, error) {
	return moment(s.GetLastUpdatedTime())
}

func CompletedTime(s *protos.WorkflowRuntimeState) (time.Time, error) {
	return moment(s.GetCompletedTime())
}

func moment(at *timestamppb.Timestamp) (time.Time, error) {
	if at == nil {
		return time.Time{}, errNotStarted
	}
	return at.AsTime(), nil
}

// GetStartedTime is when its code ran first: zero before that.
func GetStartedTime(s *protos.WorkflowRuntimeState) time.Time {
	for _, events := range [][]*protos.HistoryEvent{s.GetOldEvents(), s.GetNewEvents()} {
		for _, event := range events {
			if event.GetWorkflowStarted() != nil {
				return event.GetTimestamp().AsTime()
			}
		}
	}
	return time.Time{}
}

func AssembleProtoPropagatedHistory(
	*protos.WorkflowRuntimeState, protos.HistoryPropagationScope, *protos.PropagatedHistory, string,
) (*protos.PropagatedHistory, error) {
	return nil, errors.New("the propagation of histories is not in this build")
}
